"""Which class a classifier took for which, and how well it finds each class: before the first round and after the last.

    recall = said and right / right        precision = said and right / said        F1 = their harmonic mean

Held-out splits alone: what was said, and what was right, stands in the ledger's rows, so that no model is run. Of two
classes as of many.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from boostlib.common.errors import BoostError
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Scores, held_out
from boostlib.release.classes import run_examples
from boostlib.tasks.base import LabelTask, paid


def label_report(ledger: Ledger, task: LabelTask, split: str = "test") -> pd.DataFrame:
    """One row a class, the one that is found worst first: n, and precision, recall and F1 before and after.

    Raises BoostError where `task` is not the run's or no classifier's, or the run was not scored on `split`.
    """
    found: dict[str, np.ndarray] = {}
    for when, scores in _ends(ledger, task, split).items():
        given = scores.labels().astype(int), scores.said().astype(int)
        *parts, counts = precision_recall_fscore_support(*given, labels=range(len(task.classes)), zero_division=0)
        found |= {"n": counts}
        found |= {f"{name} {when}": part for name, part in zip(("precision", "recall", "F1"), parts, strict=True)}
    table = pd.DataFrame(found, index=pd.Index(task.classes, name="class"))
    return table[table["n"] > 0].sort_values("F1 before", kind="stable")


def pair_report(ledger: Ledger, task: LabelTask, split: str = "test") -> pd.DataFrame:
    """One row a pair (right, said) that was mistaken before or after, the dearest first: how often, and its cost.

    Raises BoostError as `label_report` does.
    """
    examples, columns = run_examples(ledger, task, split), {}
    for when, scores in _ends(ledger, task, split).items():
        said, wrong = scores.said().astype(int), ~np.array(scores.bits(), dtype=bool)
        costs = paid(task, examples, [getattr(e, "cost", 1.0) for e in examples], ~wrong, said)
        pairs = [(e.answer, task.classes[i]) for e, i in zip(examples, said, strict=True)]
        rows = pd.DataFrame(pairs, columns=["right", "said"]).assign(**{when: 1, f"cost {when}": costs})[wrong]
        columns[when] = rows.groupby(["right", "said"]).sum()
    table = pd.concat(columns.values(), axis=1).fillna(0.0).astype({"before": int, "after": int})
    return table.sort_values(["cost before", "cost after"], ascending=False, kind="stable")


def _ends(ledger: Ledger, task: LabelTask, split: str) -> dict[str, Scores]:
    """{"before", "after"} of a held-out split."""
    if not isinstance(task, LabelTask):
        raise BoostError(f"task {task.name!r} is not a classifier's: class_report is for every task")
    if ledger.base is None:
        raise BoostError(f"{ledger.dir} holds no finished evaluation yet: run it first")
    run_examples(ledger, task, split)
    rows = (ledger.base, (ledger.rounds or (ledger.base,))[-1])
    return {when: held_out(row, split) for when, row in zip(("before", "after"), rows, strict=True)}
