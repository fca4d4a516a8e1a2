"""Recorded runs by method, from a folder of run directories: what tables and figures are made of."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from boostlib.common.errors import BoostError
from boostlib.records.ledger import Ledger

METHODS = ("rotate", "greedy", "top", "monolithic", "tinylora", "lora", "full")
LABELS = {
    "rotate": "BoostLoRA (rotate)",
    "greedy": "greedy rounds (ours)",
    "top": "rounds in the top block",
    "monolithic": "monolithic, one round",
    "tinylora": "TinyLoRA, one shot",
    "lora": "LoRA r=1",
    "full": "full fine-tuning",
}


def recorded_runs(folder: str | Path, section: str, preset: str) -> Mapping[str, Sequence[Ledger]]:
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
