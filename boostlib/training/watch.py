"""Around every training: the numbers stay fp32 and finite, a signal moves them, and the best ones can be kept."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boostlib.adapter import TinyLoRA
from boostlib.common.errors import TrainingError
from boostlib.common.stable import fingerprint_tensors


class Watch:
    """Taken before training; `check` afterwards raises TrainingError where a promise was broken."""

    def __init__(self, parameters: Sequence[nn.Parameter], adapter: TinyLoRA | None):
        self.parameters, self.adapter = parameters, adapter
        self.before = self._fingerprint()

    def check(self, had_signal: bool) -> None:
        """had_signal: whether something was there to learn, so that numbers that stand still are an error."""
        if not all(torch.isfinite(p).all() for p in self.parameters):
            raise TrainingError("a trained number became NaN: lower learning_rate")
        if self._fingerprint() == self.before and had_signal:
            raise TrainingError("training had a signal, but no trained number moved: raise learning_rate")

    def _fingerprint(self) -> str:
        other = {p.dtype for p in self.parameters} - {torch.float32}
        if self.adapter is not None and other:
            raise TrainingError(f"an adapter's numbers are {other.pop()}, not fp32: something cast the whole model")
        return fingerprint_tensors((str(i), p) for i, p in enumerate(self.parameters))


class Best:
    """The numbers with the lowest loss so far."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters, self.loss, self.since, self.improved = parameters, math.inf, 0, False
        self.values: list[Tensor] = []

    def see(self, loss: float) -> int:
        """Keep the present numbers where `loss` is the lowest so far; returns how many checks have passed since."""
        if loss < self.loss:
            self.improved, self.since = bool(self.values), 0
            self.loss, self.values = loss, [copy.deepcopy(p.detach()) for p in self.parameters]
        else:
            self.since += 1
        return self.since

    @torch.no_grad()
    def restore(self) -> bool:
        """Put the best numbers back; returns whether they are better than those at the start."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.copy_(value)
        return self.improved
