"""Runs written straight into a ledger: random numbers v, no training and no evaluation, so that twenty rounds cost
nothing but their rebuilding. Their scores are drawn by lot, as long and as varied as real ones; the weights are what
the numbers give."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from boostlib import AdapterConfig, Ledger, LowRankUpdate, SVDBasis, TinyLoRA
from boostlib.common.stable import fingerprint_tensors, philox
from boostlib.config import environment
from boostlib.records.rows import Base, Round, Scores, pack_bits
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
    ledger.append(Base(ids, 0.25, 0.25, _scores(-1), _print(weights), 1.0))
    total, last = LowRankUpdate(), _print(weights)
    for index in range(rounds):
        one = TinyLoRA(basis, adapter, index, _plan(adapter, len(basis), index))
        noise = philox("recorded", index).standard_normal(tuple(one.v.shape))
        one.v.data.copy_(torch.from_numpy(scale * noise))
        ledger.save_numbers(index, one.numbers, {})
        if index not in skip:
            total = total + one.update()
            if hashed is None or index in hashed:
                weights.set(total)
                last = _print(weights)
        fixed, broken = ([], []) if index in skip else (_some(ids, index), [f"<new {index}>"])
        changes = {"failures": ids, "fixed": fixed, "broken": broken}
        ledger.append(_row(ledger, one, changes, total.norm(), last, "nothing learned" if index in skip else ""))
        ids = [id for id in ids if id not in fixed] + broken
    weights.set(LowRankUpdate())
    return ledger


def _plan(adapter: AdapterConfig, modules: int, index: int) -> list[tuple[int, int]] | None:
    """Greedy: every group goes through the blocks in an order of its own."""
    if adapter.strategy != "greedy":
        return None
    return [((index + group) % adapter.blocks, 3 * index + group) for group in range(adapter.groups(modules))]


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


def _some(ids: Sequence[str], index: int) -> list[str]:
    """One of thirty of `ids`, and at least one: about what a demo round fixes."""
    return sorted(philox("fixed", index).choice(ids, -(-len(ids) // 30), replace=False).tolist())


def _scores(index: int) -> dict[str, Scores]:
    right = philox("right", index).random(256) < 0.5
    return {"test": Scores(float(right.mean()), float(right.mean()), pack_bits(right))}


def _row(ledger: Ledger, one: TinyLoRA, changes: dict, norm: float, fingerprint: str, skipped: str) -> Round:
    random = philox("row", one.round)
    return Round(
        index=one.round,
        num_parameters=one.num_parameters,
        degrees_of_freedom=one.num_parameters,
        plan=one.plan,
        adapter_norm=one.update().norm(),
        update_norm=norm,
        fold_retention=1 - random.random() / 1e4,
        train_accuracy=0.5,
        train_strict=0.5,
        metrics=_scores(one.round),
        steps=8,
        seconds={"train": round(100 * random.random(), 2), "merge": 0.1, "evaluate": 20.0},
        tokens=int(random.integers(10_000)),
        rewards=random.random(8).tolist(),
        signal=random.random(8).tolist(),
        seed=int(random.integers(2**31)),
        v_sha256=ledger.v_sha256(one.round),
        weights_fingerprint=fingerprint,
        skipped=skipped,
        **changes,
    )


def _print(weights: Weights) -> str:
    return fingerprint_tensors((name, module.weight) for name, module in weights.modules.items())
