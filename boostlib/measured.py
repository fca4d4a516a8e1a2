"""Small tables of measurements as CSV files that say where and when they were made, for notebooks to read."""

from pathlib import Path

import pandas as pd
import torch

from boostlib.identity import environment


def save_measured(table: pd.DataFrame, path: str | Path, device: torch.device, run: str, seed: int) -> Path:
    """Write `table` with the columns run, seed, device, date and torch in every row; `pandas.read_csv` reads it.

    Six significant digits. Rows that are there already are kept, in front.
    """
    path, where = Path(path), environment(device)
    rows = table.assign(run=run, seed=seed, **{key: where[key] for key in ("device", "date", "torch")})
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    rows.to_csv(path, mode="w" if fresh else "a", header=fresh, index=False, float_format="%.6g")
    return path
