"""Numbers that a text cites, by the name of their runs: `{math-growth-rotate gain:+.3f}` is what the ledgers give.

A field is a name, a measure and, where it matters, a held-out split (default: test):

    {NAME end}   {NAME gain neighbour}   {NAME last AUC}   {NAME - OTHER low}   {bench/round-cpu-1 boostlib whole}

NAME is that of directories `NAME-seed<k>`, or of one of them; `NAME@3` counts its first three rounds. Measures are the
keys of `MEASURES`, over seeds where there are several; a difference has those of `DIFFERENCE`, paired over seeds and
problems. Intervals are those of `analysis.tables`. A format that ends in `p` gives percent without the sign.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd

from boostlib.analysis.dynamics import flow_table
from boostlib.analysis.recorded import by_seed
from boostlib.analysis.tables import finished, first_and_last, versus_table
from boostlib.common.errors import BoostError
from boostlib.evaluation.evaluate import paired_bootstrap
from boostlib.evaluation.metrics import bootstrap_metrics, load_floors
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Round, held_out

# first word -> whose accuracy, F1 or AUC it is
CLASSIFIED = {
    "first": "first",
    "last": "last",
    "floor": "always binds",
    "composition": "composition, logistic regression",
}
DIFFERENCE = {"gain": "difference", "low": "low", "high": "high", "by seed": "by seed"}  # columns of `versus_table`


def ledgers(folder: str | Path, name: str) -> list[Ledger]:
    """The runs `<name>-seed<k>` of a folder that have a finished round, or the one run of that very name."""
    paths = [*sorted(Path(folder).glob(f"{name}-seed*")), Path(folder) / name]
    found = [Ledger(path) for path in paths if (path / "run.json").is_file()]
    return [ledger for ledger in found if ledger.rounds]


def planned_rank(ledger: Ledger) -> int | None:
    """The exact rank of a run's update in every weight, as its record has it: r for every block that merged rounds used
    (blocks are disjoint, so ranks add: rank.py); of one LoRA as measured. None for all weights and for rounds of LoRA,
    whose ranks add only as far as their directions happen to differ.

    Raises BoostError where groups of weights used different numbers of blocks.
    """
    rounds, adapter = finished(ledger), ledger.header["identity"]["adapter"]
    if isinstance(adapter, dict) and adapter["strategy"] != "lora":
        plans = [row.plan for row in rounds if row.merged]
        found = {adapter["rank"] * len({block for block, _ in group}) for group in zip(*plans, strict=True)} or {0}
    else:
        found = set(rounds[-1].extra.get("ranks", [])) or {None}
    if len(found) > 1:
        raise BoostError(f"{ledger.dir}: the rank is not one number, but {sorted(found)}: read it weight by weight")
    return found.pop()


class Cited(Formatter):
    """Fills the fields of texts from the runs of a folder, each of which is read once."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.named = cache(self._named)
        self.number = cache(self._number)
        self._difference = cache(self._versus)

    def fill(self, text: str, star: str = "") -> str:
        """`text` with its fields as numbers; one that begins with `*` is about the runs `star`.

        Raises BoostError where a run is missing or a measure unknown.
        """
        return self.vformat(text, (), {"star": star})

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        return self.number(field_name.replace("*", kwargs["star"])), field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec.endswith("p"):
            value, format_spec = 100 * value, format_spec[:-1] + "f"
        if isinstance(value, float):  # a half, such as 41 of 80, is rounded away from zero, whatever its last bit
            value += np.copysign(1e-9, value)
        return super().format_field(value, format_spec)

    def _number(self, field: str) -> Any:
        name, *words = field.split()
        if name.startswith("bench/"):
            return _benched(self.folder.parent / f"{name}.json", " ".join(words))
        if words[:1] == ["-"]:
            measure, split = _measure(words[2:], DIFFERENCE)
            return self._difference(name, words[1], split)[DIFFERENCE[measure]]
        measure, split = _measure(words, MEASURES)
        return MEASURES[measure](self.named(name), split)

    def _named(self, name: str) -> "Named":
        name, _, after = name.partition("@")
        runs = ledgers(self.folder, name)
        if not runs:
            raise BoostError(f"{self.folder} has no finished runs {name}-seed<k>: run them first")
        return Named(runs, int(after) if after else None)

    def _versus(self, name: str, other: str, split: str) -> pd.Series:
        one, two = self.named(name), self.named(other)
        return versus_table({"one": one.runs, "two": two.runs}, "two", split, one.after or two.after).loc["one"]


