"""LoRA rounds: PEFT's LoRA of rank r on every target module as the adapter of a round, with the verbs of TinyLoRA.

    dW_t = (alpha / r) B_t A_t      B_t (out, r) starts at 0, A_t (r, in) is PEFT's own uniform draw      alpha = r
    W_t = cast(W0 + dW_1 + .. + dW_t)                                      (Hu et al. 2021, arXiv 2106.09685)

The alternative to the paper's learner. A round's numbers are its factors: r (out + in) a module, where TinyLoRA trains
a few in all, so a round's file takes kilobytes or megabytes instead of bytes. A round has no plan, and no basis to
choose from: its directions are what training makes of a random A.

Rounds of it on all examples are the loop of Chain of LoRA (Xia et al. 2024, arXiv 2401.04151): train a LoRA, merge it,
begin a new one with a new draw and a new optimizer. There the losses are supervised ones; here a round is some steps of
GRPO or cross-entropy, and every example is evaluated after it. Rank 1 a round is the idea of XGBLoRA (Zhang et al.
2024, arXiv 2410.19694), boosting with the smallest LoRA that there is. There each round adapts a random choice of
layers; here every target module gets a LoRA in every round. Rounds on failures alone, BoostLoRA's choice, are in
neither.

Departures from PEFT's way: it merges by adding to the weights and unmerges by subtracting. Here rollouts, scores and
merges write cast(W0 + merged + dW) from an untouched W0, and the factors are fp32 whatever the model's dtype. A is
drawn by torch's generator on the CPU from the round's seed; replay does not depend on it, as A trains and is recorded.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from boostlib.adapter import Plan
from boostlib.basis import SVDBasis
from boostlib.common.errors import BoostError
from boostlib.common.settings import Count, Names, checked
from boostlib.common.stable import round_seed
from boostlib.common.targets import target_modules
from boostlib.models.agreement import random_directions
from boostlib.update import LowRankUpdate, Weights


@dataclass(frozen=True)
@checked
class LoRAConfig:
    """Settings of LoRA rounds, in the place of an AdapterConfig; part of a run's identity. The run's seed draws A."""

    rank: Count = 1

    def settings(self) -> dict[str, Any]:
        """What identifies these settings in a run."""
        return {"strategy": "lora", **asdict(self)}

    def basis(self, model: nn.Module, rounds: int, targets: Names | None = None) -> SVDBasis:
        """The target modules, with random directions: a LoRA looks into no singular ones, and no SVD is paid for."""
        return random_directions(model, target_modules(model, targets))

    def adapter(self, basis: SVDBasis, round: int, plan: Plan = ()) -> "LoRA":
        """A LoRA to `restore` the numbers of a recorded round in; there is no plan."""
        return LoRA(list(basis), self.rank, round=round)


class NextLoRA:
    """The learner of LoRA rounds: see `Learner` in choices.py."""

    def fresh(self, run, failures) -> tuple["LoRA", dict[str, Any]]:
        """A LoRA that starts from zero again, whose A follows from the run's seed and the round."""
        index, rank = len(run.rounds), run.config.lora.rank
        return LoRA(list(run.basis), rank, round_seed(run.config.seed, index), index), {}


class LoRA:
    """A LoRA of `rank` for the modules `names` of the model that is attached to. The seed decides A."""

    def __init__(self, names: list[str], rank: int = 1, seed: int = 0, round: int = 0):
        if rank < 1:
            raise BoostError(f"LoRA(rank={rank}): must be at least 1")
        self.names, self.rank, self.seed, self.round = names, rank, seed, round
        self.plan: list[tuple[int, int]] = []
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def num_parameters(self) -> int:
        """How many numbers train: r (out + in) summed over the modules. Needs factors: attached once, or restored."""
        return sum(part.numel() for pair in self._factors.values() for part in pair)

    @property
    def degrees_of_freedom(self) -> int:
        """Dimensions of the matrices of rank r that they reach: r (out + in - r) a module, as B M and M^-1 A agree."""
        return self.num_parameters - self.rank**2 * len(self._factors)

    @property
    def numbers(self) -> dict[str, Tensor]:
        """What a round's file holds: `<module>.B` (out, r) and `<module>.A` (r, in), fp32."""
        return self.update().tensors()

    def restore(self, numbers: Mapping[str, Tensor]) -> bool:
        """Take up recorded `numbers`; False, and nothing changes, where they are another adapter's."""
        if set(numbers) != {f"{name}.{part}" for name in self.names for part in "BA"}:
            return False
        found = {name: (numbers[f"{name}.B"], numbers[f"{name}.A"]) for name in self.names}
        if any((b.shape[1], a.shape[0]) != (self.rank, self.rank) for b, a in found.values()):
            return False
        self._factors = found
        return True

    def groups(self) -> list[int]:
        """One group: a round's sketch is of all its modules together."""
        return [0] * len(self.names)

    def attach(self, model: nn.Module, weights: Weights) -> "LoRA":
        """Wrap the target modules of `model` and freeze everything else. No output changes: B is 0.

        weights: W0 and the merged update, from which `folded` recomputes. Names of the wrapped weights gain PEFT's
        `.base_layer` until `detach`. That they are plain matrices, used as such, was checked when the run was opened.
        """
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
        self._factors = {
            name: (layer.lora_B["default"].weight, layer.lora_A["default"].weight)
            for name, layer in self._layers.items()
        }
        self._weights = weights
        model.eval()
        return self

    def detach(self) -> None:
        """Take the LoRA off: the model is as it was before `attach`. Its `update` stays readable."""
        self._peft.unload()
        for parameter, flag in self._frozen:
            parameter.requires_grad_(flag)

    def update(self) -> LowRankUpdate:
        """dW of every target module, detached fp32 copies on the CPU: B (out, r), A (r, in); alpha / r is 1."""
        return LowRankUpdate(
            {name: tuple(part.detach().float().cpu().clone() for part in pair) for name, pair in self._factors.items()}
        )

    @contextmanager
    def folded(self) -> Iterator[None]:
        """Inside, the weights hold cast(W0 + merged + dW) and PEFT's branch is off: the plain model's speed, nothing
        drifts."""
        with self._weights.holding(self._weights.update + self.update()):
            try:
                for layer in self._layers.values():
                    layer.forward = layer.base_layer.__call__
                yield
            finally:
                for layer in self._layers.values():
                    vars(layer).pop("forward", None)
