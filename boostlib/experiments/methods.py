"""The methods that a section compares, each made from the same preset with the same number of optimizer steps.

rotate     BoostLoRA: the next block of directions each round, trained on failures
greedy     the same rounds, each group in the block and with the P that the failures' gradient favours; ours, not the
           paper's, and each round pays for its probing batches on top
top        the same rounds, always in the top block (the paper's ablation)
monolithic one adapter over all directions of all rounds at once, as many parameters as one round, one long round on the
           failures (the paper's ablation)
tinylora   one adapter in the top block, one long round on the whole training set
lora       PEFT's LoRA of rank 1 on the same modules, one long round on the whole training set
full       all weights, one long round on the whole training set

The last two are the usual baselines: the same trainer, task, scores and ledger, one "round" on the whole training set,
as the paper's baselines have it. What they train (135 million numbers of SmolLM2, or 305 thousand at LoRA rank 1) is
not kept in the ledger, so they cannot be replayed; save the model where it is wanted.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from boostlib.adapter import STRATEGIES
from boostlib.analysis.recorded import METHODS
from boostlib.basis import target_modules
from boostlib.boost import boost
from boostlib.common import world
from boostlib.common.errors import BoostError, RunError
from boostlib.common.stable import fingerprint_tensors
from boostlib.config import check_identity, environment, round_seed
from boostlib.evaluation.scoring import base_row, fixed_and_broken, score_splits
from boostlib.experiments.presets import Preset
from boostlib.models.classifier import HEAD_FILE, load_classifier, read_head
from boostlib.models.language import load_model
from boostlib.rank import EXACT, epsilon_rank
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Round, Training
from boostlib.records.shared import record_of
from boostlib.run import Run
from boostlib.strategies.choices import everyone
from boostlib.tasks import LabelTask, load_task
from boostlib.training.cross_entropy import CrossEntropy
from boostlib.training.lora import LoRA
from boostlib.training.probe import train_head
from boostlib.update import Weights


def with_method(chosen: Preset, method: str) -> Preset:
    """The preset changed to `method`. One-round methods get the steps of all rounds together."""
    if method not in METHODS:
        raise BoostError(f"no method {method!r}; there are {', '.join(METHODS)}")
    strategy: Any = method if method in STRATEGIES else "top"
    adapter = replace(chosen.boost.adapter, strategy=strategy)
    if method in STRATEGIES:
        return replace(chosen, method=method, boost=replace(chosen.boost, adapter=adapter))
    if method == "monolithic":
        adapter = replace(adapter, rank=adapter.rank * chosen.boost.rounds)
    trainer = replace(chosen.trainer, max_steps=chosen.boost.rounds * chosen.trainer.max_steps, epochs=1000.0)
    if method in ("lora", "full"):
        rate = chosen.full_learning_rate if method == "full" else chosen.lora_learning_rate
        trainer = replace(trainer, learning_rate=rate)
    train_on: Any = "failures" if method == "monolithic" else "all"
    boost = replace(chosen.boost, rounds=1, train_on=train_on, adapter=adapter, drafts=False)
    return replace(chosen, method=method, trainer=trainer, boost=boost)


def with_size(chosen: Preset, parameters: int) -> Preset:
    """The preset with an adapter of so many numbers, at the learning rate that was tuned for that size."""
    if parameters not in chosen.sizes:
        raise BoostError(
            f"preset {chosen.name!r} has no size {parameters}; it has {', '.join(map(str, chosen.sizes)) or 'none'}"
        )
    n_tie, u, learning_rate = chosen.sizes[parameters]
    adapter = replace(chosen.boost.adapter, n_tie=n_tie, u=u)
    trainer = replace(chosen.trainer, learning_rate=learning_rate)
    return replace(chosen, trainer=trainer, boost=replace(chosen.boost, adapter=adapter))


def prepare(chosen: Preset, data_dir: str | None = None, run_dir: str | Path | None = None):
    """(model, tokenizer, task) of a preset, freshly loaded; a classifier with its head, trained where `run_dir` has
    none.

    A run that goes on takes the head that it began with, so that it stays the same model whatever machine continues it.
    """
    task: Any = load_task(chosen.task, data_dir=data_dir, **chosen.task_options)
    if isinstance(chosen.trainer, CrossEntropy) != isinstance(task, LabelTask):
        asked = "labels, as a classifier gives them" if isinstance(task, LabelTask) else "texts"
        raise BoostError(f"task {task.name!r} asks for {asked}: take a section whose model gives them")
    if not isinstance(chosen.trainer, CrossEntropy):
        return *load_model(chosen.model, dtype=chosen.dtype), task
    model, tokenizer = load_classifier(chosen.model, dtype=chosen.dtype)
    head = Path(run_dir) / HEAD_FILE if run_dir is not None else None
    if head and world.on_main(head.is_file):
        model.set_head(world.on_main(lambda: read_head(head.parent)), head)
    else:
        train_head(model, tokenizer, task, chosen.boost.batch_size)
    return model, tokenizer, task


def run_method(chosen: Preset, run_dir: str | Path, data_dir: str | None = None) -> Ledger:
    """Run, or continue, the preset's method (see `with_method`) on a freshly loaded model; returns its ledger."""
    model, tokenizer, task = prepare(chosen, data_dir, run_dir)
    if chosen.method in ("lora", "full"):
        run = Run(model, tokenizer, task, chosen.trainer, chosen.boost)
        return finetune(run, run_dir, lora_rank=1 if chosen.method == "lora" else None)
    return boost(model, tokenizer, task, chosen.trainer, chosen.boost, run_dir, gate=chosen.gate).ledger


