"""A round's evaluations as the gate sees them: who was fixed, who was broken, what it costs, and what the ledger keeps.

`net` and the guards compare with the model as it stood before the round; adjacent splits compare with the untrained
model, so that losses too small to show in one round do not add up unseen. Guards that the untrained model gets wrong
are refused, or left out of everything here, as `Gate.failing_guards` says.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from boostlib.errors import DataError
from boostlib.gate import Gate, Verdict, decide
from boostlib.rounds import Base, Round
from boostlib.tasks.base import Task

log = logging.getLogger(__name__)

NAMED = 20  # ids that a message lists before it counts the rest
Pair = tuple[np.ndarray, np.ndarray]  # (n,) bool before, (n,) bool after


def judge(
    gate: Gate, task: Task, base: Base, rounds: Sequence[Round], failures: Sequence[str], tried: dict, skipped: str = ""
) -> dict[str, Any]:
    """The gate's entry in a round's line: the verdict, and where it is no promotion, what the round had done.

    rounds: those before this one. failures: ids wrong on train before it. tried: the scores with the round merged.
    """
    last = rounds[-1] if rounds else base
    if skipped:
        verdict = Verdict("reject", f"skipped: {skipped}")
    else:
        left_out = set(failing_guards(gate, task, base))
        pairs = {split: _pair(task, split, last, failures, tried) for split in ("train", *gate.splits())}
        wrong = _guards_wrong(gate, task, left_out, tried)
        against = {split: _loss(gate, task, split, base, tried) for split in gate.adjacent}
        verdict = decide(gate, _gains(gate, task, pairs, left_out), len(wrong), against)
    if verdict.decision == "reject" and gate.patience and _streak(rounds) + 1 >= gate.patience:
        verdict = replace(verdict, decision="stop", reason=f"{verdict.reason}; {gate.patience} rounds without value")
    entry = asdict(verdict)
    return entry if skipped else entry | {"guards": wrong, **_moved(task, pairs), **_kept(verdict, tried)}


def stopped(rounds: Sequence[Round]) -> bool:
    """Whether the gate has ended the run."""
    return bool(rounds) and rounds[-1].decision == "stop"


def failing_guards(gate: Gate, task: Task, base: Base) -> list[str]:
    """Ids of the guards that the untrained model gets wrong."""
    if gate.guard is None:
        return []
    bits = base.metrics[gate.guard].bits()
    return [e.id for e, right in zip(task.split(gate.guard), bits, strict=True) if not right]


def require_sound_guards(gate: Gate, task: Task, base: Base) -> None:
    """Raises DataError, naming the ids, where guards fail before anything was trained; or says which are left out."""
    failing = failing_guards(gate, task, base)
    if not failing:
        return
    names = ", ".join(failing[:NAMED]) + (f" and {len(failing) - NAMED} more" if len(failing) > NAMED else "")
    if gate.failing_guards == "refuse":
        raise DataError(
            f"{len(failing)} guard cases fail before anything is trained: {names}. Correct them, move them to the "
            'failures, or leave them out with Gate(failing_guards="leave out")'
        )
    log.warning("%d guard cases fail before anything is trained and are left out: %s", len(failing), names)


def _pair(task: Task, split: str, last: Base | Round, failures: Sequence[str], tried: dict) -> Pair:
    if split == "train":
        before, after = set(failures), set(tried["failures"])
        ids = [e.id for e in task.split("train")]
        return np.array([id not in before for id in ids]), np.array([id not in after for id in ids])
    return np.array(last.metrics[split].bits()), np.array(tried["metrics"][split].bits())


def _gains(gate: Gate, task: Task, pairs: Mapping[str, Pair], left_out: set[str]) -> np.ndarray:
    """(n,) over the cases of `value_on` and the guards."""
    found = []
    for split in dict.fromkeys((*gate.value_on, *((gate.guard,) if gate.guard else ()))):
        before, after = pairs[split]
        costs = [0.0 if split == gate.guard and e.id in left_out else gate.cost(e) for e in task.split(split)]
        found.append(np.array(costs) * (after.astype(float) - before))
    return np.concatenate(found)


def _loss(gate: Gate, task: Task, split: str, base: Base, tried: dict) -> np.ndarray:
    """(m,) gains of an adjacent split over the untrained model, so that small losses do not add up unseen."""
    before, after = (np.array(scores.bits(), dtype=float) for scores in (base.metrics[split], tried["metrics"][split]))
    return (after - before) * np.array([gate.cost(e) for e in task.split(split)])


def _guards_wrong(gate: Gate, task: Task, left_out: set[str], tried: dict) -> list[str]:
    if gate.guard is None:
        return []
    bits = tried["metrics"][gate.guard].bits()
    cases = zip(task.split(gate.guard), bits, strict=True)
    return [e.id for e, right in cases if not right and e.id not in left_out]


def _moved(task: Task, pairs: Mapping[str, Pair]) -> dict[str, list[str]]:
    """Ids of the training cases that the round had fixed and broken."""
    before, after = pairs["train"]
    ids = np.array([e.id for e in task.split("train")], dtype=object)
    return {"fixed": list(ids[after & ~before]), "broken": list(ids[before & ~after])}


def _kept(verdict: Verdict, tried: dict) -> dict[str, Any]:
    """The scores of a round that is not merged: its line holds those of the model, which are the ones before it."""
    if verdict.decision == "promote":
        return {}
    metrics = {split: {"accuracy": s.accuracy, "correct": s.correct} for split, s in tried["metrics"].items()}
    return {"tried": {"train_accuracy": tried["train_accuracy"], "metrics": metrics}}


def _streak(rounds: Sequence[Round]) -> int:
    """Rounds at the end that were not merged."""
    streak = 0
    while streak < len(rounds) and not rounds[-1 - streak].merged:
        streak += 1
    return streak
