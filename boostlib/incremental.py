"""Incremental evaluation: after a round, all known failures and a sample of the rest. Off by default; not the paper's.

    S = s of the N training examples that were right so far, drawn anew each round      k = how many of S are wrong now
    missed <= max { K : P(Hypergeometric(N, K, s) <= k) > 1 - LEVEL } - k                        (exact, one-sided)
    train accuracy = (right among the known failures + N * share right in S) / n                 (unbiased over S)

What was not evaluated keeps its last known state, so the failures that the next round trains on are all truly wrong,
and `missed` more may be. The sample grows by the factor `grow` after a round in which it showed a regression, and
shrinks by it, down to `sample`, after one in which it showed none. These passes are full:
  1 every `every`-th round, by its number alone, and `rounds` has to be a multiple of `every`: so the last round is
    full, and a run that is given more rounds later equals one that had them from the start;
  2 one after which no known failure would be left: a run ends only where nothing is wrong;
  3 one on which a gate that counts the training split would merge: a sample shows every case that was fixed but few of
    those that were broken, so it may reject a round but never promote one;
  4 the one of the round in which a gate ends the run.
A full pass finds what earlier rounds broke unseen. It is in `broken` of the round that found it, even of one that
merged nothing, and `late` says how many of those may be older than the round.

What this does not cover: the bound holds for each round by itself, so of twenty rounds one exceeds it on average.
Smaller batches may move the last bits of the logits, so an answer on the edge can change sides without a cause.
"""

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import hypergeom

from boostlib.errors import BoostError, require_settings
from boostlib.rounds import Round, pack_bits, unpack_bits
from boostlib.stable import philox

LEVEL = 0.95  # confidence of the bound


@dataclass(frozen=True)
class Incremental:
    """How much is evaluated after a round; part of such a run's identity.

    sample: how many of the training examples that were right are evaluated again, at the least. every: of so many
    rounds one evaluates everything. grow: factor of the sample after a round in which it showed regressions; 1: none.
    """

    sample: int = 64
    every: int = 5
    grow: float = 2.0

    def __post_init__(self):
        require_settings(self, counts=("sample", "every"), positive=())
        if not 1 <= self.grow < math.inf:
            raise BoostError(f"Incremental(grow={self.grow}): must be a number of at least 1")

    def is_full(self, index: int) -> bool:
        """Whether round `index` evaluates everything for its number alone."""
        return (index + 1) % self.every == 0

    def check(self, rounds: int) -> None:
        """Raises BoostError where the last of so many rounds would not be a full pass."""
        if rounds % self.every:
            raise BoostError(
                f"rounds={rounds} with Incremental(every={self.every}): the last round has to be a full pass; make "
                f"rounds a multiple of every, such as {rounds + -rounds % self.every}, or change every"
            )

    def next_size(self, size: int, regressions: int, n: int) -> int:
        """The next round's sample, after one of `size` that showed so many regressions; n: the training examples."""
        if regressions:
            return min(math.ceil(size * self.grow), max(n, self.sample))
        return max(self.sample, math.floor(size / self.grow))


