"""What greedy rounds bought and what they cost, from recorded runs: tables for notebook 07 and the README.

Runs of one variant lie in directories `math-<variant>-<method>-seed<k>`, as `variants` reads them. Everything is at
equal cost: a probing batch counts as much as an optimizer step.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from boostlib.analysis.tables import finished, versus_table
from boostlib.common.errors import BoostError
from boostlib.records.ledger import Ledger
from boostlib.records.rows import held_out


def variants(folder: str | Path, names: Mapping[str, str]) -> dict[str, list[Ledger]]:
    """Runs by label; names: label -> "<section>-<variant>-<method>". Raises BoostError for a label without any."""
    found = {
        label: [Ledger(path) for path in sorted(Path(folder).glob(f"{name}-seed*"))] for label, name in names.items()
    }
    missing = [label for label, runs in found.items() if not runs]
    if missing:
        raise BoostError(f"{folder} has no runs {names[missing[0]]}-seed<k> for {missing[0]!r}: run them first")
    return found


def choice_table(
    groups: Mapping[str, Sequence[Ledger]], other: str, split: str = "test", after: int | None = None
) -> pd.DataFrame:
    """One row a group, after so many rounds (None: all): what it gained, against `other`, and at what price.

    "difference" is that of `split` accuracy to `other`, paired over problems and seeds, with its 95% interval; fixed
    and broken are training problems, summed over rounds and seeds; "probing" is the share of a round's time (probing,
    training, merging and evaluation) that probing took.
    """
    against = versus_table(groups, other, split, after)
    rows = []
    for label, ledgers in groups.items():
        row = {"method": label, "seeds": len(ledgers), **_gains(ledgers, split, after)}
        if label in against.index:
            found = against.loc[label]
            row["difference"] = f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
            row["by seed"] = found["by seed"]
        rows.append(row)
    return pd.DataFrame(rows).set_index("method").fillna("")


def _gains(ledgers: Sequence[Ledger], split: str, after: int | None) -> dict:
    bases, runs = [ledger.base for ledger in ledgers], [finished(ledger)[:after] for ledger in ledgers]
    last, rounds = [run[-1] for run in runs], [row for run in runs for row in run]
    train = np.mean([row.train_accuracy - base.train_accuracy for row, base in zip(last, bases, strict=True)])
    test, start = (np.mean([held_out(row, split).accuracy for row in rows]) for rows in (last, bases))
    fixed, broken = (sum(len(getattr(row, name)) for row in rounds) for name in ("fixed", "broken"))
    steps = sorted({f"{row.steps} + {row.cost['batches'] - row.steps}" for row in rounds if row.steps})
    probing = np.mean([row.seconds.get("probe", 0.0) / sum(row.seconds.values()) for row in rounds if row.merged])
    return {
        "steps + probing": ", ".join(steps),
        split: test,
        f"{split} gain": test - start,
        "train gain": train,
        "fixed / broken": f"{fixed} / {broken}",
        "broken per fixed": broken / fixed if fixed else float("nan"),
        "probing": f"{probing:.0%}",
    }
