"""Which cases of a log a repair takes, what becomes of each, and what it says of the log.

    failed     to be trained on             held out   every case whose hash of its id, in [0, 1), is below `held_out`
    passed     a guard: must not break                 (split "test"); the others are trained on or guard

A log that names cases of split `test` holds out these alone; an error log's own guards stay guards. Of each kind at
most `most` are taken, in the order of another hash of the id: nothing is drawn by lot, so the same log always gives the
same cases. A case with a logged answer is taken only where its score here is the log's verdict on that answer.

What is taken is written as an error log, `cases.jsonl`, where `logged` says what the log found: "failed" or "passed".
"""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from boostlib.common.errors import DataError
from boostlib.common.stable import stable_seed
from boostlib.tasks.error_log import ErrorLog, score_text, to_case
from boostlib.tasks.log_rows import LogError, Numbered, Problem, check_rows, expected_text, listed, scoring
from boostlib.tasks.logs.reading import OWN, Reading
from boostlib.tasks.rows import Row

DISAGREES = "scored otherwise here than in the log"
LOGGED = {True: "passed", False: "failed"}


@dataclass
class Chosen:
    """`rows`: what is taken, with split and `logged`. `left`: how many of each split were not needed."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[Problem] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)

    def count(self, split: str) -> int:
        """Cases taken of a split."""
        return sum(row["split"] == split for row in self.rows)

    def text(self) -> str:
        """The rows as JSONL."""
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)


def sound_rows(reading: Reading, skip_malformed: bool) -> tuple[list[Numbered], list[Problem]]:
    """(the rows without a problem, all problems). Raises LogError, listing them all, unless they are to be skipped."""
    problems = [*reading.problems, *check_rows(reading.rows)]
    bad = {where for where, _ in problems}
    problems += _code_problems([(where, row) for where, row in reading.rows if where not in bad])
    if problems and not skip_malformed:
        lines = "\n".join(listed(problems))
        raise LogError(f"correct these, or leave them out with --skip-malformed:\n{lines}", problems)
    bad = {where for where, _ in problems}
    return [(where, row) for where, row in reading.rows if where not in bad], problems


def choose(reading: Reading, rows: Sequence[Numbered], held_out: float, most: int) -> Chosen:
    """The cases to take of sound rows. Raises DataError where no failure scores here as it did there."""
    chosen, splits = Chosen(left_out=list(reading.left_out)), _splits(reading, rows, held_out)
    labels = sorted({expected_text(row) for _, row in rows if scoring(row) == "label"})
    taken: dict[str, Row] = {}
    count: Counter[str] = Counter()
    for where, row in sorted(rows, key=lambda one: stable_seed("take", str(one[1]["id"]))):
        split, (passed, response) = splits[where], reading.verdicts[where]
        if count[split] >= most:
            chosen.left[split] += 1
        elif passed is not None and response is not None and not _agrees(row, passed, response, labels):
            chosen.left_out.append((where, DISAGREES))
        else:
            kept = {name: value for name, value in row.items() if name != "kind"}
            taken[where] = kept | {"split": split} | ({} if passed is None else {"logged": LOGGED[passed]})
            count[split] += 1
    chosen.rows = [taken[where] for where, _ in rows if where in taken]
    if "train" in splits.values() and not chosen.count("train"):
        raise DataError("no failure is left to train on: each is scored otherwise here, name its --score")
    return chosen


def describe(reading: Reading, rows: Sequence[Numbered], costs: Mapping[str, float]) -> str:
    """What a log holds: cases, failures and costs, by class."""
    verdicts = [reading.verdicts[where][0] for where, _ in rows]
    table = pd.DataFrame(
        {
            "class": [str(row.get("class") or "(no class)") for _, row in rows],
            "cases": 1,
            "failed": [passed is False for passed in verdicts],
            "passed": [passed is True for passed in verdicts],
            "cost of failures": [
                float(row.get("cost", costs.get(str(row.get("class")), 1.0))) * (passed is False)
                for (_, row), passed in zip(rows, verdicts, strict=True)
            ],
        }
    )
    by_class = table.groupby("class").sum().sort_values("cost of failures", ascending=False, kind="stable")
    return f"{reading.form}: {reading.records} records, {len(rows)} cases\n{by_class.to_string()}"


def _splits(reading: Reading, rows: Sequence[Numbered], held_out: float) -> dict[str, str]:
    named = any(row.get("split") == "test" for _, row in rows)
    found = {}
    for where, row in rows:
        split = "guard" if row.get("kind") == "guard" else row.get("split") or "train"
        fixed = "split" in row or (split == "guard" and reading.form == OWN) or named
        held = not fixed and stable_seed("held out", str(row["id"])) / 2**32 < held_out
        found[where] = "test" if held else split
    return found


def _agrees(row: Row, passed: bool, response: str, labels: Sequence[str]) -> bool:
    """Whether the logged answer gets the logged verdict here; programs are not run for it."""
    return scoring(row) == "code" or score_text(response, to_case(row, {}), labels).correct == passed


def _code_problems(rows: Sequence[Numbered]) -> list[Problem]:
    """Tests and references that do not work, by the places of the log."""
    code = [(where, row) for where, row in rows if scoring(row) == "code"]
    if not code:
        return []
    with tempfile.TemporaryDirectory() as folder:
        plain = [{name: value for name, value in row.items() if name not in ("kind", "split")} for _, row in code]
        path = Path(folder) / "programs.jsonl"
        path.write_text(Chosen(plain).text())
        try:
            ErrorLog(path=path)
        except LogError as error:
            return [(code[int(where.rpartition(" ")[2]) - 1][0], what) for where, what in error.problems]
    return []
