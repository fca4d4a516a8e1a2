"""The gate: after each round, merge it, reject it, or stop. Off by default; the paper merges every round.

    net = sum of costs of the fixed cases - sum of costs of the broken ones
        = sum of what all cases cost before - sum of what they cost after

Rule, in this order, the first that applies decides:
  1 more than `allowed_guards` guard cases are wrong now: reject;
  2 an adjacent split lost against the untrained model, p <= `harm` by the paired one-sided test: reject;
  3 net <= 0, or p > `alpha` by the paired one-sided test that something was gained: reject, it may be noise;
  4 otherwise: promote.
The last of `patience` unmerged rounds in a row reads "stop" instead of "reject", and the run ends there.

Where a task has costs by pair (`TextLabelTask.pair_costs`), a mistake costs what its pair (right, said) does, and the
costs of its class count for pairs that are not named. A case that is wrong before and after gains or loses the
difference.

Cases of `value_on` and all guards count in `net`; net and guards compare with the model as it stood before the round.
Adjacent splits compare with the untrained model, so that losses too small to show in one round do not add up unseen.
The test is `paired.sign_flip_p`. A rejected round stays in the ledger with its numbers and its reason; the weights are
as before it, and the next round takes the next directions. Guards that the untrained model gets wrong are refused, or
left out of everything here, as `Gate.failing_guards` says.

Error rates, a round:
- noise (each changed case as likely broken as fixed) and harm (likelier broken) are promoted at a rate of at most
  alpha;
- a round that leaves more than `allowed_guards` guards wrong is never promoted;
- a round that changes nothing on an adjacent split but noise is rejected for it at a rate of at most `harm` per split;
- a round of m changed cases of equal cost of which a share q is fixed passes rule 3 at the rate
  `paired.promotion_rate(m, q, alpha)`: 0.62 for m = 20, q = 0.75; 0.80 for q = 0.8; at alpha 0.05 five cases, all
  fixed, are the fewest that can pass.

What these rates do not cover. They are rates of one round: twenty rounds of noise are promoted once on average at alpha
0.05. A training split that holds failures alone cannot show what breaks: put cases that are right beside them, or into
the guard. Value on the training split is gain on the cases trained on; name a held-out split in `value_on` to judge
by cases that were not. Cases that change together (near-duplicates) make p too small.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from boostlib.common.errors import BoostError, DataError
from boostlib.common.settings import Count, Name, Names, Positive, Share, Whole, checked
from boostlib.evaluation.scoring import said_of
from boostlib.records.rows import Base, Round
from boostlib.strategies.paired import sign_flip_p
from boostlib.tasks.base import Example, Task, paid

log = logging.getLogger(__name__)

NAMED = 20  # ids that a message lists before it counts the rest


@dataclass(frozen=True)
@checked
class Gate:
    """Settings of the gate; part of a run's identity.

    guard: the split of cases that must not break, None for none. value_on: splits whose fixed and broken cases make up
    the net value. adjacent: held-out splits that must not lose significantly. costs: class (`Example.kind`) -> cost of
    one case; a class that is not named costs what its cases say (`Example.cost`), else 1. failing_guards: what to do
    with guards that the untrained model gets wrong: "refuse" or "leave out". patience: unmerged rounds in a row that
    end the run, None for no end.
    """

    guard: Name | None = "guard"
    value_on: Names = ("train",)
    adjacent: Names = ()
    costs: Mapping[Name, Positive] = field(default_factory=dict)
    alpha: Share = 0.05
    harm: Share = 0.05
    allowed_guards: Whole = 0
    failing_guards: Literal["refuse", "leave out"] = "refuse"
    patience: Count | None = 3

    def __post_init__(self):
        if "train" in (*self.adjacent, self.guard):
            raise BoostError('Gate: "train" cannot be a guard or an adjacent split: it is what the rounds train on')
        if not self.value_on:
            raise BoostError('Gate(value_on=()): name the splits that the net value is counted on, such as ("train",)')

    def settings(self) -> dict[str, Any]:
        """What identifies this gate in a run."""
        return asdict(replace(self, costs=dict(self.costs)))

    def splits(self) -> tuple[str, ...]:
        """The splits, other than train, that every round is scored on for the gate."""
        named = (*self.value_on, *self.adjacent, *((self.guard,) if self.guard else ()))
        return tuple(dict.fromkeys(split for split in named if split != "train"))

    def scoring(self, config):
        """`config` with the gate's splits among those held out."""
        return replace(config, held_out=tuple(dict.fromkeys((*config.held_out, *self.splits()))))

    def check(self, task: Task) -> None:
        """Raises DataError for a split that is not there, BoostError for a class in `costs` that no case has."""
        examples = [e for split in ("train", *self.splits()) for e in task.split(split)]
        known = sorted({e.kind for e in examples if e.kind})
        unknown = [name for name in self.costs if name not in known]
        if unknown:
            raise BoostError(
                f"Gate(costs=...): no case is of class {', '.join(map(repr, unknown))}; the classes of "
                f"{task.name!r} are {', '.join(map(repr, known)) or 'none'}"
            )

    def cost(self, example: Example) -> float:
        """What one case is worth."""
        return float(self.costs.get(example.kind, getattr(example, "cost", 1.0)))

    def begin(self, run, base: Base) -> None:
        """Raises DataError, naming the ids, where guards fail before any training; or says which are left out."""
        failing = failing_guards(self, run.task, base)
        if not failing:
            return
        names = ", ".join(failing[:NAMED]) + (f" and {len(failing) - NAMED} more" if len(failing) > NAMED else "")
        if self.failing_guards == "refuse":
            raise DataError(
                f"{len(failing)} guard cases fail before anything is trained: {names}. Correct them, move them to the "
                'failures, or leave them out with Gate(failing_guards="leave out")'
            )
        log.warning("%d guard cases fail before anything is trained and are left out: %s", len(failing), names)

    def judge(self, run, failures: Sequence[str], tried: dict, skipped: str = "") -> tuple[bool, dict[str, Any]]:
        """(whether the round is merged, its line's entry): the verdict, and where it is no promotion, what it had done.

        failures: ids wrong on train before the round. tried: the scores with the round merged.
        """
        if skipped:
            verdict, moved = Verdict("reject", f"skipped: {skipped}"), {}
        else:
            seen = _Seen(self, run, failures, tried)
            verdict = decide(self, seen.gains(), len(seen.guards_wrong()), seen.adjacent_gains())
            moved = {"guards": seen.guards_wrong(), **seen.moved()}
        if verdict.decision == "reject" and self.patience and _streak(run.rounds) + 1 >= self.patience:
            reason = f"{verdict.reason}; {self.patience} rounds without value"
            verdict = replace(verdict, decision="stop", reason=reason)
        promoted = verdict.decision == "promote"
        kept = {} if promoted or skipped else {"tried": _tried(tried)}
        return promoted, {"gate": {**asdict(verdict), **moved, **kept}}

    def ended(self, run) -> str:
        """Why the gate has ended the run; "" where it goes on."""
        stopped = run.rounds and run.rounds[-1].decision == "stop"
        return f"stopped by the gate: {run.rounds[-1].extra['gate']['reason']}" if stopped else ""


