"""What rounds of merging lose: W0 + the sum of fp32 factors, cast once, against PEFT's merges in place.

    error = |W_T - (W0 + sum_t dW_t)|_F / |sum_t dW_t|_F        the sum in fp64, over the weights compared

Both sides merge the same updates: those of PEFT's own sequence (add, move v, merge_and_unload, add again), read from
its factors. Accuracy is counted here, not time.
"""

import copy

import torch
from torch import Tensor, nn

from boostlib.basis import target_modules
from boostlib.bench.measure import Measurement
from boostlib.bench.setup import Setup, peft_tiny_lora
from boostlib.update import LowRankUpdate, Weights

BLOCKS = 1  # of the model: accuracy shows on any, and every add is a full SVD of each weight


def bench_merge(setup: Setup) -> list[Measurement]:
    """Relative error after `setup.rounds` rounds, with bf16 and with fp32 weights, in the first block of the model."""
    model = setup.load()[0]
    first = target_modules(model)[0].split(".layers.")[0] + ".layers"
    block = nn.ModuleDict({"layers": nn.ModuleList(model.get_submodule(first)[:BLOCKS])})
    return [_measured(setup, block, dtype) for dtype in (torch.bfloat16, torch.float32)]


@torch.no_grad()
def _measured(setup: Setup, block: nn.Module, dtype: torch.dtype) -> Measurement:
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
    runs = {
        f"sum of factors, {kind}": [_error(own, weights, exact)],
        f"PEFT merges in place, {kind}": [_error(peer, weights, exact)],
    }
    return Measurement(
        f"weights after {setup.rounds} rounds of {len(names)} modules",
        runs,
        [tuple(runs)],
        unit="relative error",
        work={name: {"rounds": setup.rounds, "modules": len(names)} for name in runs},
    )


def _factors(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """(B R (out, r), A (r, in)) in fp32 of PEFT's layer: its dW = B R A."""
    b, r, a = layer.tinylora_B["default"], layer._compute_R("default"), layer.tinylora_A["default"]
    return b.float() @ r.float(), a.float()


def _error(model: nn.Module, weights: Weights, exact: dict[str, Tensor]) -> float:
    off = sum(float((model.get_submodule(n).weight.double() - w).square().sum()) for n, w in exact.items())
    size = sum(float((w - weights.w0[n].double()).square().sum()) for n, w in exact.items())
    return (off / size) ** 0.5
