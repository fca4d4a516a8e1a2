"""The gate: after each round, merge it, reject it, or stop. Off by default; the paper merges every round.

    net = sum of costs of the fixed cases - sum of costs of the broken ones

Rule, in this order, the first that applies decides:
  1 more than `allowed_guards` guard cases are wrong now: reject;
  2 an adjacent split lost against the untrained model, p <= `harm` by the paired one-sided test: reject;
  3 net <= 0, or p > `alpha` by the paired one-sided test that something was gained: reject, it may be noise;
  4 otherwise: promote.
The last of `patience` unmerged rounds in a row reads "stop" instead of "reject", and the run ends there.

Cases of `value_on` and all guards count in `net`; before is the model as it stood, after is the model with the round.
The test is `paired.sign_flip_p`. A rejected round stays in the ledger with its numbers and its reason; the weights are
as before it, and the next round takes the next directions.

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

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from boostlib.errors import BoostError
from boostlib.paired import sign_flip_p
from boostlib.tasks.base import Example, Task


@dataclass(frozen=True)
class Gate:
    """Settings of the gate; part of a run's identity.

    guard: the split of cases that must not break, None for none. value_on: splits whose fixed and broken cases make up
    the net value. adjacent: held-out splits that must not lose significantly. costs: class (`Example.kind`) -> cost of
    one case; a class that is not named costs what its cases say (`Example.cost`), else 1. failing_guards: what to do
    with guards that the untrained model gets wrong: "refuse" or "leave out". patience: unmerged rounds in a row that
    end the run, None for no end.
    """

    guard: str | None = "guard"
    value_on: tuple[str, ...] = ("train",)
    adjacent: tuple[str, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    alpha: float = 0.05
    harm: float = 0.05
    allowed_guards: int = 0
    failing_guards: str = "refuse"
    patience: int | None = 3

    def __post_init__(self):
        for name in ("alpha", "harm"):
            if not 0 < getattr(self, name) < 1:
                raise BoostError(f"Gate({name}={getattr(self, name)}): must be between 0 and 1, such as 0.05")
        if "train" in (*self.adjacent, self.guard):
            raise BoostError('Gate: "train" cannot be a guard or an adjacent split: it is what the rounds train on')
        if not self.value_on:
            raise BoostError('Gate(value_on=()): name the splits that the net value is counted on, such as ("train",)')
        if self.allowed_guards < 0 or (self.patience is not None and self.patience < 1):
            raise BoostError(
                f"Gate(allowed_guards={self.allowed_guards}, patience={self.patience}): at least 0 and at least 1"
            )
        if self.failing_guards not in ("refuse", "leave out"):
            raise BoostError(f'Gate(failing_guards={self.failing_guards!r}): must be "refuse" or "leave out"')
        bad = {name: cost for name, cost in self.costs.items() if not _is_cost(cost)}
        if bad:
            raise BoostError(f"Gate(costs={bad}): a cost is a positive number")

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
    numbers = {
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


def _is_cost(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
