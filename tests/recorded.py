"""Runs written straight into a ledger: random numbers v, no training and no evaluation, so that twenty rounds cost
nothing but their rebuilding. What a test reads of scores in them is made up; the weights are what the numbers give."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from boostlib import AdapterConfig, Ledger, LowRankUpdate, SVDBasis, TinyLoRA
from boostlib.identity import environment
from boostlib.rounds import Base, Round, Scores, pack_bits
from boostlib.stable import fingerprint_tensors, philox
from boostlib.update import Weights


def recorded_run(
    run_dir: Path,
    model,
    adapter: AdapterConfig,
    rounds: int = 3,
    skip: Sequence[int] = (),
    failures: Sequence[str] = ("a", "b", "c"),
    scale: float = 0.05,
    hashed: Sequence[int] | None = None,
) -> Ledger:
    """A run of `rounds` rounds on `model`, which is left as it was. `skip`: rounds that merged nothing.

    hashed: the rounds whose weights are hashed (None: all), where hashing is what takes the time.
    """
    basis = SVDBasis.from_model(model, adapter.basis_rank(rounds))
    weights, ledger, ids = Weights(model, list(basis)), Ledger(run_dir), list(failures)
    (ledger.dir / "rounds").mkdir(parents=True)
    ledger.create(_header(model, adapter, basis))
    scores = {"test": Scores(0.5, 0.5, pack_bits([True, False] * 8))}
    ledger.append(Base(ids, 0.25, 0.25, scores, _print(weights), 1.0))
    total, last = LowRankUpdate(), _print(weights)
    for index in range(rounds):
        one = TinyLoRA(basis, adapter, index)
        noise = philox("recorded", index).standard_normal(tuple(one.v.shape))
        one.v.data.copy_(torch.from_numpy(scale * noise))
        ledger.save_v(index, one.v, {})
        if index not in skip:
            total = total + one.update()
            if hashed is None or index in hashed:
                weights.set(total)
                last = _print(weights)
        ids = ids if index != 1 else [*ids[1:], "<new>"]  # round 0 fixed the first, and broke another
        ledger.append(_row(ledger, one, ids, scores, total.norm(), last, "nothing learned" if index in skip else ""))
    weights.set(LowRankUpdate())
    return ledger


def _header(model, adapter, basis) -> dict:
    name, dtype = model.config.name_or_path, str(model.dtype).removeprefix("torch.")
    identity = {
        "model": {"name": name, "dtype": dtype, "fingerprint": fingerprint_tensors(model.named_parameters())},
        "task": {"name": "made up"},
        "data": {},
        "adapter": asdict(adapter),
        "trainer": {"kind": "made up"},
        "targets": None,
        "held_out": ["test"],
        "seed": 0,
    }
    return {
        "identity": identity,
        "basis": {"rank": basis.rank, "hash": basis.hash(basis.rank)},
        "environment": environment(model.device),
    }


def _row(ledger, one, ids, scores, norm, fingerprint, skipped) -> Round:
    first = one.round == 0
    rest = {
        "train_accuracy": 0.5,
        "train_strict": 0.5,
        "metrics": scores,
        "fixed": ids[:1] if first else [],
        "broken": ["<new>"] if first else [],
    }
    return Round(
        index=one.round,
        failures=ids,
        num_parameters=one.num_parameters,
        degrees_of_freedom=one.num_parameters,
        plan=one.plan,
        adapter_norm=one.update().norm(),
        update_norm=norm,
        fold_retention=1.0,
        steps=8,
        seconds={"train": 1.0},
        tokens=1,
        rewards=[0.5] * 8,
        signal=[0.5] * 8,
        seed=0,
        v_sha256=ledger.v_sha256(one.round),
        weights_fingerprint=fingerprint,
        skipped=skipped,
        **rest,
    )


def _print(weights: Weights) -> str:
    return fingerprint_tensors((name, module.weight) for name, module in weights.modules.items())
