"""Which settings bring a preset under the memory that is there.

    while peak > have: take the first change of the list that lowers the peak

The list begins with what changes no result: W0 on the CPU, fewer completions sampled or trained on together, smaller
batches in evaluation; gradient checkpointing, which runs every layer twice, comes last.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from boostlib.experiments.memory import GB, estimate
from boostlib.experiments.presets import Preset
from boostlib.training.grpo import GRPO


def remedy(preset: Preset, have: float, device: torch.device | None = None) -> str:
    """Settings under which the preset's estimate is at most `have` bytes, in words; "" where it fits as it is.

    Says what is the least that it needs where none of them is enough.
    """
    need, changed = estimate(preset, device).peak(), {}
    while need > have:
        smaller = next(((n, p, size) for n, p in _changes(preset) if (size := _peak(p, device)) < need), None)
        if smaller is None:
            return f"no setting is enough: it needs {need / GB:.1f} GB at least"
        (name, value), preset, need = smaller
        changed[name] = value
    settings = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    return f"{settings}: {need / GB:.1f} GB" if changed else ""


def _peak(preset: Preset, device: torch.device | None) -> float:
    return estimate(preset, device).peak()


def _changes(preset: Preset) -> Iterator[tuple[tuple[str, object], Preset]]:
    """((setting, its new value), the preset with it), the least disturbing first."""
    boost, trainer = preset.boost, preset.trainer
    if boost.w0_device is None:
        yield ("w0_device", "cpu"), replace(preset, boost=replace(boost, w0_device="cpu"))
    step = trainer.prompts * trainer.samples if isinstance(trainer, GRPO) else trainer.batch
    for name in ("rollout_batch", "micro_batch"):
        half = min(getattr(trainer, name, 1), step) // 2  # a setting above what a step takes has no effect
        if half:
            yield (name, half), replace(preset, trainer=replace(trainer, **{name: half}))
    if boost.batch_size > 1:
        half = boost.batch_size // 2
        yield ("batch_size", half), replace(preset, boost=replace(boost, batch_size=half))
    if getattr(trainer, "gradient_checkpointing", True) is False:
        checkpointed = replace(trainer, gradient_checkpointing=True)
        yield ("gradient_checkpointing", True), replace(preset, trainer=checkpointed)