@dataclass(frozen=True)
class Verdict:
    """What the gate decided about one round, and by which numbers."""

    decision: str  # promote, reject or stop
    reason: str
    net: float = 0.0
    p_value: float = 1.0  # that something was gained
    gained: float = 0.0  # costs of the fixed cases
    lost: float = 0.0  # costs of the broken cases
    guards_wrong: int = 0
    harm: dict[str, float] = field(default_factory=dict)  # p-value that an adjacent split lost


def decide(
    gate: Gate, gains: np.ndarray, guards_wrong: int = 0, adjacent: Mapping[str, np.ndarray] | None = None
) -> Verdict:
    """The rule on plain numbers: gains (n,) and, by adjacent split, gains (m,): costs, negative where broken."""
    gains = np.asarray(gains, dtype=float)
    gained, lost = float(gains[gains > 0].sum()), float(np.abs(gains[gains < 0]).sum())
    numbers: dict[str, Any] = {
        "net": gained - lost,
        "p_value": sign_flip_p(gains),
        "gained": gained,
        "lost": lost,
        "guards_wrong": guards_wrong,
        "harm": {split: sign_flip_p(-np.asarray(change)) for split, change in (adjacent or {}).items()},
    }
    reason = _objection(gate, **numbers)
    return Verdict("reject" if reason else "promote", reason or _in_favour(numbers), **numbers)


