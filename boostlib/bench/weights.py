"""The update in the weights: folding it in and out, what rounds of merging lose, and whether a merged model is slower.

`fold`: against PEFT's merge_adapter and unmerge_adapter. `merge`: W0 + the sum of fp32 factors, cast once, against
PEFT's merges in place. `export`: a merged export and the model that it was made from decode in turns.
"""

import copy
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from boostlib.adapter import TinyLoRA
from boostlib.basis import target_modules
from boostlib.bench.measure import Measurement, timed
from boostlib.bench.setup import Setup, Sides, peft_tiny_lora
from boostlib.evaluation.generate import generate
from boostlib.update import LowRankUpdate, Weights

BLOCKS = 1  # of the model in `merge`: accuracy shows on any, and every add is a full SVD of each weight
EXPORT, BASE, AGAIN = "merged export", "base", "base, loaded again"


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


def bench_export(setup: Setup) -> list[Measurement]:
    """Greedy decoding: the embedded model, the same loaded a second time, and a merged export.

    The export is of `setup.rounds` rounds of random numbers, saved and loaded as `export_merged` leaves it. The second
    load of the base shows how far two equal models differ in this process: the export has to lie within that.
    """
    sides = Sides(setup, setup.rounds)
    models = {EXPORT: _exported(sides), BASE: sides.plain, AGAIN: setup.load()[0]}

    def decode(model: nn.Module) -> int:
        found = generate(model, sides.ours.tokenizer, sides.prompts, 2 * setup.new_tokens, stop_at_end=False)
        return sum(map(len, found))

    runs, tokens = timed({name: partial(decode, model) for name, model in models.items()}, setup.repeats)
    pairs, work = [(EXPORT, BASE), (AGAIN, BASE)], {name: {"tokens": count} for name, count in tokens.items()}
    return [Measurement("merged export, greedy decoding", runs, pairs, work=work, amount=tokens[BASE])]


def _exported(sides: Sides) -> nn.Module:
    total, model = LowRankUpdate(), sides.ours.model
    for index in range(sides.setup.rounds):
        adapter = TinyLoRA(sides.basis, sides.setup.adapter, index)
        adapter.v.data.normal_(std=0.05)
        total = total + adapter.update()
    sides.weights.merge(total)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, dtype=model.dtype).to(model.device).eval()
