"""Folding an adapter into all weights and taking it out again, against PEFT's merge_adapter and unmerge_adapter."""

import torch
from torch import nn

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis, target_modules
from boostlib.bench.measure import Measurement, clock, interleaved
from boostlib.bench.setup import Setup, peft_tiny_lora
from boostlib.update import Weights


def bench_fold(setup: Setup) -> list[Measurement]:
    """Seconds of one fold and unfold, and what a cycle of each leaves behind in the weights."""
    model, peer = setup.load()[0], setup.load()[0]
    names = target_modules(model)
    adapter = TinyLoRA(SVDBasis.from_model(model, setup.adapter.rank), setup.adapter)
    adapter.v.data.normal_(std=0.03)
    weights = Weights(model, names)
    adapter.attach(model, weights)
    wrapped = peft_tiny_lora(peer, setup.adapter, moved=True)
    layers = [wrapped.get_base_model().get_submodule(name).get_base_layer() for name in names]

    def ours() -> float:
        with clock() as taken, adapter.folded():
            pass
        return taken.seconds

    @torch.no_grad()
    def theirs() -> float:
        with clock() as taken:
            wrapped.merge_adapter()
            wrapped.unmerge_adapter()
        return taken.seconds

    runs = interleaved({"folded()": ours, "PEFT merge + unmerge": theirs}, setup.repeats)
    drift = {
        "folded()": _moved([model.get_submodule(name) for name in names], weights),
        "PEFT merge + unmerge": _moved(layers, weights),
    }
    return [
        Measurement(
            f"folding and unfolding {len(names)} modules",
            runs,
            [("folded()", "PEFT merge + unmerge")],
            work={name: {"modules": len(names), "cycles": setup.repeats + 1} for name in runs},
            notes={f"largest change of a weight after {setup.repeats + 1} cycles": drift},
        )
    ]


def _moved(layers: list[nn.Module], weights: Weights) -> float:
    """Largest |W - W0| over all weights."""
    pairs = zip(layers, weights.w0.values(), strict=True)
    return max(float((layer.weight.detach().float() - w0.float()).abs().max()) for layer, w0 in pairs)