@dataclass(frozen=True)
class Pass:
    """One evaluation of the training split, in part or full, and what follows for the rest of it."""

    ids: Sequence[str]  # the training split in its order
    failing: frozenset[str]  # known to be wrong before the round
    sample: frozenset[str]  # drawn from the others
    right: Mapping[str, bool]  # of those evaluated
    strict: Mapping[str, bool]  # likewise: right, and in the format asked for

    @property
    def full(self) -> bool:
        """Whether everything was evaluated."""
        return len(self.right) == len(self.ids)

    @property
    def rest(self) -> list[str]:
        """Ids that were not evaluated."""
        return [id for id in self.ids if id not in self.right]

    @property
    def failures(self) -> list[str]:
        """Ids known to be wrong now, in the order of the split."""
        return [id for id in self.ids if not self.right.get(id, True)]

    @property
    def regressions(self) -> int:
        """How many of the sample are wrong now."""
        return sum(not self.right[id] for id in self.sample)

    def scores(self) -> dict[str, Any]:
        """The failures and accuracies of a round's line; accuracies are exact for a full pass, else estimates."""
        accuracy, strict = self._share(self.right), self._share(self.strict)
        return {"failures": self.failures, "train_accuracy": accuracy, "train_strict": strict}

    def entry(self, size: int, after: int, stale: Sequence[str]) -> dict[str, Any]:
        """What a round's line says under extra["incremental"].

        size: planned sample. after: the next one. stale: ids whose state before the round was not known for sure.
        """
        missed = 0 if self.full else missed_bound(len(self.ids) - len(self.failing), len(self.sample), self.regressions)
        return {
            "evaluated": pack_bits(id in self.right for id in self.ids),  # in the order of the training split
            "full": self.full,
            "planned": size,
            "sampled": len(self.sample),
            "regressions": self.regressions,
            "missed_bound": missed,  # at most so many more are wrong, at confidence LEVEL
            "late": len(set(stale).intersection(self.failures)),  # of `broken`: an earlier round may have done it
            "next": after,
        }

    def _share(self, good: Mapping[str, bool]) -> float:
        if self.full:
            return sum(good.values()) / len(self.ids)
        others = (len(self.ids) - len(self.failing)) * sum(good[id] for id in self.sample) / len(self.sample)
        return (sum(good[id] for id in self.failing) + others) / len(self.ids)


def draw(seed: int, index: int, ids: Sequence[str], failing: frozenset[str], size: int) -> frozenset[str]:
    """The sample of round `index`: `size` ids, or all there are, of those not in `failing`; depends on nothing else."""
    others = [id for id in ids if id not in failing]
    chosen = philox(seed, index, "incremental").permutation(len(others))[:size]
    return frozenset(others[i] for i in chosen)


def missed_bound(population: int, sampled: int, found: int, level: float = LEVEL) -> int:
    """How many wrong ones there can be among those not drawn: an exact one-sided bound at confidence `level`.

    Of `population` examples `sampled` were drawn without replacement and `found` of these are wrong: the finite
    population's counterpart of Clopper and Pearson (1934).
    """

    def unlikely(missed: int) -> bool:  # so few in the sample, if so many were missed
        return hypergeom.cdf(found, population, found + missed, sampled) <= 1 - level

    return bisect(range(population - sampled + 1), False, key=unlikely) - 1


def last_entry(incremental: Incremental, rounds: Sequence[Round]) -> dict[str, Any]:
    """What the last round recorded; before the first round, what the untrained model's full evaluation amounts to."""
    start = {"full": True, "missed_bound": 0, "next": incremental.sample}
    return rounds[-1].extra["incremental"] if rounds else start


def carried(entry: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The entry of a round that changed no weight and evaluated nothing: what is known stays known, and no more."""
    kept = {name: entry[name] for name in ("full", "missed_bound", "next")}
    return {"evaluated": pack_bits([False] * n), "planned": 0, "sampled": 0, "regressions": 0, "late": 0, **kept}


def stale_ids(incremental: Incremental, rounds: Sequence[Round], ids: Sequence[str]) -> list[str]:
    """Training examples that the model as it stands was not evaluated on."""
    if last_entry(incremental, rounds)["full"]:
        return []
    merged = [row for row in rounds if row.merged]
    return [id for id, done in zip(ids, evaluated_bits(merged[-1]), strict=True) if not done]


def evaluated_bits(row: Round) -> list[bool]:
    """(n,) which training examples the model was evaluated on after a round, in the order of the split."""
    return unpack_bits(row.extra["incremental"]["evaluated"])


def evaluations(row: Round) -> int:
    """How many training examples were evaluated in a round, those of an adapter that a gate rejected included."""
    entry = row.extra["incremental"]
    return sum(sum(unpack_bits(entry[name])) for name in ("evaluated", "tried") if name in entry)
