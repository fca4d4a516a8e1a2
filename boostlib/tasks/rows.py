"""Finding and reading data sets: a folder of jsonl or csv files, or the hub.

Order: the folder given as `data_dir`, else the folder that the environment variable BOOSTLIB_DATA names, as
`FOLDER/gsm8k/train.jsonl`; where it has no such file, the hub through `datasets.load_dataset`.
A line of `gsm8k/train.jsonl`, shortened:

    {"question": "Natalia sold clips to 48 of her friends in April, and ...", "answer": "Natalia sold ...\\n#### 72"}

Every row is checked as it is read: a training run must not find out after an hour that a field was missing.
"""

import csv
import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boostlib.common.errors import DataError

Row = dict[str, Any]
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error, ValueError)  # ValueError: a name that holds a NUL


@dataclass(frozen=True)
class Source:
    """Where a split's rows are: `file` in a data folder, else `split` of `hub_id` on the hub, one part per config.

    hub_file: the one file of the hub's repository to read, where it holds several.
    """

    file: str
    hub_id: str
    split: str
    configs: tuple[str, ...] = ()
    hub_file: str | None = None


def load_rows(source: Source, fields: Sequence[str], data_dir: str | os.PathLike | None = None) -> list[Row]:
    """The rows of `source`, each with every one of `fields` as a non-empty text.

    Raises DataError: a `data_dir` or BOOSTLIB_DATA that is no folder, neither file nor hub, a malformed or empty file.
    """
    folder = data_folder(data_dir)
    if folder is not None and (folder / source.file).is_file():
        return read_file(folder / source.file, fields)
    rows = _from_hub(source, folder)
    for number, row in enumerate(rows, 1):
        _check_row(row, fields, f"{source.hub_id}, split '{source.split}', row {number}")
    return rows


def data_folder(data_dir: str | os.PathLike | None = None) -> Path | None:
    """`data_dir`, else what BOOSTLIB_DATA names, else None. Raises DataError where that is no folder."""
    origin = "BOOSTLIB_DATA" if data_dir is None else "data_dir"
    given = (os.environ.get("BOOSTLIB_DATA") or None) if data_dir is None else data_dir
    if given is not None and not (str(given) and Path(given).is_dir()):
        raise DataError(f"{origin} is '{given}', which is not a folder; name one that holds e.g. gsm8k/train.jsonl")
    return None if given is None else Path(given)


def read_file(path: str | os.PathLike, fields: Sequence[str] = ()) -> list[Row]:
    """The rows of a file by its ending, in any case and before `.gz` too: csv, tsv, else jsonl."""
    return (read_csv if _ending(Path(path)) in (".csv", ".tsv") else read_jsonl)(path, fields)


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def open_text(path: Path, newline: str | None = None):
    """A text file, unpacked where its name ends in `.gz`; a byte-order mark at its beginning is left out."""
    packed = path.name.lower().endswith(".gz")
    return (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig", newline=newline)


def read_csv(path: str | os.PathLike, fields: Sequence[str] = ()) -> list[Row]:
    """One row a line under a header, every value a text; columns are parted by commas, in a `.tsv` by tabs.

    Raises DataError naming the file: unreadable, empty, a column twice, more cells than columns, or without one of the
    columns `fields`, saying which it has.
    """
    path = Path(path)
    try:
        with open_text(path, newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if _ending(path) == ".tsv" else ",", strict=True)
            found, rows = [name for name in reader.fieldnames or () if name], list(reader)
    except (*UNREADABLE, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}; give a whole table, one row a line") from error
    twice = [name for name, times in Counter(found).items() if times > 1]
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} twice: rename one of them, or remove it")
    long = next((number for number, row in enumerate(rows, 1) if None in row), None)
    if long:
        raise DataError(f"{path}, row {long}: more cells than the {len(found)} columns; put text with commas in quotes")
    missing = [name for name in fields if name not in found]
    if missing:
        raise DataError(f"{path} has no column {', '.join(map(repr, missing))}; found: {', '.join(found) or 'none'}")
    if not rows:
        raise DataError(f"{path} is empty: it should hold rows under its header")
    return rows


def read_jsonl(path: str | os.PathLike, fields: Sequence[str] = ()) -> list[Row]:
    """One JSON object a line (blank lines are skipped), gunzipped when the name ends in `.gz`.

    Raises DataError naming the file, and the line where there is one: unreadable, empty, not JSON, not an object, or
    one of `fields` is missing or not a non-empty text.
    """
    rows = []
    for number, row in json_lines(Path(path)):
        if isinstance(row, str):
            raise DataError(f"{path}, line {number}: {row}")
        rows.append(_check_row(row, fields, f"{path}, line {number}"))
    if not rows:
        raise DataError(f"{path} is empty: it should hold one JSON object a line")
    return rows


def json_lines(path: Path) -> Iterator[tuple[int, Row | str]]:
    """(number, the JSON object, or else what is wrong with the line) of each line that is not blank.

    Raises DataError where the file cannot be read.
    """
    found = 0
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parse(line)
                    found += 1
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read after {found} rows: {error}") from error


def _parse(line: str) -> Row | str:
    try:
        row = json.loads(line.strip("\ufeff"), object_pairs_hook=_once)
        if "\\u" in line:  # without an escape there is no half of a character: the line was read as UTF-8
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at column {error.colno}: {line.strip()[:60]!r}"
    except RecursionError:
        return "objects inside objects, too deep to be read"
    except UnicodeEncodeError as error:
        return f"half a character ({error.object[error.start]!a}), which no text may hold: write it whole"
    except ValueError as error:  # a field that is there twice, or a number of thousands of digits
        return str(error)
    return row if isinstance(row, dict) else f"a JSON object is expected, not a {type(row).__name__}"


def _once(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object. Raises ValueError for a field that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"the field {twice!r} is there twice: leave one")
    return found


def _check_row(row: Row, fields: Sequence[str], where: str) -> Row:
    for name in fields:
        if name not in row:
            raise DataError(f"{where}: the field '{name}' is missing; fields found: {', '.join(row) or 'none'}")
        if not isinstance(row[name], str) or not row[name].strip():
            raise DataError(f"{where}: the field '{name}' should be a non-empty text, not {row[name]!r}")
    return row


def _from_hub(source: Source, folder: Path | None) -> list[Row]:
    try:
        from datasets import load_dataset  # a slow import, not needed for a folder

        file = {"data_files": source.hub_file} if source.hub_file else {}
        parts = [load_dataset(source.hub_id, c, split=source.split, **file) for c in source.configs or (None,)]
    except Exception as error:  # the hub client raises dozens of types: all mean that there is no such data here
        looked = f"'{folder / source.file}' does not exist" if folder else "BOOSTLIB_DATA is not set"
        raise DataError(
            f"no data for {source.file}: {looked}, and the hub gave no '{source.hub_id}' "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}). "
            f"Either set BOOSTLIB_DATA (or data_dir) to a folder that holds {source.file}, or allow network access to "
            f"huggingface.co (HF_HUB_OFFLINE unset, HF_ENDPOINT for a mirror)."
        ) from error
    return [dict(row) for part in parts for row in part]
