"""The LoRA baseline: PEFT's LoRA of rank r on every target module, used with the verbs of TinyLoRA.

    dW = (alpha / r) B A        B (out, r) starts at 0, A (r, in) is PEFT's own uniform draw    alpha = r
    (Hu et al. 2021, arXiv 2106.09685)

Departures from PEFT's way: it merges by adding to the weights and unmerges by subtracting. Here rollouts, scores and
the final merge write cast(W0 + dW) from an untouched W0, and the factors are fp32 whatever the model's dtype.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from boostlib.common.errors import BoostError
from boostlib.common.targets import require_plain
from boostlib.models.agreement import random_directions, require_agreement
from boostlib.update import LowRankUpdate, Weights


class LoRA:
    """A LoRA of `rank` for the modules `names` of the model that is attached to. The seed decides A."""

    def __init__(self, names: list[str], rank: int = 1, seed: int = 0):
        if rank < 1:
            raise BoostError(f"LoRA(rank={rank}): must be at least 1")
        self.names, self.rank, self.seed = names, rank, seed

    @property
    def num_parameters(self) -> int:
        """How many numbers train: r (out + in) summed over the modules. Needs an attached LoRA."""
        return sum(p.numel() for layer in self._layers.values() for p in layer.parameters() if p.requires_grad)

    def attach(self, model: nn.Module, weights: Weights) -> "LoRA":
        """Wrap the target modules of `model` and freeze everything else. No output changes: B is 0.

        weights: W0, taken before. Names of the wrapped weights gain PEFT's `.base_layer` until `detach`. Raises
        ModelError for weights that are no plain matrices, or that are not used as such.
        """
        require_plain(model, self.names)
        require_agreement(model, random_directions(model, self.names), named=True)
        self._frozen = [(p, p.requires_grad) for p in model.parameters()]
        transposed = isinstance(model.get_submodule(self.names[0]), Conv1D)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.rank,
            lora_dropout=0.0,
            target_modules=self.names,
            fan_in_fan_out=transposed,  # PEFT warns of each module otherwise, and does the same
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)  # PEFT asks by the old name
            torch.manual_seed(self.seed)
            self._peft = get_peft_model(model, config)
        self._layers = {name: model.get_submodule(name) for name in self.names}
        self._weights = weights
        model.eval()
        return self

    def detach(self) -> None:
        """Take the LoRA off: the model is as it was before `attach`. Its `update` stays readable."""
        self._peft.unload()
        for parameter, flag in self._frozen:
            parameter.requires_grad_(flag)

    def update(self) -> LowRankUpdate:
        """dW of every target module, detached fp32 copies on the CPU: B (out, r) scaled, A (r, in)."""
        pairs = {}
        for name, layer in self._layers.items():
            b, a = (part["default"].weight.detach().float().cpu() for part in (layer.lora_B, layer.lora_A))
            pairs[name] = (b * layer.scaling["default"], a.clone())
        return LowRankUpdate(pairs)

    @contextmanager
    def folded(self) -> Iterator[None]:
        """Inside, the weights hold cast(W0 + dW) and PEFT's branch is off: the plain model's speed, nothing drifts."""
        with self._weights.holding(self.update()):
            try:
                for layer in self._layers.values():
                    layer.forward = layer.base_layer.__call__
                yield
            finally:
                for layer in self._layers.values():
                    vars(layer).pop("forward", None)
