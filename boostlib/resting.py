"""Resting failures: what taught nothing lately is left out of some rounds of training. Off by default; not the paper's.

    rests in rounds t+1 .. t+rounds  <=>  round t sampled it, and the last `after` rounds that did gave it no advantage

A group whose completions all earn the same reward has advantages of 0 (GRPO), so its rollouts are paid for and move
nothing. A failure with such groups only rests, then it gets one round in which to show a signal; without one it rests
again. A signal, or being fixed, forgets what was before. Where all failures rest, none does: a round trains on
something. Evaluation and the list of failures know nothing of this.

The rule reads finished rounds of the ledger and nothing else, so a resumed run rests whom the undisturbed one does. A
round that a gate rejected, or that was skipped, counts like any other: its groups were sampled all the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from boostlib.errors import BoostError, require_settings
from boostlib.rounds import Round, pack_bits, unpack_bits


@dataclass(frozen=True)
class Resting:
    """After how many sampled rounds without an advantage a failure rests, and for how many rounds."""

    after: int = 2
    rounds: int = 3

    def __post_init__(self):
        require_settings(self, counts=("after", "rounds"), positive=())

    def check(self, trainer: object) -> None:
        """Raises BoostError for a trainer that does not say which groups carried an advantage."""
        if not getattr(trainer, "reports_groups", False):
            raise BoostError(
                f"resting={self} needs a trainer that compares rewards, such as GRPO, and {type(trainer).__name__} has "
                "none: leave resting out"
            )


def resting_ids(option: Resting, rounds: Sequence[Round], failures: Sequence[str]) -> set[str]:
    """Which of `failures` rest in the round that follows `rounds`; none where all would."""
    barren: dict[str, int] = {}  # rounds in a row that sampled it in vain
    until: dict[str, int] = {}  # the last round that it rests in
    for row in rounds:
        for id, signal in groups(row).items():
            barren[id] = 0 if signal else barren.get(id, 0) + 1
            until[id] = row.index + option.rounds if barren[id] >= option.after else row.index
        for id in row.fixed:
            barren.pop(id, None)
            until.pop(id, None)
    found = {id for id in failures if until.get(id, -1) >= len(rounds)}
    return found if len(found) < len(failures) else set()


def entry(failures: Sequence[str], rested: set[str], sampled: Mapping[str, bool]) -> dict[str, str]:
    """What a round's line says under extra["resting"]: packed bits in the order of the round's failures.

    rested: ids left out of training. sampled: id -> whether a group of it carried an advantage (`Training.groups`).
    """
    return {
        "rested": pack_bits(id in rested for id in failures),
        "sampled": pack_bits(id in sampled for id in failures),
        "signal": pack_bits(sampled.get(id, False) for id in failures),
    }


def groups(row: Round) -> dict[str, bool]:
    """The failures that a round sampled, and whether a group of each carried an advantage; {} where it does not say."""
    if "resting" not in row.extra:
        return {}
    sampled, signal = (unpack_bits(row.extra["resting"][name]) for name in ("sampled", "signal"))
    return {id: carried for id, known, carried in zip(row.failures, sampled, signal, strict=True) if known}


def rested(row: Round) -> int:
    """How many failures a round left out of training."""
    return sum(unpack_bits(row.extra["resting"]["rested"])) if "resting" in row.extra else 0
