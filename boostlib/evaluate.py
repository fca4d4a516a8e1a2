"""Who gets it right: decode greedily, score with the task's own extractor, keep what failed.

The same extractor serves evaluation and reward, and strict and lenient accuracy are both kept: much of what is
reported as learning is formatting. `correct` is the lenient one: the answer found equals the gold answer. `strict`
asks in addition for the format that the prompt asked for.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from boostlib.errors import DataError
from boostlib.generate import encode, generate
from boostlib.tasks.base import Example, Task


@dataclass(frozen=True)
class Result:
    """One evaluation, example by example, in the order of the split."""

    ids: list[str]
    correct: np.ndarray  # (n,) bool: the answer is right
    strict: np.ndarray  # (n,) bool: right, and in the format asked for
    completions: list[str]
    tokens: int  # generated tokens
    seconds: float

    @cached_property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.correct.mean())

    @cached_property
    def strict_accuracy(self) -> float:
        """Share of right answers in the right format."""
        return float(self.strict.mean())

    @property
    def failures(self) -> list[str]:
        """Ids of the examples answered wrongly."""
        return [id for id, right in zip(self.ids, self.correct, strict=True) if not right]


def evaluate(
    model: nn.Module,
    tokenizer,
    task: Task,
    split: str = "train",
    batch_size: int = 64,
    examples: Sequence[Example] | None = None,
    progress: bool = True,
) -> Result:
    """Greedy completions of a split (or of `examples`), scored. Raises DataError where there is nothing to score."""
    examples = task.split(split) if examples is None else list(examples)
    if not examples:
        raise DataError(f"task {task.name!r} has no examples in split {split!r}")
    start = time.perf_counter()
    with tqdm(total=len(examples), desc=f"evaluate {split}", unit="ex", leave=False, disable=not progress) as bar:
        ids = generate(
            model,
            tokenizer,
            encode(tokenizer, [example.prompt for example in examples]),
            task.max_new_tokens,
            batch_size=batch_size,
            on_batch=bar.update,
            stop=task.stop,
        )
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    scores = task.score_many(texts, examples)
    return Result(
        ids=[example.id for example in examples],
        correct=np.array([score.correct for score in scores], dtype=bool),
        strict=np.array([score.strict for score in scores], dtype=bool),
        completions=texts,
        tokens=sum(map(len, ids)),
        seconds=time.perf_counter() - start,
    )


def paired_bootstrap(
    before: np.ndarray, after: np.ndarray, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float, float]:
    """(mean gain, low, high) of after - before, resampling examples with both of their outcomes kept together.

    before, after: (n,) or (runs, n) bool or float. With several runs the same examples are drawn for all of them, and
    runs are drawn too, so the interval covers both which problems were asked and which seed was trained with.
    """
    gain = np.atleast_2d(np.asarray(after, dtype=float) - np.asarray(before, dtype=float))  # (runs, n)
    runs, n = gain.shape
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(resamples):
        rows = rng.integers(runs, size=runs)
        means[i] = gain[rows][:, rng.integers(n, size=n)].mean()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(gain.mean()), float(low), float(high)
