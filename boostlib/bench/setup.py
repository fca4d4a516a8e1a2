"""What is measured on: the demo's model, tasks and settings, and the peer's adapter of the same size."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from peft import PeftModel, TinyLoraConfig, get_peft_model
from torch import nn

from boostlib.adapter import AdapterConfig
from boostlib.basis import target_modules
from boostlib.experiments.presets import MATH
from boostlib.models.language import load_model
from boostlib.tasks import load_task
from boostlib.tasks.base import TextTask
from boostlib.training.grpo import GRPO


@dataclass(frozen=True)
class Setup:
    """Model, tasks and sizes of all subjects. load: a fresh (model, tokenizer) at every call.

    repeats: measured runs of each side. rows: rows of a training batch. checked: how many modules' singular
    values are compared with LAPACK's (None: all). checks: programs run in the sandbox.
    """

    load: Callable[[], tuple[nn.Module, object]] = lambda: load_model("smollm2")
    task: TextTask = field(default_factory=lambda: load_task("arithmetic"))
    code: TextTask = field(default_factory=lambda: load_task("python_basics"))
    trainer: GRPO = MATH["demo"].trainer
    adapter: AdapterConfig = MATH["demo"].boost.adapter
    rounds: int = 20
    repeats: int = 3
    prompts: int = MATH["demo"].trainer.prompts
    samples: int = MATH["demo"].trainer.samples
    new_tokens: int = 16
    rows: int = 16
    batch_size: int = MATH["demo"].boost.batch_size
    checked: int | None = None
    checks: int = 60


def peft_tiny_lora(model: nn.Module, adapter: AdapterConfig, moved: bool = False) -> PeftModel:
    """PEFT's TinyLoRA on the same modules of `model`, with as many numbers; moved: v is not 0 but uniform noise.

    PEFT ties by a ratio: 1 - groups / modules leaves as many groups as ours has.
    """
    names = target_modules(model)
    config = TinyLoraConfig(
        r=adapter.rank,
        u=adapter.u,
        weight_tying=1 - adapter.groups(len(names)) / len(names),
        target_modules=names,
        init_weights="uniform" if moved else True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that v starts at 0, and that a model may be wrapped more than once
        return get_peft_model(model, config).eval()
