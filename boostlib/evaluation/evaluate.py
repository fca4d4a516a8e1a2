"""Who gets it right: decode greedily and score with the task's own extractor, or classify; keep what failed.

The same extractor serves evaluation and reward, and strict and lenient accuracy are both kept: much of what is
reported as learning is formatting. `correct` is the lenient one: the answer found equals the gold answer. `strict`
asks in addition for the format that the prompt asked for. A classifier is right where the sign of its logit is the
label's, or the largest of several is; there is no format to miss, so both are the same.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from boostlib.common import world
from boostlib.common.errors import BoostError, DataError, ModelError
from boostlib.common.settings import Count, Flag, Name, Seed, Share, checks, short
from boostlib.evaluation.decode import Decode, Decoder
from boostlib.evaluation.generate import prompts_of
from boostlib.models.classifier import SequenceClassifier, logits
from boostlib.models.sequences import encode_examples
from boostlib.models.subject import Subject
from boostlib.tasks.base import Example, LabelTask, Task, class_ids


@dataclass(frozen=True)
class Result:
    """One evaluation, example by example, in the order of the split."""

    ids: list[str]
    correct: np.ndarray  # (n,) bool: the answer is right
    strict: np.ndarray  # (n,) bool: right, and in the format asked for
    completions: list[str]  # of a text task
    tokens: int  # generated tokens; read tokens of a classifier
    seconds: float
    logits: np.ndarray | None = None  # (n,) or (n, k) float32, of a classifier

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


@checks
def evaluate(
    model: nn.Module,
    tokenizer,
    task: Task,
    split: Name = "train",
    batch_size: Count = 64,
    examples: Sequence[Example] | None = None,
    progress: Flag = True,
    decoder: Decoder | None = None,
) -> Result:
    """Answers to a split (or to `examples`), scored: greedy completions, or a classifier's logits.

    decoder: how texts are completed, default `Decode(batch_size)`: see decode.py; not for classifiers.
    Where several processes share a run all of them call it: each answers and scores its share, and all get the whole.

    Raises DataError where there is nothing to score, ModelError where the model is not of the task's kind.
    """
    examples = task.split(split) if examples is None else list(examples)
    if not examples:
        raise DataError(f"task {task.name!r} has no examples in split {split!r}")
    require_kind(model, task)
    classifier, subject = isinstance(model, SequenceClassifier), Subject(model, tokenizer, task)
    if classifier and decoder is not None and not isinstance(decoder, Decode):
        raise ModelError(f"evaluate(decoder={decoder}): it completes texts, and a classifier writes none: leave it out")
    decoder = decoder or Decode(batch_size)
    decoder.ready(subject)
    start = time.perf_counter()
    hidden = not (progress and world.is_main())
    with tqdm(
        total=len(world.share(examples)), desc=f"evaluate {split}", unit="ex", leave=False, disable=hidden
    ) as bar:
        if classifier:
            found = _classified(subject, examples, batch_size, bar.update)
        else:
            found = _completed(subject, examples, decoder, bar.update)
    return Result(ids=[example.id for example in examples], seconds=time.perf_counter() - start, **found)


def require_kind(model: nn.Module, task: Task) -> None:
    """Raises ModelError where a language model is to answer a task of labels, a classifier one of texts or of other
    classes."""
    if isinstance(model, SequenceClassifier) != isinstance(task, LabelTask):
        asked, loader = ("labels", "load_classifier") if isinstance(task, LabelTask) else ("texts", "load_model")
        raise ModelError(f"task {task.name!r} asks for {asked}: load the model with {loader}(name)")
    if isinstance(model, SequenceClassifier) and isinstance(task, LabelTask) and model.classes != task.classes:
        has, asks = (f"{len(names)} ({short(', '.join(names), 60)})" for names in (model.classes, task.classes))
        raise ModelError(
            f"the model's head is for the classes {has}, and task {task.name!r} has {asks}: call "
            "train_head(model, tokenizer, task) first"
        )


def _completed(subject: Subject, examples: Sequence[Example], decoder: Decoder, on_batch) -> dict:
    def answers(part: Sequence[Example]) -> list[tuple[str, bool, bool, int]]:
        prompts = prompts_of(subject, part)
        ids = decoder.complete(subject, prompts, on_batch)
        texts = subject.tokenizer.batch_decode(ids, skip_special_tokens=True)
        scores = subject.task.score_many(texts, part)
        return [(text, s.correct, s.strict, len(row)) for text, s, row in zip(texts, scores, ids, strict=True)]

    texts, correct, strict, lengths = zip(*world.spread(examples, answers), strict=True)
    right = {"correct": np.array(correct, dtype=bool), "strict": np.array(strict, dtype=bool)}
    return {**right, "completions": list(texts), "tokens": sum(lengths)}


def _classified(subject: Subject, examples: Sequence[Example], batch_size: int, on_batch) -> dict:
    subject.model.require_trained_head()
    encoded = encode_examples(subject, examples)
    found = logits(subject, encoded, batch_size, on_batch).numpy()  # (n,) or (n, k)
    correct = said(found) == class_ids(subject.task, examples)
    tokens = sum(len(one.ids) for one in encoded)
    return {"correct": correct, "strict": correct, "completions": [], "tokens": tokens, "logits": found}


def said(logits: np.ndarray) -> np.ndarray:
    """(n,) ids of the classes that logits (n,) or (n, k) say."""
    return (logits > 0).astype(int) if logits.ndim == 1 else logits.argmax(axis=1)


@checks
def paired_bootstrap(
    before: np.ndarray, after: np.ndarray, seed: Seed = 0, resamples: Count = 10_000, level: Share = 0.95
) -> tuple[float, float, float]:
    """(mean gain, low, high) of after - before, resampling examples with both of their outcomes kept together.

    before, after: (n,) or (runs, n) bool or float. With several runs the same examples are drawn for all of them, and
    runs are drawn too, so the interval covers both which problems were asked and which seed was trained with.
    Raises BoostError for outcomes of different shapes, without an example, or that are no finite numbers.
    """
    try:
        ends = [np.asarray(side, dtype=float) for side in (before, after)]
    except (TypeError, ValueError) as error:
        raise BoostError(f"paired_bootstrap: outcomes must be (n,) or (runs, n) numbers: {error}") from None
    if ends[0].shape != ends[1].shape or ends[0].ndim not in (1, 2) or not ends[0].size:
        raise BoostError(
            f"paired_bootstrap: before {ends[0].shape} and after {ends[1].shape} must be of one shape: (n,), (runs, n)"
        )
    if not np.isfinite(ends).all():
        raise BoostError("paired_bootstrap: an outcome is not finite: leave the example out on both sides")
    gain = np.atleast_2d(ends[1] - ends[0])  # (runs, n)
    runs, n = gain.shape
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(resamples):
        rows = rng.integers(runs, size=runs)
        means[i] = gain[rows][:, rng.integers(n, size=n)].mean()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(gain.mean()), float(low), float(high)
