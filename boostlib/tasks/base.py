"""What a task is, and what all tasks share.

A task is named splits of examples and a scorer (a `LabelTask`, which a classifier answers, needs none). One scorer
serves the reward in training, the choice of failures and the evaluation, so that a gain can never be a difference
between two extractors:

    correct   the extracted answer equals the gold one, however it was given: failures and reward use this
    strict    correct, and given in the format that the prompt asked for: reported beside it

`strict` implies `correct`. A gain in `correct` without one in `strict`, or the reverse, is about format.

Each task is a frozen dataclass. Its fields are its settings, and every field takes part in the identity of a run
except those declared with `compare=False` (paths).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
from pydantic import Field

from boostlib.common.errors import BoostError, DataError
from boostlib.common.settings import AnyPath, Count, Name, Positive, Whole, judged, kinds, short
from boostlib.common.stable import philox, stable_seed

YES_OR_NO = ("0", "1")
Prompt = str | list[dict[str, str]]
Limits = Annotated[
    Mapping[str, Count], Field(description='a mapping of splits to whole numbers of at least 1, such as {"train": 500}')
]
PairCosts = Annotated[
    Mapping[Name, Mapping[Name, Positive]],
    Field(description='a mapping such as {"fraud": {"sales": 5}}: a cost is a positive number'),
]
PromptOptions = Annotated[
    Mapping[str, bool | int | float | str],
    Field(description='a mapping of variables of the chat template, such as {"enable_thinking": False}'),
]


@dataclass(frozen=True)
class Example:
    """One problem: `prompt` is raw text or chat messages, `id` is unique in its split, `kind` groups it in reports."""

    id: str
    prompt: Prompt
    answer: str
    kind: str = ""


@dataclass(frozen=True)
class Score:
    """What a completion is worth: `correct` (lenient) and `strict` (correct in the format that was asked for).

    `share`: how much of it is right, 0..1, where a task was asked to say so; the reward is then this share.
    """

    correct: bool
    strict: bool
    share: float | None = None

    @property
    def reward(self) -> float:
        return float(self.correct) if self.share is None else self.share


class Task(Protocol):
    """What the loop needs of a task; subclasses of `SplitTask` have it."""

    @property
    def name(self) -> str: ...

    @property
    def splits(self) -> tuple[str, ...]: ...

    def split(self, name: str) -> list[Example]: ...

    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class SplitTask(ABC):
    """Base of the tasks here: checks and cuts what `load_split` gives.

    `limits` maps a split to the most examples it keeps, as in `limits={"train": 500}`: see `cut`.
    A subclass sets `name`, `splits`, and defines `load_split`. Fields are checked by their annotations
    (see common/settings.py), those of a subclass too.

    Raises BoostError for a setting that is not of its type, and DataError for a limit on a split that is not there.
    """

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    limits: Limits = field(default_factory=dict)
    _loaded: dict[str, list[Example]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for option, kind in kinds(type(self)):  # type: ignore[arg-type]
            value, wanted = judged(getattr(self, option), kind)
            if wanted:
                raise BoostError(f"{self.name}: {option} must be {wanted}, not {short(value)}")
            object.__setattr__(self, option, value)
        for split in self.limits:
            self._require_split(split)

    @abstractmethod
    def load_split(self, name: str) -> list[Example]:
        """All examples of split `name`, before `limits` cut it."""

    def split(self, name: str) -> list[Example]:
        """The examples of split `name`, always in the same order.

        Raises DataError: no such split, data that cannot be found or read, an id that occurs twice.
        """
        self._require_split(name)
        if name not in self._loaded:
            examples = require_unique_ids(self.load_split(name), f"{self.name}, split '{name}'")
            self._loaded[name] = cut(examples, self.limits.get(name), self.name, name)
        return list(self._loaded[name])

    def settings(self) -> dict[str, Any]:
        """Plain JSON of all that defines the task: part of the identity of a run."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        return json.loads(json.dumps({"name": self.name, **values}, default=dict))

    def _require_split(self, name: str) -> None:
        if name not in self.splits:
            raise DataError(f"{self.name} has no split '{name}'; its splits: {', '.join(self.splits)}")


@dataclass(frozen=True, kw_only=True)
class TextTask(SplitTask):
    """Base of tasks that a language model answers in text: a subclass also gives `max_new_tokens` and `score`.

    prompt_options: variables for the tokenizer's chat template, as some have to switch thinking off; part of a run's
    identity where there are any.
    """

    stop: ClassVar[str | None] = None  # a completion ends where this regular expression first matches
    max_new_tokens: Count
    prompt_options: PromptOptions = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        found = super().settings()
        return found if self.prompt_options else {name: found[name] for name in found if name != "prompt_options"}

    @abstractmethod
    def score(self, completion: str, example: Example) -> Score:
        """What `completion` is worth as an answer to `example`."""

    def score_many(self, completions: Sequence[str], examples: Sequence[Example]) -> list[Score]:
        """The scores of a batch, in order: what evaluation and the reward call."""
        return [self.score(text, example) for text, example in zip(completions, examples, strict=True)]


