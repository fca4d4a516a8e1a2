"""A log of any form that is known here, as the rows of an error log: what could be read, what is wrong, what was left.

    a record = a row, or a problem (to be corrected), or left out (its scoring cannot be rebuilt, or it is there twice)

The form is told by content: of JSONL by its first lines, of one JSON document by its fields, of a table by its header;
a `.eval` file begins as a zip file does. JSONL of no other form is an error log. A folder is read as one log: its JSONL
files, or else its json, eval, csv and tsv files. Places are lines, or numbers of results, samples and rows.

Records that ask and expect the same are one case: of one answer, judged by several filters, the kindest verdict counts,
of several answers, by epoch or provider, the worst. An error log's own rows stay as they are.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from boostlib.common.errors import DataError
from boostlib.common.stable import fingerprint_json
from boostlib.tasks.log_rows import Numbered, Problem
from boostlib.tasks.logs import chats, flat, harness, inspect_log, promptfoo
from boostlib.tasks.logs.record import LeftOut, Malformed, Record, default_score
from boostlib.tasks.rows import UNREADABLE, json_lines, open_text

OWN = "error log"
LINES = (harness, chats, flat)  # forms of JSONL
DOCUMENTS = ((promptfoo, "result"), (inspect_log, "sample"))
WIDE = "more cells than columns: put text with commas in quotes"
LOOKED_AT = 50  # lines that tell the form
Placed = tuple[str, Any]  # where it stands, and the record, or a text that says what is wrong with it


@dataclass
class Reading:
    """What a log holds. `score`: of rows that name none. `verdicts`: by place, the log's (None: none), and on what."""

    score: str | None = None
    form: str = OWN
    rows: list[Numbered] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: list[Problem] = field(default_factory=list)
    verdicts: dict[str, tuple[bool | None, str | None]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # what the log says of `stop` and `max_new_tokens`
    records: int = 0
    _seen: dict[str, int] = field(default_factory=dict)

    def take(self, form: Any, records: Iterable[Placed], file: str = "") -> None:
        """Add the records of one file. form: a reader's module, None for rows of an error log."""
        self.form = form.NAME if form else OWN
        for where, record in records:
            self.records += 1
            if not isinstance(record, dict):
                what = record if isinstance(record, str) else f"an object is expected, not a {type(record).__name__}"
                self.problems.append((where, what))
            elif form is None:
                row = {name: value for name, value in record.items() if value is not None}
                row |= {"score": self.score} if self.score and not row.keys() & {"score", "tests"} else {}
                self.rows.append((where, row))
                unknown = row.get("split") == "test"
                self.verdicts[where] = (None if unknown else row.get("kind") == "guard", None)
            else:
                try:
                    self._add(where, form.to_record(record, file))
                    self.settings = self.settings or (harness.settings(record) if form is harness else {})
                except LeftOut as why:
                    self.left_out.append((where, str(why)))
                except Malformed as why:
                    self.problems.append((where, str(why)))

    def _add(self, where: str, found: Record) -> None:
        row = {name: value for name, value in found.row.items() if value not in ("", None)}
        row.setdefault("id", where)
        if not row.keys() & {"score", "tests"}:
            row["score"] = self.score or default_score(row["expected"])
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise Malformed(f"a value that no JSON text may hold: {error}") from error
        same = fingerprint_json([row.get(name) for name in ("prompt", "messages", "expected", "tests", "score")])
        place, passed = self._seen.setdefault(same, len(self.rows)), found.passed
        if place < len(self.rows):  # there already
            self.left_out.append((where, "asks and expects the same as an earlier one"))
            where, row = self.rows[place]
            before, answer = self.verdicts[where]
            passed = (before or passed) if answer == found.response and answer else (before and passed)
            if passed == before:
                return
            row = {name: value for name, value in row.items() if name != "kind"}
        self.verdicts[where] = (passed, found.response)
        self.rows[place : place + 1] = [(where, row | ({"kind": "guard"} if passed and "split" not in row else {}))]


def read_cases(log: str | PathLike | pd.DataFrame, score: str | None = None) -> Reading:
    """The log in a file, a folder or a DataFrame. score: how rows are scored that do not say it; default: by what is
    expected, and exact in an error log. Raises DataError where it cannot be read, or is of no known form."""
    reading = Reading(score)
    if isinstance(log, pd.DataFrame):
        rows = log.astype(object).where(log.notna(), None).to_dict("records")
        reading.take(_form([dict.fromkeys(log.columns)], "the table", table=True), _numbered("row", rows))
    else:
        path = Path(log)
        for file in _files(path):
            _read_file(reading, file, f"{file.name}, " if path.is_dir() else "")
    if not reading.records:
        raise DataError(f"{log} holds no case: it should hold one JSON object a line, or one case a row")
    return reading


def _files(path: Path) -> list[Path]:
    for endings in ((".jsonl", ".jsonl.gz"), (".json", ".eval", ".csv", ".tsv")):
        found = sorted(file for file in path.iterdir() if file.name.lower().endswith(endings)) if path.is_dir() else []
        if found:
            return found
    return [path]


def _read_file(reading: Reading, path: Path, prefix: str) -> None:
    try:
        with open(path, "rb") as file:
            packed = file.read(4) == b"PK\x03\x04"
        with open_text(path) if not packed else open(path) as file:
            first = "" if packed else next((line for line in file if line.strip()), "").strip()
        document = inspect_log.read_eval(path) if packed else _document(path, first)
    except (*UNREADABLE, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if document is not None:
        form, records = _of_document(document, path)
        return reading.take(form, ((f"{prefix}{where}", one) for where, one in records), path.name)
    if first.startswith(("{", "[")) or path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        lines = ((f"{prefix}line {number}", row) for number, row in json_lines(path))
        head = list(islice(lines, LOOKED_AT))
        return reading.take(_form([row for _, row in head], path), chain(head, lines), path.name)
    if not first:
        return None
    rows = _table(path, "\t" if "\t" in first and "," not in first else ",")
    header = next(rows)[1]
    return reading.take(_form([header], path, table=True), ((f"{prefix}{where}", row) for where, row in rows))


def _document(path: Path, first: str) -> Any:
    """A file that is one JSON document of several lines, or of one line that is no case; None where it is not one."""
    try:
        alone = json.loads(first) if first.endswith(("}", "]")) else None
        if isinstance(alone, dict) and not any(form.fits(alone) for form, _ in DOCUMENTS):
            return None
        if not first.startswith(("{", "[")):
            return None
        with open_text(path) as file:
            return json.load(file)
    except ValueError:
        return None


def _of_document(document: Any, path: Path) -> tuple[Any, Iterator[Placed]]:
    if isinstance(document, list):
        return _form(document[:LOOKED_AT], path), _numbered("row", document)
    for form, noun in DOCUMENTS:
        if isinstance(document, dict) and form.fits(document):
            try:
                return form, _numbered(noun, form.records(document))
            except DataError as error:
                raise DataError(f"{path}: {error}") from error
    raise DataError(f"{path} is of no form that is known here, which are {_known()}")


def _form(rows: list[Any], path: Any, table: bool = False) -> Any:
    """The form of JSONL by its first rows, None for an error log; of a table by its header."""
    found = [row for row in rows if isinstance(row, dict)]
    if found and flat.classified(found[0]):
        raise DataError(f"{path} is a classifier's log: its texts and labels are a task, load_task('labelled_texts')")
    form = next((form for form in LINES if any(form.fits(row) for row in found)), None)
    if table and form is not flat:
        raise DataError(
            f"{path}: columns {', '.join(map(str, found[0] if found else ())) or 'none'}: it needs one of "
            f"{', '.join(flat.PROMPT)}; one of {', '.join(flat.EXPECTED)}; and one of {', '.join(flat.OUTCOME)}. "
            f"Other forms: {_known()}"
        )
    return form


def _table(path: Path, delimiter: str) -> Iterator[tuple[str, Any]]:
    """The header as a row of Nones, then the rows of a csv or tsv file; a text where one cannot be read."""
    with open_text(path, newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        names = [name for name in reader.fieldnames or () if name]
        if len(set(names)) < len(names):
            raise DataError(f"{path} has a column twice ({', '.join(names)}): rename one of them, or remove it")
        yield "line 1", dict.fromkeys(names)
        line = reader.line_num + 1
        try:
            for row in reader:
                wide = row.pop(None, None)  # type: ignore[call-overload]  # where DictReader puts what has no column
                cells = {name: value for name, value in row.items() if value}
                yield f"line {line}", WIDE if wide else cells
                line = reader.line_num + 1
        except (csv.Error, *UNREADABLE) as error:
            yield f"line {line}", f"cannot be read from here on: {error}"


def _numbered(noun: str, records: list[Any]) -> Iterator[Placed]:
    return ((f"{noun} {number}", record) for number, record in enumerate(records, 1))


def _known() -> str:
    return "; ".join([f"{OWN}s in JSONL", *(form.NAME for form in (*LINES, *(form for form, _ in DOCUMENTS)))])
