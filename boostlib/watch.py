"""What must hold around every training: the numbers stay fp32 and finite, and a signal moves them."""

from collections.abc import Sequence

import torch
from torch import nn

from boostlib.adapter import TinyLoRA
from boostlib.errors import TrainingError
from boostlib.stable import fingerprint_tensors


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
        if self.adapter is not None and self.adapter.v.dtype != torch.float32:
            raise TrainingError(f"the adapter's v is {self.adapter.v.dtype}, not fp32: something cast the whole model")
        return fingerprint_tensors((str(i), p) for i, p in enumerate(self.parameters))
