"""Singular directions of every weight: one basis for a whole run, against an SVD at every adapter that PEFT adds.

    error = max over modules and directions of |S - S_LAPACK| / S_LAPACK, LAPACK in fp64

The peer's 20 rounds are a real sequence: add, merge, add again. Only the adding is counted. Ours is timed with an
empty cache, writing the file included, and once more with that file there.
"""

import tempfile

import torch
from torch import nn
from tqdm.auto import tqdm

from boostlib.basis import SVDBasis, target_modules
from boostlib.bench.measure import Measurement, clock
from boostlib.bench.setup import Setup, peft_tiny_lora


def bench_basis(setup: Setup) -> list[Measurement]:
    """Seconds for one round and for `setup.rounds`, ours in turns with the peer's adds."""
    model, peer = setup.load()[0], setup.load()[0]
    one, many, rank = "basis for 1 round", f"basis for {setup.rounds} rounds", setup.adapter.rank
    add, adds = "PEFT TinyLoRA, 1 add", f"PEFT TinyLoRA, {setup.rounds} adds"
    passes: list[dict[str, float]] = []
    for t in tqdm(range(setup.rounds), desc="basis", unit="add", leave=False):
        seconds: dict[str, float] = {}
        with clock(seconds, add):
            wrapped = peft_tiny_lora(peer, setup.adapter)
        peer = wrapped.merge_and_unload()
        if t % max(1, setup.rounds // setup.repeats) == 0:
            seconds |= _ours(model, rank, one) | _ours(model, rank * setup.rounds, many)
        passes.append(seconds)
    names = (one, many, f"{many}, cached", add)
    runs = {name: [seconds[name] for seconds in passes if name in seconds] for name in names}
    return [
        Measurement(
            f"singular directions of {len(target_modules(model))} modules",
            runs | {adds: [sum(runs[add])]},
            [(one, add), (many, adds)],
            work={many: {"rounds": setup.rounds}, adds: {"rounds": len(runs[add])}},
            notes=_error(model, rank * setup.rounds, setup.checked),
        )
    ]


def _ours(model: nn.Module, rank: int, name: str) -> dict[str, float]:
    """Seconds with an empty cache, and with the basis in it."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for label in (name, f"{name}, cached"):
            with clock(seconds, label):
                SVDBasis.from_model(model, rank, cache_dir=folder)
    return seconds


def _error(model: nn.Module, rank: int, checked: int | None) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        basis = SVDBasis.from_model(model, rank, cache_dir=folder)
    names, worst = list(basis)[:checked], 0.0
    for name in tqdm(names, desc="LAPACK", unit="weight", leave=False):
        exact = torch.linalg.svdvals(model.get_submodule(name).weight.detach().double().cpu())[:rank]
        worst = max(worst, float(((basis[name][1] - exact).abs() / exact).max()))
    return {"largest relative error of a singular value": worst, "modules checked": len(names)}