def finetune(run: Run, run_dir: str | Path, lora_rank: int | None = None) -> Ledger:
    """Train the run's model in place on the training set: all weights, or a LoRA of `lora_rank`; returns the ledger,
    one round.

    run: made for this, without a record; of its config the seed, targets, held-out splits and batch size are used. A
    LoRA is merged in the end, once, as cast(W0 + dW): the model is plain again. A finished run is returned as it is,
    and leaves the model untouched. Raises RunError where run_dir holds another run.
    """
    world.require_whole_models(run.model.device)
    run.ledger = ledger = record_of(run_dir)
    with ledger.locked():
        adapter = f"LoRA r={lora_rank}" if lora_rank else "all weights"
        identity = {**run.identity(), "adapter": adapter, "train_on": "all"}
        world.require_agreement("what is run", identity)
        if not ledger.started:
            ledger.create({"identity": identity, "environment": environment(run.model.device)})
        check_identity(ledger, identity)
        if ledger.rounds:
            return ledger
        if ledger.base is None:
            try:
                ledger.append(base_row(run, _fingerprint(run.model)))
            except BoostError:
                ledger.discard()
                raise
        ledger.append(_round(run, lora_rank))
    return ledger


def _round(run: Run, lora_rank: int | None) -> Round:
    seed, start = round_seed(run.config.seed, 0), time.perf_counter()
    trained, numbers = _train_lora(run, lora_rank, seed) if lora_rank else _train_all(run, seed)
    done = time.perf_counter()
    scores = score_splits(run)
    return Round(
        index=0,
        plan=[],
        seed=seed,
        seconds={"train": round(done - start, 2), "evaluate": round(time.perf_counter() - done, 2)},
        v_sha256="",
        weights_fingerprint=_fingerprint(run.model),
        **{"adapter_norm": numbers["update_norm"], **numbers},
        **fixed_and_broken(run.base.failures, scores),
        **trained.record(),
    )


def _train(run: Run, adapter: LoRA | None, seed: int) -> Training:
    trained = run.trainer.train(run, everyone(run, ()), adapter, seed)
    if trained.skipped and not trained.validation:  # early stopping may well find that no step helped: a result
        raise RunError(f"fine-tuning learned nothing: {trained.skipped}")
    return trained


def _train_all(run: Run, seed: int) -> tuple[Training, dict[str, Any]]:
    """Every weight. The norm is that of the weights' change, so what their dtype lost is not in it."""
    parameters = list(run.model.parameters())
    before = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    trained = _train(run, None, seed)
    norm = sum(float((p.detach() - b).double().square().sum()) for p, b in zip(parameters, before, strict=True)) ** 0.5
    count = sum(b.numel() for b in before)
    return trained, {
        "num_parameters": count,
        "degrees_of_freedom": count,
        "update_norm": norm,
        "fold_retention": 1.0,
    }


def _train_lora(run: Run, rank: int, seed: int) -> tuple[Training, dict[str, Any]]:
    """A LoRA, merged afterwards. Rank of every target module in model order under `extra`, from its factors."""
    lora = LoRA(target_modules(run.model, run.config.targets), rank, seed)
    weights = Weights(run.model, lora.names, run.config.w0_device)
    lora.attach(run.model, weights)
    try:
        trained, count = _train(run, lora, seed), lora.num_parameters
    finally:
        lora.detach()
    update = lora.update()
    return trained, {
        "num_parameters": count,
        "degrees_of_freedom": sum(rank * (b.shape[0] + a.shape[1] - rank) for b, a in update.values()),
        "update_norm": update.norm(),
        "fold_retention": weights.merge(update),
        "extra": {"ranks": [epsilon_rank(b, a, EXACT) for b, a in update.values()]},
    }


def _fingerprint(model: nn.Module) -> str:
    return fingerprint_tensors(model.named_parameters())
