"""The methods that a section compares, each made from the same preset with the same number of optimizer steps.

rotate     BoostLoRA: the next block of directions each round, trained on failures
greedy     the same rounds, each group in the block and with the P that the failures' gradient favours; ours, not the
           paper's, and each round pays for its probing batches on top
top        the same rounds, always in the top block (the paper's ablation)
monolithic one adapter over all directions of all rounds at once, as many parameters as one round, one long round on the
           failures (the paper's ablation)
tinylora   one adapter in the top block, one long round on the whole training set
lora       PEFT's LoRA of rank 1 on the same modules, one long round on the whole training set
lorarounds rounds like those of rotate, each with a fresh LoRA of rank 1, trained on failures (strategies/lora.py)
full       all weights, one long round on the whole training set

lora and full are the usual baselines: the same trainer, task, scores and ledger, one "round" on the whole training set,
as the paper's baselines have it. What they train (135 million numbers of SmolLM2, or 305 thousand at LoRA rank 1) is
not kept in the ledger, so they cannot be replayed; save the model where it is wanted. The rounds of lorarounds are kept
and replayed as all rounds are. lora and its first round start from the same draw of A.

Whom a method trains on can be said otherwise, so that learner (TinyLoRA, LoRA), examples (failures, all) and rounds or
one shot are free of each other: rotate, tinylora, lorarounds and lora, each with train_on="failures" and "all". In one
shot the failures are the untrained model's.
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
from boostlib.common.stable import fingerprint_tensors, round_seed
from boostlib.common.targets import require_plain
from boostlib.config import check_identity, environment
from boostlib.evaluation.scoring import base_row, fixed_and_broken, score_splits
from boostlib.experiments.presets import Preset
from boostlib.models.agreement import random_directions, require_agreement
from boostlib.models.classifier import HEAD_FILE, load_classifier, read_head
from boostlib.models.language import load_model
from boostlib.rank import EXACT, epsilon_rank
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Round, Training
from boostlib.records.shared import record_of
from boostlib.run import Run
from boostlib.strategies.lora import LoRA, LoRAConfig
from boostlib.tasks import LabelTask, load_task
from boostlib.training.cross_entropy import CrossEntropy
from boostlib.training.probe import train_head
from boostlib.update import Weights

IN_ROUNDS = (*STRATEGIES, "lorarounds")  # the other methods have one


def with_method(chosen: Preset, method: str, train_on: Any = None) -> Preset:
    """The preset changed to `method`. One-round methods get the steps of all rounds together.

    train_on: "failures" or "all", where it is not to be the method's own.
    """
    if method not in METHODS:
        raise BoostError(f"no method {method!r}; there are {', '.join(METHODS)}")
    if train_on == "failures" and method == "full":
        raise BoostError("full fine-tuning is the baseline on all examples: leave train_on out")
    strategy: Any = method if method in STRATEGIES else "top"
    adapter = replace(chosen.boost.adapter, strategy=strategy)
    train_on = train_on or ("failures" if method in (*IN_ROUNDS, "monolithic") else "all")
    boost, trainer = replace(chosen.boost, adapter=adapter, train_on=train_on), chosen.trainer
    rates = {"lora": chosen.lora_learning_rate, "full": chosen.full_learning_rate}
    trainer = replace(trainer, learning_rate=rates.get(method.removesuffix("rounds"), trainer.learning_rate))
    if method == "lorarounds":
        boost = replace(boost, lora=LoRAConfig())
    if method not in IN_ROUNDS:
        if method == "monolithic":
            adapter = replace(adapter, rank=adapter.rank * boost.rounds)
        trainer = replace(trainer, max_steps=boost.rounds * trainer.max_steps, epochs=1000.0)
        boost = replace(boost, rounds=1, adapter=adapter, drafts=False)
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
    """Train the run's model in place: all weights, or a LoRA of `lora_rank`; returns the ledger, one round.

    run: made for this, without a record; of its config train_on, seed, targets, held-out splits and batch size count. A
    LoRA is merged in the end, once, as cast(W0 + dW): the model is plain again. A finished run is returned as it is,
    and leaves the model untouched. Raises RunError where run_dir holds another run.
    """
    world.require_whole_models(run.model.device)
    run.ledger = ledger = record_of(run_dir)
    with ledger.locked():
        adapter = f"LoRA r={lora_rank}" if lora_rank else "all weights"
        identity = {**run.identity(), "adapter": adapter}
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
    trained = run.trainer.train(run, run.choices.whom(run, run.base.failures), adapter, seed)
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
    require_plain(run.model, lora.names)
    require_agreement(run.model, random_directions(run.model, lora.names), named=True)
    weights = Weights(run.model, lora.names, run.config.w0_device)
    lora.attach(run.model, weights)
    try:
        trained = _train(run, lora, seed)
    finally:
        lora.detach()
    update = lora.update()
    return trained, {
        "num_parameters": lora.num_parameters,
        "degrees_of_freedom": lora.degrees_of_freedom,
        "update_norm": update.norm(),
        "fold_retention": weights.merge(update),
        "extra": {"ranks": [epsilon_rank(b, a, EXACT) for b, a in update.values()]},
    }


def _fingerprint(model: nn.Module) -> str:
    return fingerprint_tensors(model.named_parameters())
