"""Medians of interleaved runs, and ratios of those medians.

    ratio = median(peer) / median(ours)        seconds or an error: less is better, so above 1 ours is ahead

Absolute figures depend on the machine and on what else it does; only ratios are worth quoting.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """One comparison: what every side needed, run by run, and who is compared with whom.

    runs: name -> seconds (or what `unit` says; less is better). compare: (ours, peer) pairs of names. work: name ->
    what that side did, counted in the run. notes: further findings. amount: tokens or checks of one run, where rates
    are of interest. limit: the name that shows what the machine would allow.
    """

    what: str
    runs: Mapping[str, Sequence[float]]
    compare: Sequence[tuple[str, str]]
    unit: str = "s"
    work: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    amount: int | None = None
    limit: str | None = None

    @property
    def medians(self) -> dict[str, float]:
        """The median of every name's runs."""
        return {name: statistics.median(values) for name, values in self.runs.items()}

    @property
    def ratios(self) -> list[tuple[str, str, float]]:
        """(ours, peer, median of the peer / median of ours) of every pair."""
        medians = self.medians
        return [(ours, peer, medians[peer] / medians[ours]) for ours, peer in self.compare]

    def record(self, where: Mapping[str, str]) -> dict[str, Any]:
        """Plain JSON. `ratio`: of every name to the first pair's peer; `rates` where there is an amount, `share` of the
        limit where there is one."""
        medians, reference = self.medians, self.compare[0][1]
        rates = {name: self.amount / value for name, value in medians.items()} if self.amount else None
        share = {name: medians[self.limit] / value for name, value in medians.items()} if self.limit else None
        return {
            "what": self.what,
            "environment": dict(where),
            "unit": self.unit,
            "runs": {name: list(values) for name, values in self.runs.items()},
            "medians": medians,
            **({"rates": rates} if rates else {}),
            **({"share": share} if share else {}),
            "ratio": {name: medians[reference] / value for name, value in medians.items()},
            "compare": [{"ours": ours, "peer": peer, "ratio": ratio} for ours, peer, ratio in self.ratios],
            "work": {name: dict(counts) for name, counts in self.work.items()},
            "notes": dict(self.notes),
        }


def phased(what: str, sides: Mapping[str, tuple[Mapping[str, float], Mapping[str, int]]]) -> Measurement:
    """A comparison by phase: name -> (phase -> seconds, work). Two names, ours first. "whole": the sum."""
    ours, peer = sides
    seconds = {name: {**phases, "whole": sum(phases.values())} for name, (phases, _) in sides.items()}
    runs = {f"{name}: {phase}": [seconds[name][phase]] for phase in seconds[ours] for name in sides}
    compare = [(f"{ours}: {phase}", f"{peer}: {phase}") for phase in seconds[ours]]
    return Measurement(what, runs, compare, work={name: work for name, (_, work) in sides.items()})


def timed(calls: Mapping[str, Callable[[], T]], repeats: int) -> tuple[dict[str, list[float]], dict[str, T]]:
    """(seconds of every run, what each call returned last), one run of every kind after the other.

    A first pass is a warm-up and is not counted.
    """
    runs: dict[str, list[float]] = {name: [] for name in calls}
    last: dict[str, T] = {}
    with tqdm(total=(1 + repeats) * len(calls), desc="bench", unit="run", leave=False) as bar:
        for name, call in list(calls.items()) * (1 + repeats):
            bar.set_postfix_str(name)
            seconds: dict[str, float] = {}
            with clock(seconds, name):
                last[name] = call()
            runs[name].append(seconds[name])
            bar.update()
    return {name: values[1:] for name, values in runs.items()}, last


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the seconds of the block inside to `seconds[name]`, what a GPU still has to do included."""
    _synchronize()
    start = time.perf_counter()
    yield
    _synchronize()
    seconds[name] = seconds.get(name, 0.0) + (time.perf_counter() - start)


def _synchronize() -> None:
    torch = sys.modules.get("torch")  # the sandbox is measured from a process that has not imported it
    if torch and torch.cuda.is_available():
        torch.cuda.synchronize()


def print_tables(subject: str, records: Sequence[Mapping[str, Any]]) -> None:
    """The records of a subject: every side's median, then the ratio of every pair that is compared."""
    for record in records:
        where = record["environment"]
        print(f"{subject}: {record['what']} ({where['device']}, {where['threads']} threads, {where['date']})")
        for name, value in record["medians"].items():
            rate = f"   {record['rates'][name]:9.1f} a second" if "rates" in record else ""
            share = f"   {record['share'][name]:5.0%} of the limit" if "share" in record else ""
            print(f"  {name:<44} {value:11.4g} {record['unit']}{rate}{share}")
        for pair in record["compare"]:
            print(f"  {pair['ours']:<44} {pair['ratio']:11.2f} times as good as {pair['peer']}")
        for note, value in record["notes"].items():
            print(f"  {note}: {value}")


def write(folder: str | Path, subject: str, device: str, records: Sequence[Mapping[str, Any]]) -> Path:
    """`folder/<subject>-<device>-<n>.json`, n the next that is free: no earlier measurement is overwritten."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while (path := folder / f"{subject}-{device}-{number}.json").exists():
        number += 1
    path.write_text(json.dumps(records, indent=1) + "\n")
    return path
