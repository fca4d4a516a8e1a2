"""Phase 1 of a classifier's run: the linear probe, a head on frozen features.

    w, b = argmin  mean_i c_i log(1 + exp(-y_i (w . z_i + b))) + |w|^2 / (2 C n)        z: standardised features
    W, b = argmin  mean_i c_i (log sum_j exp a_ij - a_iy) + |W|^2 / (2 C n)             a_i = W z_i + b, y: the class

The first is for two classes, the second for more. The encoder reads every sequence once; the fit is scikit-learn's
logistic regression. All classes weigh the same (c_i), so that of two a logit of 0 is the boundary however many binders
a split has. C is the one that the validation split likes best. The head is folded back to unstandardised features and
then frozen: boosting starts from here.

Departures: the paper trains its probe by gradient descent; the problem is convex, so it is solved here, without a
learning rate or a seed. Features that hardly vary get no weight: the last normalisation of MiniLM scales three of them
to 1e-9 and less, and a head that scaled them up again would have weights of 1e31, and gradients beyond fp32.
"""

import logging
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from tqdm.auto import tqdm

from boostlib.common import world
from boostlib.common.errors import DataError
from boostlib.common.settings import Count, Flag, Name, checks
from boostlib.evaluation.evaluate import require_kind
from boostlib.models.classifier import SequenceClassifier, features
from boostlib.models.sequences import encode_examples, say_what_was_cut
from boostlib.models.subject import Subject
from boostlib.tasks.base import LabelTask, class_ids

log = logging.getLogger(__name__)

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C, weakest fit first

DEAD = 1e-6  # a feature that varies by less than this share of the usual one gets no weight


@dataclass(frozen=True)
class Probe:
    """What phase 1 found: losses are class-balanced log losses by C."""

    C: float
    train_loss: dict[float, float]
    validation_loss: dict[float, float]
    num_parameters: int
    cut: dict[str, int]  # examples that lost residues, by split


@checks
def train_head(
    model: SequenceClassifier,
    tokenizer,
    task: LabelTask,
    batch_size: Count = 64,
    validation: Name = "validation",
    progress: Flag = True,
) -> Probe:
    """Fit the head of `model` on the training split, in place, and freeze it; a head for other classes is replaced.

    Reads, and keeps the features of, every split of the task, so that the first evaluation of a run costs nothing.
    Raises DataError where a split has one class alone, or the training split lacks one.
    """
    if isinstance(model, SequenceClassifier) and isinstance(task, LabelTask) and model.classes != task.classes:
        model.new_head(task.classes)
    require_kind(model, task)
    subject, pooled, labels, cut = Subject(model, tokenizer, task), {}, {}, {}
    for split in task.splits:
        examples = task.split(split)
        encoded = encode_examples(subject, examples)
        cut[split] = say_what_was_cut(task, split, encoded)
        labels[split] = labels_of(task, split)
        mine, hidden = len(world.share(encoded)), not (progress and world.is_main())
        with tqdm(total=mine, desc=f"features {split}", unit="seq", leave=False, disable=hidden) as bar:
            pooled[split] = features(subject, encoded, batch_size, bar.update, keep=True).double().numpy()
    fits = world.on_main(lambda: {C: _fit(pooled["train"], labels["train"], C) for C in PENALTIES})
    train_loss, loss = (
        {C: _loss(pooled[split], labels[split], *fit) for C, fit in fits.items()} for split in ("train", validation)
    )
    best = min(PENALTIES, key=lambda C: loss[C])
    weight, bias = fits[best]
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weight))
        model.head.bias.copy_(torch.from_numpy(bias))
    model.head.requires_grad_(False)
    return Probe(best, train_loss, loss, num_parameters=sum(p.numel() for p in model.head.parameters()), cut=cut)


def labels_of(task: LabelTask, split: str) -> np.ndarray:
    """(n,) ids of the right classes. Raises DataError where only one of them occurs, or "train" lacks any."""
    labels = class_ids(task, task.split(split))
    if len(set(labels)) < 2:
        raise DataError(
            f"{task.name}, split {split!r}: all {len(labels)} examples have the label {task.classes[labels[0]]}; "
            "two at least are needed"
        )
    lacking = [name for i, name in enumerate(task.classes) if split == "train" and i not in labels]
    if lacking:
        raise DataError(
            f"{task.name}: no training example of {', '.join(map(repr, lacking[:5]))} ({len(lacking)} of "
            f"{len(task.classes)} classes): add some, take more with `limits`, or leave the class out of the data"
        )
    return labels


def _fit(x: np.ndarray, y: np.ndarray, C: float) -> tuple[np.ndarray, np.ndarray]:
    """(W (1 or k, hidden), b (1 or k,)) on the features as they are."""
    scaler = StandardScaler().fit(x)
    scaler.scale_[scaler.scale_ < DEAD * np.median(scaler.scale_)] = np.inf
    solver = LogisticRegression(C=C, class_weight="balanced", max_iter=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a weak penalty may stop at max_iter: the validation loss judges it
        solver.fit(scaler.transform(x), y)
    weight = solver.coef_ / scaler.scale_
    return weight, solver.intercept_ - weight @ scaler.mean_


def _loss(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    if len(weight) == 1:
        chance = 1 / (1 + np.exp(-np.clip(x @ weight[0] + bias[0], -60, 60)))
    else:
        chance = softmax(x @ weight.T + bias, axis=1)
    labels = range(max(2, len(weight)))
    return float(log_loss(y, chance, sample_weight=compute_sample_weight("balanced", y), labels=labels))
