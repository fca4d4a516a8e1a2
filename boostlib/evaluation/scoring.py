"""A pass over a run's splits, in the form that a ledger keeps: who failed, and how accurate every split is.

What scores anything here (`run`) is a Subject with `config` and `decoder`, as a Run is.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from boostlib.evaluation.evaluate import Result, evaluate, said
from boostlib.evaluation.generate import prompts_of
from boostlib.records.rows import Base, Round, Scores, pack_bits, pack_ids, pack_logits, unpack_ids
from boostlib.tasks.base import LabelTask, class_ids


def score_splits(run, progress: bool = True) -> dict[str, Any]:
    """The whole training set and every held-out split: "failures", "train_accuracy", "train_strict", "metrics", and
    "train_said" of a classifier of more than two classes."""
    results = {
        split: evaluate(
            run.model, run.tokenizer, run.task, split, run.config.batch_size, progress=progress, decoder=run.decoder
        )
        for split in ("train", *run.config.held_out)
    }
    train = results.pop("train")
    return {
        "failures": train.failures,
        "train_accuracy": train.accuracy,
        "train_strict": train.strict_accuracy,
        "metrics": {split: _scores(run, split, result) for split, result in results.items()},
        "train_said": pack_ids(_said(train)),
    }


def base_row(run, fingerprint: str, progress: bool = True) -> Base:
    """The untrained model's line. What its passes cost is no round's, so the decoder's entry is dropped."""
    start = time.perf_counter()
    if not isinstance(run.task, LabelTask):
        for split in ("train", *run.config.held_out):  # a prompt without room is found before hours of work, not after
            prompts_of(run, run.task.split(split))
    scores = score_splits(run, progress)
    run.decoder.entry()
    return Base(**scores, weights_fingerprint=fingerprint, seconds=round(time.perf_counter() - start, 2))


def unchanged(last: Base | Round, failures: Sequence[str]) -> dict[str, Any]:
    """The scores after a round that changed no weight: those before it."""
    return {
        "failures": failures,
        "train_accuracy": last.train_accuracy,
        "train_strict": last.train_strict,
        "metrics": last.metrics,
        "train_said": last.train_said,
    }


def fixed_and_broken(failures: Sequence[str], scores: dict[str, Any]) -> dict[str, Any]:
    """A round's scores in terms of the failures it started from: who was fixed, who was broken."""
    before, after = set(failures), set(scores["failures"])
    return {
        **scores,
        "failures": failures,
        "fixed": [id for id in failures if id not in after],
        "broken": [id for id in scores["failures"] if id not in before],
    }


def said_of(task, split: str, right: np.ndarray, metrics: Mapping[str, Scores], train_said: str) -> np.ndarray | None:
    """(n,) ids of what a classifier said of `split`, from a row's `metrics` and `train_said`; None of a language model.

    right: (n,) bool who was right. Of two classes, who is wrong on the training split said the other one.
    """
    if not isinstance(task, LabelTask):
        return None
    if split != "train":
        return metrics[split].said().astype(int)
    labels = class_ids(task, task.split(split))
    return unpack_ids(train_said) if train_said else np.where(right, labels, 1 - labels)


def _said(result: Result) -> np.ndarray:
    """(n,) what a classifier of more than two classes said; else empty."""
    return np.zeros(0) if result.logits is None or result.logits.ndim == 1 else said(result.logits)


def _scores(run, split: str, result: Result) -> Scores:
    scores = Scores(result.accuracy, result.strict_accuracy, pack_bits(result.correct))
    if len(_said(result)):
        right = class_ids(run.task, run.task.split(split))
        scores.classes = pack_ids(np.concatenate([_said(result), right[~result.correct]]))
    elif result.logits is not None:
        scores.logits = pack_logits(result.logits)
    return scores