@dataclass(frozen=True, kw_only=True)
class DevTask(TextTask):
    """Base of published tasks with a training and a test split: `dev` training problems are held out, by a hash.

    `instruction` follows each question. A subclass gives `load_published`, for "train" and "test".
    """

    dev: Whole = 500
    instruction: str
    data_dir: AnyPath | None = field(default=None, compare=False)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "dev", "test") if self.dev else ("train", "test")

    @abstractmethod
    def load_published(self, split: str) -> list[Example]:
        """All examples of the published split."""

    def load_split(self, name: str) -> list[Example]:
        if name == "test":
            return self.load_published("test")
        return held_out(self.load_published("train"), self.dev)[name == "dev"]

    def ask(self, question: str) -> Prompt:
        return user_message(f"{question}\n\n{self.instruction}")


@dataclass(frozen=True, kw_only=True)
class LabelTask(SplitTask):
    """Base of tasks that a classifier answers by one of `classes`: here "0" or "1", of chains (see `chains.py`).

    max_length: most tokens of a prompt; None: the model's limit, at most 1,024.
    """

    classes: ClassVar[tuple[str, ...]] = YES_OR_NO
    max_length: Annotated[int, Field(ge=8, strict=True, description="a whole number of at least 8")] | None = None


@dataclass(frozen=True, kw_only=True)
class TextLabelTask(LabelTask):
    """Base of tasks whose prompts are texts, and whose answers, which are their `kind` too, the names of `classes`.

    pair_costs: class -> class that was said -> what that mistake costs, a mistake that is not named 1. A subclass calls
    `check_costs` once it has its classes.
    """

    pair_costs: PairCosts = field(default_factory=dict)

    def check_costs(self) -> None:
        """Raises BoostError for a class in `pair_costs` that is none, or a cost of what is right."""
        for right, others in self.pair_costs.items():
            unknown = [name for name in (right, *others) if name not in self.classes]
            if unknown or right in others:
                why = f"{unknown[0]!r} is no class" if unknown else f"to say {right!r} of {right!r} is no mistake"
                raise BoostError(f"{self.name}: pair_costs: {why}; the classes: {', '.join(map(repr, self.classes))}")


def class_ids(task: LabelTask, examples: Sequence[Example]) -> np.ndarray:
    """(n,) the right class of each example, as its place in `task.classes`."""
    place = {name: i for i, name in enumerate(task.classes)}
    return np.array([place[example.answer] for example in examples], dtype=int)


def paid(
    task: Task, examples: Sequence[Example], costs: Sequence[float], right: np.ndarray, said: np.ndarray | None
) -> np.ndarray:
    """(n,) what each example costs: nothing where it is right, else what its pair does in `task.pair_costs`, else its
    own of `costs`. said: (n,) ids of the classes that a classifier gave."""
    pairs = getattr(task, "pair_costs", None)
    if pairs and said is not None:
        names = [task.classes[i] for i in said]  # type: ignore[attr-defined]
        costs = [pairs.get(e.answer, {}).get(name, cost) for e, name, cost in zip(examples, names, costs, strict=True)]
    return np.where(right, 0.0, costs)


def user_message(text: str) -> Prompt:
    """A chat of one message."""
    return [{"role": "user", "content": text}]


def require_unique_ids(examples: Sequence[Example], where: str) -> list[Example]:
    """`examples` as a list. Raises DataError, naming the id, where two share one: failures are recorded by id."""
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(f"{where}: the id '{example.id}' occurs twice; every example needs an id of its own")
        seen.add(example.id)
    return list(examples)


def cut(examples: list[Example], most: int | None, *key: str) -> list[Example]:
    """At most `most` examples: a random sample that depends on `key` alone, in their first order.

    The sample of 100 is part of the sample of 500. A limit above the size keeps all.
    """
    if most is None or most >= len(examples):
        return examples
    chosen = philox("limit", *key).permutation(len(examples))[:most]
    return [examples[i] for i in sorted(chosen)]


def held_out(examples: Iterable[Example], size: int) -> tuple[list[Example], list[Example]]:
    """(the rest, the `size` held-out ones), each in order, chosen by a hash of the prompt: equal on every machine.

    Raises DataError where nothing would be left to train on.
    """
    examples = list(examples)
    if size >= len(examples):
        raise DataError(f"dev={size} leaves nothing to train on: the training file has {len(examples)} examples")
    ranks = [stable_seed("dev", json.dumps(example.prompt), bits=64) for example in examples]
    chosen = set(sorted(range(len(examples)), key=lambda i: (ranks[i], i))[:size])
    rest = [example for i, example in enumerate(examples) if i not in chosen]
    return rest, [example for i, example in enumerate(examples) if i in chosen]
