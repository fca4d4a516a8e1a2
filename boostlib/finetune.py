"""The full fine-tuning baseline: the same trainer, task, scores and ledger, with every weight trainable.

One "round" on the whole training set, as the paper's baseline has it. Its weights are not kept in the ledger, so it
cannot be replayed; save the model where it is wanted.
"""

import time
from pathlib import Path

from torch import nn

from boostlib.boost import base_row, fixed_and_broken, score_splits
from boostlib.errors import RunError
from boostlib.identity import BoostConfig, check_identity, environment, round_seed, run_identity
from boostlib.ledger import Ledger
from boostlib.rounds import Round
from boostlib.stable import fingerprint_tensors
from boostlib.tasks.base import Task


def finetune(model: nn.Module, tokenizer, task: Task, trainer, config: BoostConfig, run_dir: str | Path) -> Ledger:
    """Train all weights of `model` in place on the training set; returns the ledger, with one round.

    config: its seed, held-out splits and batch size are used. Raises RunError where run_dir holds another run.
    """
    ledger = Ledger(run_dir)
    with ledger.locked():
        identity = {**run_identity(model, task, trainer, config), "adapter": "all weights", "train_on": "all"}
        if not (ledger.dir / "run.json").exists():
            ledger.create({"identity": identity, "environment": environment(model.device)})
        check_identity(ledger, identity)
        if ledger.rounds:
            return ledger
        if ledger.base is None:
            ledger.append(base_row(model, tokenizer, task, config, _fingerprint(model)))
        ledger.append(_train(model, tokenizer, task, trainer, config, ledger))
    return ledger


def _train(model, tokenizer, task, trainer, config, ledger) -> Round:
    seed = round_seed(config.seed, 0)
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    start = time.perf_counter()
    trained = trainer.train(model, tokenizer, task, task.split("train"), seed=seed)
    if trained.skipped and not trained.validation:  # early stopping may well find that no step helped: a result
        raise RunError(f"full fine-tuning learned nothing: {trained.skipped}")
    seconds = {"train": round(time.perf_counter() - start, 2)}
    norm = sum(float((p.detach() - b).double().square().sum()) for p, b in zip(model.parameters(), before, strict=True))
    start = time.perf_counter()
    scores = score_splits(model, tokenizer, task, config)
    seconds["evaluate"] = round(time.perf_counter() - start, 2)
    count = sum(p.numel() for p in model.parameters())
    return Round(
        index=0,
        num_parameters=count,
        degrees_of_freedom=count,
        plan=[],
        adapter_norm=norm**0.5,
        update_norm=norm**0.5,
        fold_retention=1.0,
        seed=seed,
        seconds=seconds,
        v_sha256="",
        weights_fingerprint=_fingerprint(model),
        **fixed_and_broken(ledger.base.failures, scores),
        **trained.record(),
    )


def _fingerprint(model: nn.Module) -> str:
    return fingerprint_tensors(model.named_parameters())
