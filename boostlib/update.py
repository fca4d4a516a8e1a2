"""What training adds to a model: a low-rank update per weight, kept as thin fp32 factors and never as a difference.

    W_t = cast(W0 + sum_i B_i A_i)        B_i (out, k_i), A_i (k_i, in) fp32, W0 in the model's dtype

The sum is taken in fp32 over the concatenated factors, starting from W0 every time. Nothing is added to bf16 weights
and nothing is unmerged by subtraction: in-place merging in bf16 loses most of a small update and drifts over cycles.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from boostlib.common.targets import hold, matrix


class LowRankUpdate(Mapping[str, tuple[Tensor, Tensor]]):
    """Module name -> (B (out, k), A (k, in)), fp32; the update of that weight is B @ A."""

    def __init__(self, factors: Mapping[str, tuple[Tensor, Tensor]] | None = None):
        self._factors = dict(factors or {})

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        return self._factors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)

    def __add__(self, other: "LowRankUpdate") -> "LowRankUpdate":
        """Both updates: factors side by side, so ranks add up to k1 + k2 and no number is rounded."""
        joined = dict(self)
        for name, (b, a) in other.items():
            if name in joined:
                b = torch.cat([joined[name][0], b], dim=1)
                a = torch.cat([joined[name][1], a], dim=0)
            joined[name] = (b, a)
        return LowRankUpdate(joined)

    def norm(self) -> float:
        """Frobenius norm over all weights together, in fp64 from the factors: |BA|^2 = <B^T B, A A^T>."""
        squares = (((b.double().T @ b.double()) * (a.double() @ a.double().T)).sum() for b, a in self.values())
        return max(0.0, float(sum(float(square) for square in squares))) ** 0.5

    def tensors(self) -> dict[str, Tensor]:
        """`<module>.B` and `<module>.A` of every module."""
        return {f"{name}.{part}": t for name, ba in self.items() for part, t in zip("BA", ba, strict=True)}

    def save(self, path: str | Path) -> None:
        """One safetensors file of `tensors`."""
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in self.tensors().items()}, path)

    @classmethod
    def load(cls, path: str | Path) -> "LowRankUpdate":
        """Reads what `save` wrote."""
        tensors = load_file(path)
        names = dict.fromkeys(key.rsplit(".", 1)[0] for key in tensors)
        return cls({name: (tensors[f"{name}.B"], tensors[f"{name}.A"]) for name in names})


class Weights:
    """W0 of a model's target weights, the update merged so far, and the writing of W0 + update into the model.

    Holds one copy of W0 on `device` (default: where the weights are). Take it while the model holds W0. On a CPU the
    tensors that `holding` puts in place are kept for the next time: fresh pages cost more than the product (110 ms
    against 46 for SmolLM2 in fp32, AMD EPYC); a GPU's allocator keeps them anyway.
    """

    def __init__(self, model: nn.Module, names: list[str], device: str | torch.device | None = None):
        self.modules = {name: model.get_submodule(name) for name in names}
        self.w0 = {n: matrix(m).detach().to(device or m.weight.device, copy=True) for n, m in self.modules.items()}
        self.update = LowRankUpdate()
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def value(self, name: str, update: LowRankUpdate, out: Tensor | None = None) -> Tensor:
        """cast(W0 + B @ A) of one weight, on the device and in the dtype of the model, in `out` if given. (out, in)"""
        weight = self.modules[name].weight
        w0 = self.w0[name].to(weight.device)
        if name not in update:
            return w0.clone() if out is None else out.copy_(w0)
        b, a = (factor.to(weight.device) for factor in update[name])
        if weight.dtype == torch.float32:  # laid out as W0 is
            return torch.addmm(w0.float(), b, a, out=torch.empty_like(w0, dtype=torch.float32) if out is None else out)
        total = torch.addmm(w0.float(), b, a)
        return total.to(weight.dtype) if out is None else out.copy_(total)

    @torch.no_grad()
    def set(self, update: LowRankUpdate) -> None:
        """Write W0 + update into the model; this is merging, and rollback too."""
        for name, module in self.modules.items():
            matrix(module).copy_(self.value(name, update))
        self.update = update

    @contextmanager
    def holding(self, update: LowRankUpdate) -> Iterator[None]:
        """Inside, the model's weights are cast(W0 + update); leaving puts back the untouched tensors they were.

        The tensors inside are written over by the next `holding`: clone what is to last.
        """
        plain = {name: module.weight.data for name, module in self.modules.items()}
        kept, self._kept = self._kept, {}  # a `holding` inside this one gets tensors of its own
        try:
            for name, module in self.modules.items():
                out = kept.get(name)
                kept[name] = self.value(name, update, out if _fits(out, module.weight) else None)
                hold(module, kept[name])
            yield
        finally:
            for name, module in self.modules.items():
                module.weight.data = plain[name]
            self._kept = {name: tensor for name, tensor in kept.items() if tensor.device.type == "cpu"}

    @torch.no_grad()
    def merge(self, update: LowRankUpdate) -> float:
        """Merge one more round; returns `fold_retention`, the share of it that survived the cast to the model's dtype.

        fold_retention = <cast(W_t) - cast(W_t-1), dW> / |dW|^2, summed over weights: 1 in fp32, less where W0's dtype
        is too coarse for the step. 1.0 for a zero update.
        """
        total = self.update + update
        kept, size = 0.0, 0.0
        for name, module in self.modules.items():
            new = self.value(name, total)
            if name in update:
                b, a = (factor.to(new.device) for factor in update[name])
                delta = b @ a
                change = (new.float() - matrix(module).float()).contiguous()  # a sum's last bits depend on its order
                kept += float((change * delta).sum(dtype=torch.float64))
                size += float(delta.square().sum(dtype=torch.float64))
            matrix(module).copy_(new)
        self.update = total
        return kept / size if size else 1.0


def _fits(kept: Tensor | None, weight: Tensor) -> bool:
    """Whether `kept` can be written over in the place of `weight`, whose model may have been moved or cast since."""
    return kept is not None and (kept.dtype, kept.device) == (weight.dtype, weight.device) and not kept.is_inference()
