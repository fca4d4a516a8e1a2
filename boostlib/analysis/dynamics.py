"""What became of every training problem, round by round, from a ledger alone.

A ledger holds the untrained model's failures and, for each round, who was fixed and who was broken; so the state of
every problem after every round is known without a model:

    wrong_0 = failures of the untrained model        wrong_t = wrong_t-1 - fixed_t + broken_t

Skipped and rejected rounds fix and break nothing. In a recorded run whose rounds were evaluated in part
(`Round.whole`) a state is the last known one, and what a round broke unseen shows in the round whose full pass found
it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from boostlib.analysis.tables import finished
from boostlib.common.errors import BoostError, RunError
from boostlib.evaluation.evaluate import paired_bootstrap
from boostlib.records.ledger import Ledger
from boostlib.records.rows import held_out

STATES = ("never right", "fell back", "broken", "fixed")


def histories(ledger: Ledger) -> pd.DataFrame:
    """Who was wrong when: (problems that were ever wrong, rounds + 1) bool, True = wrong; column 0 is the untrained
    model, column t after t rounds. Raises BoostError for a run that was never evaluated."""
    if ledger.base is None:
        raise BoostError(f"{ledger.dir} holds no finished evaluation yet: run it first")
    rounds = ledger.rounds
    ids = list(dict.fromkeys([*ledger.base.failures, *(id for row in rounds for id in row.broken)]))
    wrong = pd.DataFrame(False, index=pd.Index(ids, name="problem"), columns=range(len(rounds) + 1))
    wrong.loc[ledger.base.failures, 0] = True
    for t, row in enumerate(rounds, start=1):
        wrong[t] = wrong[t - 1]
        wrong.loc[row.fixed, t] = False
        wrong.loc[row.broken, t] = True
    return wrong


def states(ledger: Ledger) -> pd.DataFrame:
    """Problems by state after 0, 1, ... rounds, one column a state (`STATES`).

    never right: wrong ever since the untrained model; fell back: wrong, was right in between, wrong at the start;
    broken: wrong, right at the start; fixed: right, wrong at the start. The first three are the failures.
    """
    wrong = histories(ledger).to_numpy()  # (problems, rounds + 1)
    start = wrong[:, :1]
    never = np.logical_and.accumulate(wrong, axis=1)
    counts = (never, wrong & start & ~never, wrong & ~start, ~wrong & start)
    return pd.DataFrame({state: found.sum(axis=0) for state, found in zip(STATES, counts, strict=True)})


def flow_table(ledger: Ledger) -> pd.DataFrame:
    """One row a round: who changed sides.

    fixed: right for the first time; regained: right again after it was lost; broken: wrong for the first time; lost
    again: wrong again after it was fixed. left: failures after the round. regression rate: share of what was right
    before the round that is wrong after it. Raises BoostError for a run without a finished round.
    """
    wrong, index = histories(ledger).to_numpy(), [row.index for row in finished(ledger)]
    before, after = wrong[:, :-1], wrong[:, 1:]  # (problems, rounds)
    ever_wrong, ever_right = (np.logical_or.accumulate(side, axis=1)[:, :-1] for side in (wrong, ~wrong))
    up, down = before & ~after, ~before & after
    kinds = {
        "failures": before,
        "fixed": up & ~ever_right,
        "regained": up & ever_right,
        "broken": down & ~ever_wrong,
        "lost again": down & ever_wrong,
        "left": after,
    }
    table = pd.DataFrame({kind: found.sum(axis=0) for kind, found in kinds.items()}, pd.Index(index, name="round"))
    right = train_size(ledger) - table["failures"]
    return table.assign(**{"regression rate": down.sum(axis=0) / np.maximum(right, 1)})


def train_size(ledger: Ledger) -> int:
    """Number of training problems, from the untrained model's failures and accuracy."""
    base = ledger.base
    if base.train_accuracy == 1:
        raise BoostError(f"{ledger.dir}: the untrained model has no failures, so nothing follows about the others")
    return round(len(base.failures) / (1 - base.train_accuracy))


def waiting(ledger: Ledger) -> np.ndarray:
    """Share of the untrained model's failures that were never right up to then: (rounds + 1,), starts at 1.
    Raises BoostError where it has no failures."""
    table = states(ledger)["never right"].to_numpy()
    if table[0] == 0:
        raise BoostError(f"{ledger.dir}: the untrained model has no failures, so no problem waits to be right")
    return table / table[0]


def stopping_table(ledgers: Sequence[Ledger], split: str = "test") -> pd.DataFrame:
    """Would stopping after t rounds have paid? One row a t: mean accuracy of `split`, and what all the remaining rounds
    still gained, with a paired 95% interval over problems and seeds.

    All runs are cut to the shortest one, so "going on" ends at its last round. A stop that is chosen by looking at this
    very table is chosen on the held-out set: read the interval, not the peak. Raises BoostError for a run without a
    finished round, or not scored on `split`.
    """
    rounds = min(len(finished(ledger)) for ledger in ledgers)
    rows_of = [(ledger.base, *ledger.rounds[:rounds]) for ledger in ledgers]
    bits = np.array([[held_out(row, split).bits() for row in rows] for rows in rows_of])  # (seeds, rounds + 1, n)
    rows = []
    for t in range(rounds + 1):
        gain, low, high = paired_bootstrap(bits[:, t], bits[:, -1])
        _, below, above = paired_bootstrap(np.zeros_like(bits[:, t]), bits[:, t])
        rows.append((t, bits[:, t].mean(), below, above, gain, low, high))
    columns = ["rounds", split, "low", "high", "gain of going on", "gain low", "gain high"]
    return pd.DataFrame(rows, columns=columns).set_index("rounds")


def costs_table(ledger: Ledger) -> pd.DataFrame:
    """One row a round: whether it was merged, optimizer steps, tokens, norms, and seconds of each part that it had.

    Parts: probe (greedy), train, evaluate, merge (not in fine-tuning). Raises BoostError for a run without a finished
    round.
    """
    rows = [
        {
            "round": row.index,
            "merged": row.merged,
            "steps": row.steps,
            "tokens": row.tokens,
            **row.seconds,
            "adapter norm": row.adapter_norm,
            "update norm": row.update_norm,
        }
        for row in finished(ledger)
    ]
    return pd.DataFrame(rows).set_index("round")


def lengths(ledger: Ledger) -> list[float]:
    """|v| of every round, as trained."""
    return [float(numbers_of(ledger, row.index).norm()) for row in ledger.rounds]


def numbers_of(ledger: Ledger, index: int) -> Tensor:
    """The numbers v that a round trained. Raises RunError where their file is missing or damaged."""
    recorded = ledger.load_v(index)
    if recorded is None:
        raise RunError(f"{ledger.v_path(index)} is missing or damaged: restore it, its numbers are needed here")
    return recorded[0]
