"""Singular directions, and the update in the weights: folding it in and out, and what rounds of merging lose.

`basis`: one basis for a whole run, against an SVD at every adapter that PEFT adds. `fold`: against PEFT's merge_adapter
and unmerge_adapter. `merge`: W0 + the sum of fp32 factors, cast once, against PEFT's merges in place.
"""

import copy
import tempfile
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from boostlib.basis import SVDBasis, target_modules
from boostlib.bench.measure import Measurement, clock, timed
from boostlib.bench.setup import Setup, Sides, peft_tiny_lora
from boostlib.update import LowRankUpdate, Weights

BLOCKS = 1  # of the model in `merge`: accuracy shows on any, and every add is a full SVD of each weight


# --- directions


def bench_basis(setup: Setup) -> list[Measurement]:
    """Seconds for one round and for `setup.rounds`, ours in turns with the peer's adds.

        error = max over modules and directions of |S - S_LAPACK| / S_LAPACK, LAPACK in fp64

    The peer's rounds are a real sequence: add, merge, add again. Only the adding is counted. Ours is timed with an
    empty cache, writing the file included, and once more with that file there.
    """
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
            seconds |= _cached_basis(model, rank, one) | _cached_basis(model, rank * setup.rounds, many)
        passes.append(seconds)
    names = (one, many, f"{many}, cached", add)
    runs = {name: [seconds[name] for seconds in passes if name in seconds] for name in names}
    return [
        Measurement(
            f"singular directions of {len(target_modules(model))} modules",
            runs | {adds: [sum(runs[add])]},
            [(one, add), (many, adds)],
            work={many: {"rounds": setup.rounds}, adds: {"rounds": len(runs[add])}},
            notes=_off_lapack(model, rank * setup.rounds),
        )
    ]


def _cached_basis(model: nn.Module, rank: int, name: str) -> dict[str, float]:
    """Seconds with an empty cache, and with the basis in it."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for label in (name, f"{name}, cached"):
            with clock(seconds, label):
                SVDBasis.from_model(model, rank, cache_dir=folder)
    return seconds


def _off_lapack(model: nn.Module, rank: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        basis = SVDBasis.from_model(model, rank, cache_dir=folder)
    worst = 0.0
    for name in tqdm(basis, desc="LAPACK", unit="weight", leave=False):
        exact = torch.linalg.svdvals(model.get_submodule(name).weight.detach().double().cpu())[:rank]
        worst = max(worst, float(((basis[name][1] - exact).abs() / exact).max()))
    return {"largest relative error of a singular value": worst, "modules checked": len(basis)}


# --- the update


def bench_fold(setup: Setup) -> list[Measurement]:
    """Seconds of one fold and unfold, and what a cycle of each leaves behind in the weights."""
    sides = Sides(setup)

    def ours() -> None:
        with adapter.folded():
            pass

    @torch.no_grad()
    def theirs() -> None:
        sides.peer.merge_adapter()
        sides.peer.unmerge_adapter()

    folded, merged, cycles = "folded()", "PEFT merge + unmerge", setup.repeats + 1
    with sides.attached(0.03) as adapter:
        runs, _ = timed({folded: ours, merged: theirs}, setup.repeats)
    layers = [sides.peer.get_base_model().get_submodule(name).get_base_layer() for name in sides.basis]
    drift = {folded: _moved(sides.weights.modules.values(), sides.weights), merged: _moved(layers, sides.weights)}
    return [
        Measurement(
            f"folding and unfolding {len(layers)} modules",
            runs,
            [(folded, merged)],
            work={name: {"modules": len(layers), "cycles": cycles} for name in runs},
            notes={f"largest change of a weight after {cycles} cycles": drift},
        )
    ]


def _moved(layers: Iterable[nn.Module], weights: Weights) -> float:
    """Largest |W - W0| over all weights."""
    pairs = zip(layers, weights.w0.values(), strict=True)
    return max(float((layer.weight.detach().float() - w0.float()).abs().max()) for layer, w0 in pairs)


def bench_merge(setup: Setup) -> list[Measurement]:
    """Relative error after `setup.rounds` rounds, with bf16 and with fp32 weights, in the first block of the model.

        error = |W_T - (W0 + sum_t dW_t)|_F / |sum_t dW_t|_F        the sum in fp64, over the weights compared

    Both sides merge the same updates: those of PEFT's own sequence (add, move v, merge_and_unload, add again), read
    from its factors. Accuracy is counted here, not time.
    """
    model = setup.load()[0]
    first = target_modules(model)[0].split(".layers.")[0] + ".layers"
    block = nn.ModuleDict({"layers": nn.ModuleList(model.get_submodule(first)[:BLOCKS])})
    return [_merged(setup, block, dtype) for dtype in (torch.bfloat16, torch.float32)]


@torch.no_grad()
def _merged(setup: Setup, block: nn.Module, dtype: torch.dtype) -> Measurement:
    torch.manual_seed(0)
    peer, own = (copy.deepcopy(block).to(dtype) for _ in range(2))
    names = target_modules(own)
    weights, exact = Weights(own, names), {n: own.get_submodule(n).weight.double() for n in names}
    for _ in range(setup.rounds):
        wrapped = peft_tiny_lora(peer, setup.adapter, moved=True)
        update = LowRankUpdate({name: _factors(wrapped.get_base_model().get_submodule(name)) for name in names})
        peer = wrapped.merge_and_unload()
        weights.merge(update)
        exact = {n: w + update[n][0].double() @ update[n][1].double() for n, w in exact.items()}
    kind = str(dtype).removeprefix("torch.")
    ours, theirs = f"sum of factors, {kind}", f"PEFT merges in place, {kind}"
    runs = {ours: [_error(own, weights, exact)], theirs: [_error(peer, weights, exact)]}
    return Measurement(
        f"weights after {setup.rounds} rounds of {len(names)} modules",
        runs,
        [(ours, theirs)],
        unit="relative error",
        work={name: {"rounds": setup.rounds, "modules": len(names)} for name in runs},
    )


def _factors(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """(B R (out, r), A (r, in)) in fp32 of PEFT's layer: its dW = B R A."""
    b, r, a = layer.tinylora_B["default"], layer._compute_R("default"), layer.tinylora_A["default"]
    return b.float() @ r.float(), a.float()


def _error(model: nn.Module, weights: Weights, exact: Mapping[str, Tensor]) -> float:
    off = sum(float((model.get_submodule(n).weight.double() - w).square().sum()) for n, w in exact.items())
    size = sum(float((w - weights.w0[n].double()).square().sum()) for n, w in exact.items())
    return (off / size) ** 0.5