def _measure(words: Sequence[str], known: Mapping[str, Any]) -> tuple[str, str]:
    """(measure of one or two words, what follows it)."""
    for count in (2, 1):
        if " ".join(words[:count]) in known:
            return " ".join(words[:count]), " ".join(words[count:]) or "test"
    raise BoostError(f"{' '.join(words)!r} begins with no measure; there are {', '.join(known)}")


def _benched(path: Path, what: str) -> float:
    """The median of a measurement by its name, whose colons are left out: a field ends at a colon."""
    for entry in json.loads(path.read_text()):
        found = {name.replace(":", ""): median for name, median in entry["medians"].items()}
        if what in found:
            return found[what]
    raise BoostError(f"{path} measured no {what!r}")


class Named:
    """The runs of one name, cut to their first `after` rounds, and what they show."""

    def __init__(self, runs: Sequence[Ledger], after: int | None = None):
        self.runs, self.after = list(runs), after
        self.rounds = [run.rounds[:after] for run in self.runs]
        self.interval = cache(self._interval)
        self.classified = cache(self._classified)

    def base(self, split: str) -> float:
        """Mean accuracy of the untrained model."""
        if split == "train":
            return float(np.mean([run.base.train_accuracy for run in self.runs]))
        return float(first_and_last(self.runs, split, self.after)[0].mean())

    def end(self, split: str) -> float:
        """Mean accuracy after the last round."""
        if split == "train":
            return float(np.mean([rounds[-1].train_accuracy for rounds in self.rounds]))
        return float(first_and_last(self.runs, split, self.after)[1].mean())

    def _interval(self, split: str) -> tuple[float, float, float]:
        return paired_bootstrap(*first_and_last(self.runs, split, self.after))

    def _classified(self, whose: str) -> dict[str, tuple[float, float, float]]:
        """accuracy, F1 and AUC on the test split, with intervals: of the untrained model ("first"), after the last
        round ("last"), or of a row of the file `<section>-<variant>-floors.json` beside the runs."""
        untrained = held_out(self.runs[0].base, "test")
        if whose == "last":
            logits = np.array([held_out(rounds[-1], "test").scores() for rounds in self.rounds], dtype=float)
        elif whose == "first":
            logits = untrained.scores().astype(float)
        else:
            folder, name = self.runs[0].dir.parent, self.runs[0].dir.name
            logits = load_floors(folder / f"{'-'.join(name.split('-')[:2])}-floors.json")[whose]
        return bootstrap_metrics(untrained.labels(), logits)

    def curve(self, split: str) -> np.ndarray:
        """Mean accuracy after 0, 1, ... rounds: (rounds + 1,)."""
        rows = [(run.base, *rounds) for run, rounds in zip(self.runs, self.rounds, strict=True)]
        return np.mean([[held_out(row, split).accuracy for row in each] for each in rows], axis=0)

    def later(self, split: str) -> float:
        """What the later half of the rounds gained."""
        curve = self.curve(split)
        return float(curve[-1] - curve[(len(curve) - 1) // 2])

    def moves(self) -> str:
        """Training problems fixed / broken in each round, summed over seeds."""
        pairs = [[(len(row.fixed), len(row.broken)) for row in rounds] for rounds in self.rounds]
        return " ".join(f"{fixed}/{broken}" for fixed, broken in np.sum(pairs, axis=0))

    def batches(self) -> str:
        """Optimizer steps and probing batches of a round."""
        rows = [row for rounds in self.rounds for row in rounds if row.steps]
        return ", ".join(sorted({f"{row.steps} + {row.cost['batches'] - row.steps}" for row in rows}))

    def mean(self, of: Callable[[Ledger, list[Round]], float]) -> float:
        """Mean over runs."""
        return float(np.mean([of(*pair) for pair in zip(self.runs, self.rounds, strict=True)]))

    def steps(self) -> str:
        """Optimizer steps of a round: a number, or from the fewest to the most."""
        found = sorted({row.steps for rounds in self.rounds for row in rounds})
        return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"

    def rank(self) -> str:
        """The exact rank, of every seed where they differ."""
        return ", ".join(sorted({"–" if rank is None else str(rank) for rank in map(planned_rank, self.runs)}))

    def total(self, what: str) -> int:
        """Training problems that were fixed or broken, summed over rounds and seeds."""
        return sum(len(getattr(row, what)) for rounds in self.rounds for row in rounds)


def _left(run: Ledger, rounds: list[Round]) -> int:
    return len(run.failures_after(len(rounds)))


def _norms(run: Ledger, rounds: list[Round]) -> float:
    norms, half = [row.adapter_norm for row in rounds], len(rounds) // 2
    return float(np.mean(norms[half:]) / np.mean(norms[:half])) if half else float("nan")


def _evaluation(run: Ledger, rounds: list[Round]) -> float:
    return float(np.mean([row.seconds["evaluate"] / sum(row.seconds.values()) for row in rounds]))


def _classifier(whose: str, place: int) -> Callable[[Named, str], float]:
    return lambda named, metric: named.classified(whose)[metric][place]


MEASURES: dict[str, Callable[[Named, str], Any]] = {
    "base": Named.base,
    "end": Named.end,
    "gain": lambda named, split: named.end(split) - named.base(split),
    "low": lambda named, split: named.interval(split)[1],
    "high": lambda named, split: named.interval(split)[2],
    "by round": lambda named, split: " ".join(f"{accuracy:.3f}" for accuracy in named.curve(split)[1:]),
    "later": Named.later,
    "best": lambda named, split: int(named.curve(split).argmax()),  # rounds, of the best mean
    "seeds": lambda named, _: len(named.runs),
    "which": lambda named, _: ", ".join(map(str, sorted(by_seed(named.runs)))),  # seeds
    "rounds": lambda named, _: len(named.rounds[0]),
    "steps": lambda named, _: named.steps(),
    "batches": lambda named, _: named.batches(),
    "numbers": lambda named, _: named.rounds[0][0].num_parameters,
    "rank": lambda named, _: named.rank(),
    "norm": lambda named, _: named.mean(lambda run, rounds: rounds[-1].update_norm),
    "norms": lambda named, _: named.mean(_norms),  # of adapters: later half over earlier half
    "failures": lambda named, _: named.mean(lambda run, rounds: len(run.base.failures)),
    "left": lambda named, _: named.mean(_left),  # failures after the last round
    "change": lambda named, _: named.mean(lambda run, rounds: _left(run, rounds) / len(run.base.failures) - 1),
    "flipped": lambda named, _: named.mean(lambda run, rounds: flow_table(run)["regression rate"].mean()),
    "evaluation": lambda named, _: named.mean(_evaluation),  # share of a round's seconds
    "fixed": lambda named, _: named.total("fixed"),
    "broken": lambda named, _: named.total("broken"),
    "moves": lambda named, _: named.moves(),
    "decoded": lambda named, _: named.mean(lambda run, rounds: sum(row.extra["drafts"]["tokens"] for row in rounds)),
}
for _name, _whose in CLASSIFIED.items():  # each with its interval, followed by the metric
    MEASURES |= {f"{_name}{side}": _classifier(_whose, place) for place, side in enumerate(("", " low", " high"))}
