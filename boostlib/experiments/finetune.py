"""The usual baselines: the same trainer, task, scores and ledger, with every weight trainable, or a LoRA of PEFT's.

One "round" on the whole training set, as the paper's baselines have it. What it trained (135 million numbers of
SmolLM2, or 305 thousand at LoRA rank 1) is not kept in the ledger, so it cannot be replayed; save the model where it
is wanted.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from boostlib.basis import target_modules
from boostlib.common import world
from boostlib.common.errors import RunError
from boostlib.common.stable import fingerprint_tensors
from boostlib.config import BoostConfig, check_identity, environment, round_seed
from boostlib.evaluation.scoring import base_row, fixed_and_broken, score_splits
from boostlib.rank import EXACT, epsilon_rank
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Round, Training
from boostlib.records.shared import record_of
from boostlib.run import Run
from boostlib.strategies.choices import everyone
from boostlib.training.lora import LoRA
from boostlib.update import Weights


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
            ledger.append(base_row(run, _fingerprint(run.model)))
        ledger.append(_round(run, lora_rank))
    return ledger


def _round(run: Run, lora_rank: int | None) -> Round:
    seed = round_seed(run.config.seed, 0)

    def train(adapter: LoRA | None = None) -> Training:
        trained = run.trainer.train(run, everyone(run, ()), adapter, seed)
        if trained.skipped and not trained.validation:  # early stopping may well find that no step helped: a result
            raise RunError(f"fine-tuning learned nothing: {trained.skipped}")
        return trained

    start = time.perf_counter()
    if lora_rank:
        lora = LoRA(target_modules(run.model, run.config.targets), lora_rank, seed)
        trained, numbers = _train_lora(run.model, train, lora, run.config)
    else:
        trained, numbers = _train_all(run.model, train)
    seconds = {"train": round(time.perf_counter() - start, 2)}
    start = time.perf_counter()
    scores = score_splits(run)
    seconds["evaluate"] = round(time.perf_counter() - start, 2)
    return Round(
        index=0,
        plan=[],
        seed=seed,
        seconds=seconds,
        v_sha256="",
        weights_fingerprint=_fingerprint(run.model),
        **numbers,
        **fixed_and_broken(run.base.failures, scores),
        **trained.record(),
    )


def _train_all(model: nn.Module, train: Callable) -> tuple[Training, dict[str, Any]]:
    """Every weight. The norm is that of the weights' change, so what their dtype lost is not in it."""
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    trained = train()
    norm = sum(float((p.detach() - b).double().square().sum()) for p, b in zip(model.parameters(), before, strict=True))
    return trained, _numbers(sum(b.numel() for b in before), norm=norm**0.5)


def _train_lora(model: nn.Module, train: Callable, lora: LoRA, config: BoostConfig) -> tuple[Training, dict[str, Any]]:
    """A LoRA, merged afterwards. Rank of every target module in model order under `extra`, from its factors."""
    weights = Weights(model, lora.names, config.w0_device)
    lora.attach(model, weights)
    try:
        trained, count = train(lora), lora.num_parameters
    finally:
        lora.detach()
    update = lora.update()
    ranks = [epsilon_rank(b, a, EXACT) for b, a in update.values()]
    free = sum(lora.rank * (b.shape[0] + a.shape[1] - lora.rank) for b, a in update.values())
    numbers = _numbers(count, norm=update.norm(), free=free, retention=weights.merge(update))
    return trained, {**numbers, "extra": {"ranks": ranks}}


def _numbers(count: int, norm: float, free: int | None = None, retention: float = 1.0) -> dict[str, Any]:
    """What a ledger holds about the numbers that were trained. free: dimensions that they span, where fewer."""
    return {
        "num_parameters": count,
        "degrees_of_freedom": count if free is None else free,
        "adapter_norm": norm,
        "update_norm": norm,
        "fold_retention": retention,
    }


def _fingerprint(model: nn.Module) -> str:
    return fingerprint_tensors(model.named_parameters())
