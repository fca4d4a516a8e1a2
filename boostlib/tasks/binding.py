"""Does a protein complex bind tightly? PPB-Affinity, or any CSV file of chains with a KD or a label.

    Ligand Sequences     "DIKMTQSPSSMYASLGERVTITCKAS...,EIQLQQSGAELVRPGALVKLSCKAS..."     one or more chains
    Receptor Sequences   "TNTVAAYNLTWKSTNFKTILEWEPKP..."
    KD(M), split         "3.4e-09", "train"                                  ->  answer "1" at a threshold of 100 nM

Source: `ppb_affinity/filtered.csv` of the data folder, else `proteinea/ppb_affinity` on the hub; `file=` names a CSV
file of your own. Rule: a row binds where KD <= `threshold` (in nM). The paper states no threshold; with 100 nM 59% of
PPB-Affinity are binders, which fits its numbers best.

The file's own split is kept, and `leaks` says whether a complex, or something nearly equal to it, lies on two sides. A
file without that column is split 80 : 10 : 10 by clusters of similar sequences (`clusters.py`), and the log says so.
Bad rows are named, with the letter or the value at fault, before anything is trained.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import numpy as np
from pydantic import Field

from boostlib.common.errors import BoostError, DataError
from boostlib.common.settings import AnyPath, Name, Positive, Seed
from boostlib.tasks.base import Example, LabelTask
from boostlib.tasks.chains import read_chains
from boostlib.tasks.clusters import clusters, split_by_cluster, warn_of_shared
from boostlib.tasks.rows import Row, Source, load_rows, read_file

log = logging.getLogger(__name__)
T = TypeVar("T")

SOURCE = Source("ppb_affinity/filtered.csv", "proteinea/ppb_affinity", "train", hub_file="filtered.csv")
Similarity = Annotated[
    float, Field(gt=0, le=1, allow_inf_nan=False, strict=True, description="a number above 0 and at most 1")
]
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SPELLINGS = {"val": "validation", "valid": "validation", "dev": "validation"}
OPTIONAL = {"complex_id": "PDB", "split_column": "split"}  # columns that a file may lack, unless they are named
LABELS = {"1": "1", "0": "0", "true": "1", "false": "0", "yes": "1", "no": "0"}


@dataclass(frozen=True, kw_only=True)
class Binding(LabelTask):
    """Columns are named by `ligand`, `receptor` (None: there is none), `kd` in mol/l, `complex_id` and `split_column`.

    label: a column of 0 and 1 to use instead of `kd`. threshold: in nM. similarity: from which on two rows of a file
    without a split must stay together. seed: of that split.

    Raises BoostError for a column that is named for two things; DataError for missing columns, bad rows, a split
    without rows or with one class alone.
    """

    name: ClassVar[str] = "binding"
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    threshold: Positive = 100.0
    ligand: Name = "Ligand Sequences"
    receptor: Name | None = "Receptor Sequences"
    kd: Name = "KD(M)"
    label: Name | None = None
    complex_id: Name = "PDB"
    split_column: Name = "split"
    similarity: Similarity = 0.5
    seed: Seed = 0
    file: AnyPath | None = field(default=None, compare=False)
    data_dir: AnyPath | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        options = ("ligand", "receptor", "label" if self.label else "kd", "split_column")
        columns = [(option, getattr(self, option)) for option in options]
        for place, (option, column) in enumerate(columns):
            same = next((other for other, name in columns[:place] if column is not None and name == column), None)
            if same:
                raise BoostError(f"binding: {option} and {same} are both {column!r}: name a column for each")

    def load_split(self, name: str) -> list[Example]:
        examples = [example for example, split in self._placed if split == name]
        if not examples:
            found = dict(Counter(split for _, split in self._placed))
            raise DataError(
                f"binding: no row has split {name!r} (rows by split: {found}); give every split rows, or leave the "
                f"column {self.split_column!r} out and the rows are split by sequence clusters"
            )
        if len({example.answer for example in examples}) == 1:
            kind = "binders" if examples[0].answer == "1" else "non-binders"
            remedy = "mend the labels" if self.label else f"change threshold, now {self.threshold:g} nM"
            raise DataError(f"binding, split {name!r}: all {len(examples)} rows are {kind}: {remedy}")
        return examples

    @cached_property
    def _placed(self) -> list[tuple[Example, str]]:
        """Every row as an example, with its split."""
        needed = [self.ligand, self.receptor, self.label or self.kd]
        columns = [column for column in needed if column]
        if self.file is not None and not Path(self.file).is_file():
            raise DataError(f"binding: file {str(self.file)!r} does not exist")
        rows = read_file(self.file, columns) if self.file is not None else load_rows(SOURCE, (), self.data_dir)
        columns += [getattr(self, option) for option, usual in OPTIONAL.items() if getattr(self, option) != usual]
        missing = [column for column in columns if column not in rows[0]]
        if missing:
            raise DataError(f"binding: no column {', '.join(map(repr, missing))}; found: {', '.join(rows[0])}")
        examples = _all_or_every_error(self._example, rows)
        if self.split_column not in rows[0]:
            return list(zip(examples, self._own_split(examples), strict=True))
        placed = list(zip(examples, _all_or_every_error(self._given_split, rows), strict=True))
        warn_of_shared(placed)
        return placed

    def _example(self, number: int, row: Row) -> Example:
        columns = [column for column in (self.ligand, self.receptor) if column]
        sides = [read_chains(row[column] or "", f"row {number}, {column}") for column in columns]
        group = str(row.get(self.complex_id) or "")
        return Example(f"{group or 'row'}-{number}", "|".join(sides), self._answer(number, row), kind=group)

    def _answer(self, number: int, row: Row) -> str:
        if self.label is not None:
            given = str(row[self.label]).strip().lower()
            if given not in LABELS:
                raise DataError(f"row {number}: {self.label} is {row[self.label]!r}; known: {', '.join(LABELS)}")
            return LABELS[given]
        try:
            kd = float(str(row[self.kd]).replace("_", "?"))  # Python reads 1_0 as 10
        except ValueError:
            kd = float("nan")
        if not 0 < kd < float("inf"):
            raise DataError(
                f"row {number}: {self.kd} is {row[self.kd]!r}, which is no positive number of mol/l; "
                "remove the row, or name a column of 0 and 1 with label="
            )
        return str(int(kd <= self.threshold * 1e-9 * (1 + 1e-12)))  # 1e-7 is not 100 * 1e-9 to the last bit

    def _given_split(self, number: int, row: Row) -> str:
        given = str(row[self.split_column] or "").strip().lower()
        split = SPELLINGS.get(given, given)
        if split not in self.splits:
            raise DataError(
                f"row {number}: {self.split_column} is {row[self.split_column]!r}; known: {', '.join(self.splits)}"
            )
        return split

    def _own_split(self, examples: Sequence[Example]) -> list[str]:
        labels = clusters([str(example.prompt) for example in examples], self.similarity)
        placed = split_by_cluster(labels, SHARES, self.seed)
        sizes, kinds = Counter(placed), len(set(labels))
        if len(sizes) < len(SHARES):
            raise DataError(
                f"binding: {len(examples)} rows form {kinds} cluster(s) at similarity {self.similarity}, the largest "
                f"of {np.bincount(labels).max()}: too few for {', '.join(SHARES)}. Raise similarity, or add a column "
                f"{self.split_column!r}"
            )
        log.warning(
            "binding: the file has no column %r, so its %d rows were split by %d sequence clusters: %s",
            self.split_column, len(examples), kinds, ", ".join(f"{split} {sizes[split]}" for split in SHARES),
        )  # fmt: skip
        return placed


def _all_or_every_error(function: Callable[[int, Row], T], rows: Sequence[Row]) -> list[T]:
    """function(number, row) of every row. Raises one DataError that names bad rows, and counts those past 5."""
    done, wrong = [], []
    for number, row in enumerate(rows, 1):
        try:
            done.append(function(number, row))
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        more = f"\n... and {len(wrong) - 5} more bad rows" if len(wrong) > 5 else ""
        raise DataError("binding: " + "\n".join(wrong[:5]) + more)
    return done
