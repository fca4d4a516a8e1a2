"""What is on record: runs by method, from a folder of run directories, and small tables of measurements as CSV files.

Tables and figures are made of these. Measurements say in every row where and when they were made.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from boostlib.common.errors import BoostError
from boostlib.records.ledger import Ledger

Groups = Mapping[str, Sequence[Ledger]]  # label -> one ledger a seed
Runs = Mapping[str, Ledger]  # label -> the run that is shown

LABELS = {
    "rotate": "BoostLoRA (rotate)",
    "greedy": "greedy rounds (ours)",
    "top": "rounds in the top block",
    "monolithic": "monolithic, one round",
    "tinylora": "TinyLoRA, one shot",
    "lora": "LoRA r=1",
    "lorarounds": "rounds of LoRA r=1",
    "full": "full fine-tuning",
}
METHODS = tuple(LABELS)


def recorded_runs(folder: str | Path, section: str, preset: str) -> Groups:
    """Runs by label, from directories `<section>-<preset>-<method>-seed<k>` of `folder`; {} where there are none.

    A size behind the method, as in `rotate4032`, is a run of its own kind. Raises BoostError for a directory that is
    named so, but after no known method.
    """
    found: dict[tuple, list[Ledger]] = {}
    for path in sorted(Path(folder).glob(f"{section}-{preset}-*-seed*")):
        match = re.fullmatch(rf"{section}-{preset}-([a-z]+)(\d*)-seed.*", path.name)
        name, size = match.groups() if match else (None, None)
        if name not in METHODS:
            raise BoostError(f"{path} is named after no method: rename it; the methods are {', '.join(METHODS)}")
        found.setdefault((METHODS.index(name), int(size or 0)), []).append(Ledger(path))
    return {
        LABELS[METHODS[method]] + (f", {size:,} numbers" if size else ""): found[method, size]
        for method, size in sorted(found)
    }


def growth_runs(folder: str | Path, name: str = "growth") -> Groups:
    """Runs `math-<name>-*` by label, and the monolithic ones at a learning rate of their own (`math-smallstep-*`)."""
    gentle = recorded_runs(folder, "math", "smallstep").items()
    return {**recorded_runs(folder, "math", name), **{f"{label}, lr 0.003": runs for label, runs in gentle}}


def variants(folder: str | Path, names: Mapping[str, str]) -> Groups:
    """Runs by label; names: label -> "<section>-<variant>-<method>". Raises BoostError for a label without any."""
    found = {
        label: [Ledger(path) for path in sorted(Path(folder).glob(f"{name}-seed*"))] for label, name in names.items()
    }
    missing = [label for label, runs in found.items() if not runs]
    if missing:
        raise BoostError(f"{folder} has no runs {names[missing[0]]}-seed<k> for {missing[0]!r}: run them first")
    return found


def of_seed(ledgers: Sequence[Ledger], seed: int) -> Ledger:
    """The run with that seed. Raises BoostError, naming the seeds there are, where it is missing."""
    runs = by_seed(ledgers)
    if seed not in runs:
        raise BoostError(f"no run of seed {seed}; there are {', '.join(map(str, sorted(runs))) or 'none'}")
    return runs[seed]


def by_seed(ledgers: Sequence[Ledger]) -> dict[int, Ledger]:
    """Runs by their seed."""
    return {run.header["identity"]["seed"]: run for run in ledgers}


def several_rounds(groups: Groups) -> Groups:
    """Those groups whose runs have more than one round."""
    return {label: runs for label, runs in groups.items() if len(runs[0].rounds) > 1}


def shown_runs(groups: Groups, seed: int) -> Runs:
    """One run each of the first two methods that have several rounds: those that are shown problem by problem."""
    first_two = list(several_rounds(groups))[:2]
    return {f"{label}, seed {seed}": of_seed(groups[label], seed) for label in first_two}


def measured(folder: str | Path, run: str, what: str) -> pd.DataFrame:
    """The committed table `<run>-<what>.csv`, made by the functions that data/theory/README.md names."""
    return pd.read_csv(Path(folder) / f"{run}-{what}.csv")
