"""Small tables of measurements as CSV files that say where and when they were made, for notebooks to read."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pandas as pd
import torch

from boostlib.common.errors import BoostError
from boostlib.config import environment


def save_measured(
    table: pd.DataFrame, path: str | Path, device: torch.device, run: str, seed: int, keys: Sequence[str]
) -> Path:
    """Write `table` with the columns run, seed, device, date and torch in every row; `pandas.read_csv` reads it.

    Six significant digits. Rows that are there already are kept, in front. keys: the columns that, with run and seed,
    tell one measurement from another, as ("sigma", "draw").

    Raises BoostError, and writes nothing, where the file has other columns, or where two rows, of the file or new,
    agree as written in run, seed and all of `keys`: no measurement is made twice and kept twice.
    """
    path, where = Path(path), environment(device)
    rows = table.assign(run=run, seed=seed, **{key: where[key] for key in ("device", "date", "torch")})
    text = rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    new, fresh = _as_written(StringIO(text)), not path.exists()
    old = new[:0] if fresh else _as_written(path)
    _require_same_columns(path, list(old), list(new))
    _require_new_rows(path, pd.concat([old, new]), ["run", "seed", *keys])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        file.write(text if fresh else text.split("\n", 1)[1])
    return path


def _as_written(source) -> pd.DataFrame:
    return pd.read_csv(source, dtype=str, keep_default_na=False)


def _require_same_columns(path: Path, old: list[str], new: list[str]) -> None:
    if old != new:
        lacks, besides = [c for c in new if c not in old], [c for c in old if c not in new]
        found = f"lacks {lacks} and has {besides} besides" if lacks or besides else f"has them in the order {old}"
        raise BoostError(f"{path} has other columns than these rows: it {found}. Write to another file")


def _require_new_rows(path: Path, rows: pd.DataFrame, keys: list[str]) -> None:
    twice = rows[rows.duplicated(keys)]
    if len(twice):
        first = ", ".join(f"{key}={twice.iloc[0][key]}" for key in keys)
        raise BoostError(f"{path} would hold {first} twice: write to another file, or leave that row out")