def _objection(gate: Gate, net: float, p_value: float, guards_wrong: int, harm: dict, **_: float) -> str:
    """Why not to promote; "" where nothing speaks against it."""
    if guards_wrong > gate.allowed_guards:
        return f"{guards_wrong} guard cases are wrong, {gate.allowed_guards} allowed"
    hurt = {split: p for split, p in harm.items() if p <= gate.harm}
    if hurt:
        return "; ".join(f"{split} lost against the untrained model (p = {p:.3g})" for split, p in hurt.items())
    if net <= 0:
        return f"no net value ({net:+g})"
    return f"net value {net:+g} may be noise (p = {p_value:.3g} > {gate.alpha:g})" if p_value > gate.alpha else ""


def _in_favour(numbers: dict) -> str:
    return f"net value {numbers['net']:+g} (p = {numbers['p_value']:.3g})"


def failing_guards(gate: Gate, task: Task, base: Base) -> list[str]:
    """Ids of the guards that the untrained model gets wrong."""
    if gate.guard is None:
        return []
    return _wrong(task.split(gate.guard), base.metrics[gate.guard].bits())


def _wrong(examples: Sequence[Example], right: Sequence[bool]) -> list[str]:
    return [example.id for example, fine in zip(examples, right, strict=True) if not fine]


@dataclass(frozen=True)
class _Seen:
    """A round's evaluations as the gate sees them; tried: the scores with the round merged."""

    gate: Gate
    run: Any
    failures: Sequence[str]
    tried: dict

    def pair(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(n,) bool who was right before the round, and with it."""
        if split == "train":
            ids = [example.id for example in self.run.task.split("train")]
            before, after = set(self.failures), set(self.tried["failures"])
            return np.array([id not in before for id in ids]), np.array([id not in after for id in ids])
        return np.array(self.last.metrics[split].bits()), np.array(self.tried["metrics"][split].bits())

    @property
    def last(self) -> Base | Round:
        """The row before the round."""
        return self.run.rounds[-1] if self.run.rounds else self.run.base

    def gains(self) -> np.ndarray:
        """(n,) costs over the cases of `value_on` and the guards, negative where broken."""
        gate, left_out, found = self.gate, self._left_out(), []
        for split in dict.fromkeys((*gate.value_on, *((gate.guard,) if gate.guard else ()))):
            before, after = self.pair(split)
            counts = [split != gate.guard or e.id not in left_out for e in self.run.task.split(split)]
            found.append((self._paid(split, before, vars(self.last)) - self._paid(split, after, self.tried)) * counts)
        return np.concatenate(found)

    def adjacent_gains(self) -> dict[str, np.ndarray]:
        """{adjacent split: (m,) gains over the untrained model}."""
        found = {}
        for split in self.gate.adjacent:
            before, after = (
                self._paid(split, np.array(scores["metrics"][split].bits()), scores)
                for scores in (vars(self.run.base), self.tried)
            )
            found[split] = before - after
        return found

    def _paid(self, split: str, right: np.ndarray, scores: Mapping[str, Any]) -> np.ndarray:
        """(n,) what each case costs by a row's scores."""
        task, cases = self.run.task, self.run.task.split(split)
        said = said_of(task, split, right, scores["metrics"], scores["train_said"])
        return paid(task, cases, [self.gate.cost(case) for case in cases], right, said)

    def guards_wrong(self) -> list[str]:
        """Ids of the guards that are wrong with the round, those left out aside."""
        guard = self.gate.guard
        if guard is None:
            return []
        wrong = _wrong(self.run.task.split(guard), self.tried["metrics"][guard].bits())
        return [id for id in wrong if id not in self._left_out()]

    def moved(self) -> dict[str, list[str]]:
        """Ids of the training cases that the round had fixed and broken."""
        before, after = self.pair("train")
        ids = np.array([e.id for e in self.run.task.split("train")], dtype=object)
        return {"fixed": list(ids[after & ~before]), "broken": list(ids[before & ~after])}

    def _left_out(self) -> set[str]:
        return set(failing_guards(self.gate, self.run.task, self.run.base))


def _tried(tried: dict) -> dict[str, Any]:
    """The scores of a round that is not merged: its line holds those of the model, which are the ones before it."""
    metrics = {split: {"accuracy": s.accuracy, "correct": s.correct} for split, s in tried["metrics"].items()}
    return {"train_accuracy": tried["train_accuracy"], "metrics": metrics}


def _streak(rounds: Sequence[Round]) -> int:
    """Rounds at the end that were not merged."""
    streak = 0
    while streak < len(rounds) and not rounds[-1 - streak].merged:
        streak += 1
    return streak
