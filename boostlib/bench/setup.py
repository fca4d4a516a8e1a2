"""What is measured on: the demo's model, tasks and settings, and the two adapters."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

from peft import PeftModel, TinyLoraConfig, get_peft_model
from torch import nn

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis, target_modules
from boostlib.common.settings import Count
from boostlib.evaluation.generate import encode
from boostlib.experiments.presets import CODE, MATH
from boostlib.models.language import load_model
from boostlib.models.subject import Subject
from boostlib.tasks import load_task
from boostlib.tasks.answers import numbers_in
from boostlib.tasks.base import Example, Score, TextTask, user_message
from boostlib.tasks.word_problems import WordProblems
from boostlib.training.grpo import GRPO
from boostlib.update import Weights


@dataclass(frozen=True, kw_only=True)
class WorkedOut(WordProblems):
    """Word problems asked of a chat model, which is to write down its steps: long completions."""

    name: ClassVar[str] = "word_problems_worked_out"
    stop: ClassVar[str | None] = None
    max_new_tokens: Count = 256

    def load_split(self, name: str) -> list[Example]:
        """The questions alone, without worked ones."""
        return [
            replace(
                one,
                prompt=user_message(str(one.prompt).rsplit("Q: ", 1)[1].removesuffix("\nA:") + " Think step by step."),
            )
            for one in super().load_split(name)
        ]

    def score(self, completion: str, example: Example) -> Score:
        """The last number is the gold one."""
        correct = numbers_in(completion)[-1:] == [int(example.answer)]
        return Score(correct, correct)


@dataclass(frozen=True)
class Setup:
    """Model, tasks and sizes of all subjects. load: a fresh (model, tokenizer) at every call.

    repeats: measured runs of each side. new_tokens: of a longer completion than the task's. checks: programs run in the
    sandbox.
    """

    load: Callable[[], tuple[nn.Module, object]] = lambda: load_model("smollm2")
    task: TextTask = field(default_factory=lambda: load_task("arithmetic"))  # type: ignore[assignment]
    code: TextTask = field(default_factory=lambda: load_task("python_basics"))  # type: ignore[assignment]
    worked_out: TextTask = field(default_factory=lambda: WorkedOut(train=48, dev=0, test=10))
    trainer: GRPO = MATH["demo"].trainer  # type: ignore[assignment]
    code_trainer: GRPO = CODE["demo"].trainer  # type: ignore[assignment]
    adapter: AdapterConfig = MATH["demo"].boost.adapter
    rounds: int = 20
    repeats: int = 3
    new_tokens: int = 16
    batch_size: int = MATH["demo"].boost.batch_size
    checks: int = 60


class Sides:
    """A model for each side, equal in weights: ours with its basis and W0, kept over rounds as in a run; the others are
    loaded when they are asked for."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.ours = Subject(*setup.load(), setup.task)
        self.basis = SVDBasis.from_model(self.ours.model, setup.adapter.rank)
        self.weights = Weights(self.ours.model, list(self.basis))

    @contextmanager
    def attached(self, size: float = 0.0) -> Iterator[TinyLoRA]:
        """A fresh adapter on our model, every number of v drawn from N(0, size^2); the model is plain afterwards."""
        adapter = TinyLoRA(self.basis, self.setup.adapter)
        adapter.v.data.normal_(std=size)
        try:
            yield adapter.attach(self.ours.model, self.weights)
        finally:
            adapter.detach()

    @cached_property
    def plain(self) -> nn.Module:
        """The model without an adapter, as it is loaded: frozen bf16 weights take a slow path on a CPU."""
        return self.setup.load()[0]

    @cached_property
    def peer(self) -> PeftModel:
        """The model with PEFT's adapter, v not at 0."""
        return peft_tiny_lora(self.setup.load()[0], self.setup.adapter, moved=True)

    def prompts(self, task: TextTask, count: int) -> list[list[int]]:
        """Token ids of the first training prompts of a task."""
        return encode(self.ours.tokenizer, [example.prompt for example in task.split("train")[:count]])


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
