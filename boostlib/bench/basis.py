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
    one, many = "basis for 1 round", f"basis for {setup.rounds} rounds"
    rank, adds = setup.adapter.rank, []
    runs: dict[str, list[float]] = {one: [], many: [], f"{many}, cached": []}
    for t in tqdm(range(setup.rounds), desc="basis", unit="add", leave=False):
        with clock() as taken:
            wrapped = peft_tiny_lora(peer, setup.adapter)
        adds.append(taken.seconds)
        peer = wrapped.merge_and_unload()
        if t % max(1, setup.rounds // setup.repeats) == 0:
            runs[one].append(_ours(model, rank)[0])
            for name, value in zip((many, f"{many}, cached"), _ours(model, rank * setup.rounds), strict=True):
                runs[name].append(value)
    peer_many = f"PEFT TinyLoRA, {setup.rounds} adds"
    return [
        Measurement(
            f"singular directions of {len(target_modules(model))} modules",
            {**runs, "PEFT TinyLoRA, 1 add": adds, peer_many: [sum(adds)]},
            [(one, "PEFT TinyLoRA, 1 add"), (many, peer_many)],
            work={many: {"rounds": setup.rounds}, peer_many: {"rounds": len(adds)}},
            notes=_error(model, rank * setup.rounds, setup.checked),
        )
    ]


def _ours(model: nn.Module, rank: int) -> tuple[float, float]:
    """(seconds with an empty cache, seconds with the basis in it)."""
    with tempfile.TemporaryDirectory() as folder:
        with clock() as cold:
            SVDBasis.from_model(model, rank, cache_dir=folder)
        with clock() as cached:
            SVDBasis.from_model(model, rank, cache_dir=folder)
    return cold.seconds, cached.seconds


def _error(model: nn.Module, rank: int, checked: int | None) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        basis = SVDBasis.from_model(model, rank, cache_dir=folder)
    names, worst = list(basis)[:checked], 0.0
    for name in tqdm(names, desc="LAPACK", unit="weight", leave=False):
        exact = torch.linalg.svdvals(model.get_submodule(name).weight.detach().double().cpu())[:rank]
        worst = max(worst, float(((basis[name][1] - exact).abs() / exact).max()))
    return {"largest relative error of a singular value": worst, "modules checked": len(names)}
