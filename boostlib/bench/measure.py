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
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """One comparison: what every side needed, run by run, and who is compared with whom.

    runs: name -> seconds (or what `unit` says; less is better). compare: (ours, peer) pairs of names. work: name ->
    what that side did, counted in the run. notes: further findings. amount: tokens or checks of one run, where rates
    are of interest.
    """

    what: str
    runs: Mapping[str, Sequence[float]]
    compare: Sequence[tuple[str, str]]
    unit: str = "s"
    work: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    amount: int | None = None

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
        """Plain JSON. `ratio`: of every name to the first pair's peer; `rates` where there is an amount."""
        medians, reference = self.medians, self.compare[0][1]
        rates = {name: self.amount / value for name, value in medians.items()} if self.amount else None
        return {
            "what": self.what,
            "environment": dict(where),
            "unit": self.unit,
            "runs": {name: list(values) for name, values in self.runs.items()},
            "medians": medians,
            **({"rates": rates} if rates else {}),
            "ratio": {name: medians[reference] / value for name, value in medians.items()},
            "compare": [{"ours": ours, "peer": peer, "ratio": ratio} for ours, peer, ratio in self.ratios],
            "work": {name: dict(counts) for name, counts in self.work.items()},
            "notes": dict(self.notes),
        }


def phased(what: str, passes: Mapping[str, Sequence[tuple[Mapping[str, float], Mapping[str, int]]]]) -> Measurement:
    """A comparison by phase: name -> passes, each (phase -> seconds, work). Two names, ours first. "whole": the sum."""
    ours, peer = passes
    phases = list(passes[ours][0][0])
    runs = {f"{name}: {phase}": [one[phase] for one, _ in passes[name]] for phase in phases for name in passes}
    runs |= {f"{name}: whole": [sum(one.values()) for one, _ in passes[name]] for name in passes}
    compare = [(f"{ours}: {phase}", f"{peer}: {phase}") for phase in (*phases, "whole")]
    return Measurement(what, runs, compare, work={name: found[-1][1] for name, found in passes.items()})


def interleaved(calls: Mapping[str, Callable[[], T]], repeats: int, warm_up: int = 1) -> dict[str, list[T]]:
    """What each call returns, one run of every kind after the other; the first `warm_up` passes are dropped."""
    seen: dict[str, list[T]] = {name: [] for name in calls}
    for repeat in tqdm(range(warm_up + repeats), desc="bench", unit="pass", leave=False):
        for name, call in calls.items():
            value = call()
            if repeat >= warm_up:
                seen[name].append(value)
    return seen


def timed(calls: Mapping[str, Callable[[], T]], repeats: int) -> tuple[dict[str, list[float]], dict[str, T]]:
    """(seconds of every run, what each call returned last), interleaved, after one pass that is not counted."""
    last: dict[str, T] = {}

    def once(name: str) -> float:
        seconds: dict[str, float] = {}
        with clock(seconds, name):
            last[name] = calls[name]()
        return seconds[name]

    return interleaved({name: partial(once, name) for name in calls}, repeats), last


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


def reset_peak() -> None:
    """The kernel's high-water mark of this process's memory falls to what it holds now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(field: str) -> int:
    """Bytes of resident memory: "VmRSS" now, "VmHWM" at its highest since `reset_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def print_measurement(record: Mapping[str, Any]) -> None:
    """One measurement's table, from its record."""
    where = record["environment"]
    print(f"{record['what']} ({where['device']}, {where['threads']} threads, {where['date']})")
    for name, value in record["medians"].items():
        rate = f"   {record['rates'][name]:9.1f} a second" if "rates" in record else ""
        print(f"  {name:<44} {value:11.4g} {record['unit']}{rate}")
    for note, value in record["notes"].items():
        print(f"  {note}: {value}")


def print_summary(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """The last table: subject, ours, peer, ratio of their medians."""
    print(f"\n{'subject':<10} {'ours':<44} {'peer':<44} ratio")
    for subject, found in records.items():
        for pair in (pair for record in found for pair in record["compare"]):
            print(f"{subject:<10} {pair['ours']:<44} {pair['peer']:<44} {pair['ratio']:6.2f}")


def write(folder: str | Path, subject: str, device: str, records: Sequence[Mapping[str, Any]]) -> Path:
    """`folder/<subject>-<device>-<n>.json`, n the next that is free: no earlier measurement is overwritten."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while (path := folder / f"{subject}-{device}-{number}.json").exists():
        number += 1
    path.write_text(json.dumps(records, indent=1) + "\n")
    return path
