"""Accuracy, F1 and AUC of a classifier at the threshold 0 of its logits, with bootstrap intervals; and two honest
floors.

F1 is that of the binders. It rewards calling everything a binder: at a share p of binders that scores 2p / (1 + p),
0.67 at one half, without reading a residue. So the table of a section begins with that row, and with a logistic
regression on amino-acid composition, which knows no order of residues. The metrics are scikit-learn's; a bootstrap's
thousands of resamples use the same formulas on whole arrays, since calling it for each took 3 ms.
"""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from boostlib.tasks.base import Example, LabelTask
from boostlib.tasks.chains import AMINO_ACIDS

METRICS = ("accuracy", "F1", "AUC")


def metrics(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """accuracy, F1 and AUC from labels (n,) bool and logits (n,). AUC is nan where only one class occurs."""
    said = logits > 0
    auc = roc_auc_score(labels, logits) if 0 < np.mean(labels) < 1 else float("nan")
    return {
        "accuracy": float(accuracy_score(labels, said)),
        "F1": float(f1_score(labels, said, zero_division=0)),
        "AUC": float(auc),
    }


def bootstrap_metrics(
    labels: np.ndarray, logits: np.ndarray, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> dict[str, tuple[float, float, float]]:
    """metric -> (mean over runs, low, high); examples are resampled, and runs too where there are several.

    labels: (n,) bool. logits: (n,) or (runs, n); every run is scored on the same resampled examples.
    """
    logits, labels = np.atleast_2d(logits), np.asarray(labels, dtype=bool)
    runs, n = logits.shape
    rng = np.random.default_rng(seed)
    kept = rng.integers(n, size=(resamples, n))  # examples
    chosen = rng.integers(runs, size=(resamples, runs))  # runs
    each = np.array([_resampled(labels[kept], row[kept]) for row in logits])  # (runs, 3, resamples)
    draws = each[chosen, :, np.arange(resamples)[:, None]].mean(axis=1)  # (resamples, 3)
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    means = np.mean([list(metrics(labels, row).values()) for row in logits], axis=0)
    return {name: (float(means[i]), float(low[i]), float(high[i])) for i, name in enumerate(METRICS)}


def _resampled(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """(3, resamples): `metrics` of every row of labels and logits (resamples, n), for a thousand rows at once."""
    said, positive = logits > 0, labels.sum(axis=1)
    negative = labels.shape[1] - positive
    hits = (labels & said).sum(axis=1)
    f1 = 2 * hits / np.maximum(positive + said.sum(axis=1), 1)
    wins = np.where(labels, rankdata(logits, axis=1), 0).sum(axis=1) - positive * (positive + 1) / 2  # Mann-Whitney U
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = wins / (positive * negative)
    return np.array([(labels == said).mean(axis=1), f1, auc])


def composition(examples: Sequence[Example]) -> np.ndarray:
    """(n, sides * 21): of every side the shares of the 20 amino acids, and the logarithm of its length."""
    rows = []
    for example in examples:
        sides = [side.replace(",", "") for side in str(example.prompt).split("|")]
        rows.append(
            [x for side in sides for x in (*(side.count(a) / len(side) for a in AMINO_ACIDS), np.log(len(side)))]
        )
    return np.array(rows)


def floors(task: LabelTask, split: str = "test") -> dict[str, np.ndarray]:
    """Logits (n,) on `split` of what needs no protein model: "always binds", and a fit on composition alone."""
    train, held_out = task.split("train"), task.split(split)
    fit: Pipeline = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5000))
    fit.fit(composition(train), [example.answer == "1" for example in train])
    return {
        "always binds": np.ones(len(held_out)),
        "composition, logistic regression": fit.decision_function(composition(held_out)),
    }


def save_floors(task: LabelTask, path: str | Path, split: str = "test") -> None:
    """Write `floors` as JSON, with the task's settings: to compare with where the data are not at hand."""
    found = {name: np.round(logits, 4).tolist() for name, logits in floors(task, split).items()}
    content = {"date": date.today().isoformat(), "task": task.settings(), "split": split, "logits": found}
    Path(path).write_text(json.dumps(content) + "\n")


def load_floors(path: str | Path) -> dict[str, np.ndarray]:
    """What `save_floors` wrote, as `floors` gives it."""
    return {name: np.array(logits) for name, logits in json.loads(Path(path).read_text())["logits"].items()}
