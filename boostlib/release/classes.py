"""What a run did to each class of errors: right before and after, fixed, broken, and the cost that it saved.

    gain = mean(after - before)        cost saved = sum_i c_i (after_i - before_i)        over the examples of a class

A class is `Example.kind`. "before" is the untrained model, "after" the model after the last round. c_i comes from
`task.costs`, a mapping of ids or classes to numbers, where the task has one, else from the example's own `cost` (an
error log's cases have one), and is 1 otherwise; where a classifier's task has costs by pair (right, said), a mistake
costs what its pair does, before and after. Intervals are paired 95% bootstrap intervals within the class: an
example's two outcomes stay together.

The train split is what rounds were trained on: its gains are no estimate for new cases; the held-out splits are. A
class of a few examples has a wide interval, and one whose outcomes all moved alike a degenerate one (low = high).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from boostlib.common.errors import BoostError
from boostlib.common.settings import short, valid
from boostlib.config import data_hash
from boostlib.evaluation.evaluate import paired_bootstrap
from boostlib.evaluation.scoring import said_of
from boostlib.plots.style import BROKEN, COLORS, FIXED, GREY, SIZE, canvas
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Base, Round
from boostlib.tasks.base import Example, Task, paid

NO_CLASS = "(no class)"
ALL = "(all)"
RESAMPLES = 2000


def class_report(ledger: Ledger, task: Task) -> pd.DataFrame:
    """One row a (split, class), the worst cost before first, and a row `(all)` where a split has several classes.

    Columns: n, before, after (accuracies), gain, low, high, fixed, broken, cost before, cost after, cost saved, saved
    low, saved high. Raises BoostError where `task` is not the one of the run, or costs name no id or class of it.
    """
    base = valid("class_report(ledger=", ledger, Ledger).base
    if base is None:
        raise BoostError(f"{ledger.dir} holds no finished evaluation yet: run it first")
    if not callable(getattr(task, "settings", None)):
        raise BoostError(f"class_report(task={short(task)}): must be a task, such as load_task gives")
    splits = {split: run_examples(ledger, task, split) for split in ("train", *base.metrics)}
    costs = _checked_costs(task, [example for examples in splits.values() for example in examples])
    rows = []
    for split, examples in splits.items():
        before_after = np.array(outcomes(ledger, split, examples))
        each = [costs.get(e.id, costs.get(_class(e), getattr(e, "cost", 1.0))) for e in examples]
        mistakes = [
            paid(task, examples, each, right, said_of(task, split, right, row.metrics, row.train_said))
            for row, right in zip(_ends(ledger), before_after, strict=True)
        ]
        rows += _split_rows(split, np.array([_class(e) for e in examples]), before_after, np.array(mistakes))
    return pd.DataFrame(rows).set_index(["split", "class"])


def plot_classes(df: pd.DataFrame, split: str | None = None, ax=None):
    """Share right before (open) and after (filled) by class, with what was fixed and broken; returns the Axes.

    split: default the last one of `df`, a held-out one where there is any.
    """
    split = split or df.index.get_level_values("split")[-1]
    rows = df.loc[split]
    ax = canvas(ax, (SIZE[0], 0.7 + 0.32 * len(rows)))
    for place, (_, row) in enumerate(rows.iterrows()):
        color = FIXED if row["after"] >= row["before"] else BROKEN
        ax.plot([row["before"], row["after"]], [place, place], color=GREY, lw=3, zorder=1)
        ax.plot(row["before"], place, "o", mfc="white", mec=COLORS[6], ms=5)
        ax.plot(row["after"], place, "o", color=color, ms=5)
        ax.text(1.04, place, f"+{row['fixed']:.0f} \N{MINUS SIGN}{row['broken']:.0f}", va="center", fontsize=8)
    labels = [f"{name} ({row['n']:.0f})" for name, row in rows.iterrows()]
    ax.set(yticks=range(len(rows)), xlim=(-0.04, 1.02), xlabel=f"share right, {split}: open before, filled after")
    ax.set_yticklabels(labels, parse_math=False)
    ax.invert_yaxis()
    return ax


def _split_rows(split: str, classes: np.ndarray, outcomes: np.ndarray, mistakes: np.ndarray) -> list[dict]:
    found = [
        {"class": name, **_row(outcomes[:, classes == name], mistakes[:, classes == name])} for name in set(classes)
    ]
    found.sort(key=lambda row: (-row["cost before"], row["class"]))
    if len(found) > 1:
        found.append({"class": ALL, **_row(outcomes, mistakes)})
    return [{"split": split, **row} for row in found]


def _row(outcomes: np.ndarray, mistakes: np.ndarray) -> dict:
    """The columns of some examples, before and after: outcomes (2, n) bool, mistakes (2, n) what each costs."""
    before, after = outcomes
    gain, low, high = paired_bootstrap(before, after, resamples=RESAMPLES)
    saved, *ends = (len(before) * x for x in paired_bootstrap(*-mistakes, resamples=RESAMPLES))
    return {
        "n": len(before),
        "before": before.mean(),
        "after": after.mean(),
        "gain": gain,
        "low": low,
        "high": high,
        "fixed": int((after & ~before).sum()),
        "broken": int((before & ~after).sum()),
        "cost before": float(mistakes[0].sum()),
        "cost after": float(mistakes[1].sum()),
        "cost saved": saved,
        "saved low": ends[0],
        "saved high": ends[1],
    }


def _ends(ledger: Ledger) -> tuple[Base, Base | Round]:
    """The untrained model's row, and the last."""
    return ledger.base, (ledger.rounds or (ledger.base,))[-1]


def outcomes(ledger: Ledger, split: str, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool twice: right before the first round and after the last."""
    rounds = ledger.rounds
    if split == "train":
        failing = (set(ledger.failures_after(count)) for count in (0, len(rounds)))
        before, after = ([example.id not in ids for example in examples] for ids in failing)
    else:
        before, after = (row.metrics[split].bits() for row in _ends(ledger))
    return np.array(before, dtype=bool), np.array(after, dtype=bool)


def run_examples(ledger: Ledger, task: Task, split: str) -> list[Example]:
    """A split of `task`. Raises BoostError where it is not the data that the run recorded."""
    identity = ledger.header["identity"]
    if identity["data"].get(split) != data_hash(task, split):
        raise BoostError(
            f"task {task.name!r} is not the one of {ledger.dir} (its {split} split differs): load "
            f"{identity['task']['name']!r} with the settings in run.json"
        )
    return task.split(split)


def _checked_costs(task: Task, examples: Sequence[Example]) -> Mapping[str, float]:
    costs = getattr(task, "costs", None) or {}
    unknown = sorted(set(costs) - {e.id for e in examples} - {_class(e) for e in examples})
    if unknown:
        known = ", ".join(sorted({_class(e) for e in examples}))
        raise BoostError(f"costs of {', '.join(unknown)}: no id and no class of task {task.name!r}, which has {known}")
    return costs


def _class(example: Example) -> str:
    return example.kind or NO_CLASS
