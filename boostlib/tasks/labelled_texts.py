"""A user's own texts with labels, of any number of classes, from CSV, TSV or JSONL: tickets, reviews, questions.

    text,label                                     {"text": "Where is my parcel?", "label": "delivery"}
    "I was charged twice, why?",billing            {"text": "...", "label": 3, "split": "test"}

`path` is one file, or a folder with files named after splits (`train.csv`, `test.jsonl`). Of one file each row's field
`split` says where it belongs, by default to `train`. Splits: `train`; `validation` (or dev, valid, val); `test`;
`guard`, what must not break. Where the data name no validation or no test, `hold_out` of the training rows of each
class, rounded down, are held out for it, chosen by a hash of the text. `kind` of an example is its class.

Rule: the classes are the labels that occur, in alphabetical order; a whole number is the label that it is written as.
Blanks around a label do not count. Two labels that differ by case alone are one mistyped, and an error. An `id` is the
row's own where it has one, else the place of the row. Other fields are left alone.

Departures: none from a paper; the task is the project's own.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from boostlib.common.errors import DataError
from boostlib.common.settings import AnyPath, Name, Share, short
from boostlib.tasks.base import Example, TextLabelTask, held_out
from boostlib.tasks.log_rows import complain
from boostlib.tasks.rows import UNREADABLE, Row, json_lines, open_text

SPLITS = ("train", "validation", "test", "guard")
ALSO = {"dev": "validation", "valid": "validation", "val": "validation"}
ENDINGS = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")
MOST = 65_536  # classes, as a ledger keeps their ids


@dataclass(frozen=True, kw_only=True)
class LabelledTexts(TextLabelTask):
    """`path`: see above. `text`, `label`: the columns. `hold_out`: share held out for a split that the data lack.

    Raises DataError where the data are missing or malformed, with every problem and its line, or have one class alone;
    BoostError for a class in `pair_costs` that does not occur.
    """

    name: ClassVar[str] = "labelled_texts"
    path: AnyPath | None = field(default=None, compare=False)
    text: Name = "text"
    label: Name = "label"
    hold_out: Share = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.classes  # read and checked now, not when a split is asked for
        self.check_costs()

    @cached_property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]
        """The labels that occur."""
        return tuple(sorted({example.answer for examples in self._dealt.values() for example in examples}))

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(split for split in SPLITS if self._dealt[split])

    def load_split(self, name: str) -> list[Example]:
        return self._dealt[name]

    @cached_property
    def _dealt(self) -> dict[str, list[Example]]:
        """Split -> its examples, those held out among them."""
        if self.path is None:
            raise DataError('labelled_texts needs the data: load_task("labelled_texts", path="tickets.csv")')
        found: dict[str, list[Example]] = {split: [] for split in SPLITS}
        seen, problems = _Seen(), []
        for where, split, row in _rows(Path(self.path)):
            wrong = (
                [row] if isinstance(row, str) else [*_wrong(row, self.text, self.label), *seen.wrong(row, where, self)]
            )
            problems += [(where, what) for what in wrong]
            if not wrong and isinstance(row, dict):
                label = str(row[self.label]).strip()
                split = split or _split(row)
                found[split].append(Example(str(row.get("id", where)), row[self.text], label, kind=label))
        complain(problems, self.path, "the file of texts")
        if len(seen.labels) < 2 or len(seen.labels) > MOST or not found["train"]:
            classes = "1 class" if len(seen.labels) == 1 else f"{len(seen.labels)} classes"
            raise DataError(
                f"{self.path} holds {len(found['train'])} training rows, and {classes} in all: some rows of split "
                f"'train' are needed, and 2 to {MOST:,} classes; is {self.label!r} the column of the labels?"
            )
        for split in ("test", "validation"):
            if not found[split]:
                found["train"], found[split] = _hold_out(found["train"], self.hold_out)
        return found


class _Seen:
    """Ids and labels so far, by their places."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.labels: dict[str, tuple[str, str]] = {}  # in small letters -> as written first, and where

    def wrong(self, row: Row, where: str, task: LabelledTexts) -> Iterator[str]:
        """An id that was there already, a label that differs from one by case alone."""
        if "id" in row and self.ids.setdefault(str(row["id"]), where) != where:
            yield f"the id '{row['id']}' is that of {self.ids[str(row['id'])]} already"
        label = str(row.get(task.label, "")).strip()
        first, place = self.labels.setdefault(label.casefold(), (label, where))
        if first != label:
            yield f"the label {label!r} differs by case alone from {first!r} in {place}: write one of them"


def _rows(path: Path) -> Iterator[tuple[str, str, Row | str]]:
    """(where, the split that the file is named after or "", a row without empty fields, or else what is wrong) of each
    row. Raises DataError where there is no file, or none that is named after a split, or no row."""
    inside = [file for file in sorted(path.iterdir()) if file.name.lower().endswith(ENDINGS)] if path.is_dir() else []
    named = [(file, ALSO.get(stem, stem)) for file in inside for stem in [file.name.lower().split(".")[0]]]
    files = [(file, split) for file, split in named if split in SPLITS] if path.is_dir() else [(path, "")]
    if not files:
        raise DataError(f"{path} holds no file named after a split, such as train.csv or test.jsonl")
    empty = True
    for file, split in files:
        lines = csv_lines if ".jsonl" not in file.name.lower() else json_lines
        for number, row in lines(file):
            if isinstance(row, dict):
                row = {name: value for name, value in row.items() if value is not None and value != ""}
            yield f"{file.name}, line {number}" if path.is_dir() else f"line {number}", split, row
            empty = False
    if empty:
        raise DataError(f"{path} is empty: it should hold one text with its label a row")


def csv_lines(path: Path) -> Iterator[tuple[int, Row | str]]:
    """(line, the row, or else what is wrong with it) of each row of a table under its header.

    Raises DataError where the file cannot be read.
    """
    tabs = ".tsv" in path.name.lower()
    try:
        with open_text(path, newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if tabs else ",", strict=True)
            line = 2
            for row in reader:
                wide = row.pop(None, None)  # type: ignore[call-overload]  # where DictReader puts what has no column
                yield line, "it has more cells than columns: put text with commas in quotes" if wide else row
                line = reader.line_num + 1
    except (*UNREADABLE, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}; give a whole table, one row a line") from error


def _wrong(row: Row, text: str, label: str) -> Iterator[str]:
    """What is wrong with the fields of one row."""
    found = ", ".join(map(str, row)) or "none"
    for name in (text, label):
        value: Any = row.get(name)
        kinds = (str,) if name == text else (str, int)
        if value is None:
            yield f"{name!r} is missing or empty; fields found: {found}"
        elif isinstance(value, bool) or not isinstance(value, kinds) or not str(value).strip():
            what = "a text that is not blank" if name == text else "a text or a whole number"
            yield f"{name!r} should be {what}, not {short(value, 60)}"
    if _split(row) not in SPLITS:
        yield f"'split' should be one of {', '.join(SPLITS)}, not {short(row['split'], 60)}"


def _split(row: Row) -> str:
    name = str(row.get("split", "train")).strip().lower()
    return ALSO.get(name, name)


def _hold_out(examples: list[Example], share: float) -> tuple[list[Example], list[Example]]:
    """(the rest, those held out): of each class its share, rounded down, by a hash of the text; both in order."""
    by_class: dict[str, list[Example]] = {}
    for example in examples:
        by_class.setdefault(example.answer, []).append(example)
    chosen = {e.id for group in by_class.values() for e in held_out(group, int(share * len(group)))[1]}
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        parts[example.id in chosen].append(example)
    return parts
