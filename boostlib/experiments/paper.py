"""The paper's tables beside ours: what it reports, what recorded runs give, and why the two differ.

`data/paper/figures.csv` holds what the paper reports. `data/paper/beside.csv` says for each of its figures which of our
runs stand beside it (the first of several names that has runs), what of them is shown, and a reason. How the runs of a
name are made is in `data/runs/recipes.csv`; the command that makes missing ones comes from there, so that what is
looked for and what would be run are the same.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from boostlib.analysis.cited import Cited, ledgers
from boostlib.common.errors import BoostError

DATA = Path(__file__).resolve().parents[2] / "data"
NAME = re.compile(r"([a-z]+)-(\w+)-([a-z]+)(\d*)")  # section, variant, method, size
KEY = ["table", "method", "parameters", "measure"]
# what a word of the column "ours" shows, and its interval; S is what follows the word: a held-out split or a metric
SHOWN = {
    "base": ("{* base S:.1p}", ""),
    "end": ("{* end S:.1p}", "gain {* gain S:+.1p} ({* low S:+.1p} to {* high S:+.1p})"),
    "first": ("{* first S:.1p}", ""),
    "last": ("{* last S:.1p}", "{* last low S:.1p} to {* last high S:.1p}"),
}


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


class Paper:
    """The paper's figures, and the runs of `data/runs` beside them; every run is read once."""

    def __init__(self, data: str | Path = DATA):
        self.data = Path(data)
        self.cited = Cited(self.data / "runs")

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Every figure with what stands beside it. Raises BoostError for a figure without, or the other way round."""
        figures, beside = (_read(self.data / "paper" / name) for name in ("figures.csv", "beside.csv"))
        rows = figures.merge(beside, on=KEY, how="outer", sort=False, validate="1:1", indicator=True)
        alone = rows[rows["_merge"] != "both"]
        if len(alone):
            raise BoostError(f"figures.csv and beside.csv do not fit: {alone.iloc[0][KEY].to_list()} is in one alone")
        return figures.merge(beside, on=KEY)

    @cached_property
    def recipes(self) -> dict[str, str]:
        """Options of `boostlib boost` by name of runs, or by the part of it before the method."""
        return dict(_read(self.data / "runs" / "recipes.csv").itertuples(index=False))

    def table(self, name: str, measures: Sequence[str] = ()) -> pd.DataFrame:
        """One table of the paper beside ours, whole or some of its measures; one row a figure.

        Columns: measure, paper, ours, seeds (how many), 95% interval, rounds x steps, run, why they differ.
        """
        rows = self.rows[self.rows["table"] == name]
        if rows.empty or not set(measures) <= set(rows["measure"]):
            known = ", ".join(
                f"{table} ({', '.join(m.unique())})" for table, m in self.rows.groupby("table")["measure"]
            )
            raise BoostError(f"the paper has no table {name!r} with measures {list(measures)}; it has {known}")
        rows = rows[rows["measure"].isin(measures)] if measures else rows
        return pd.DataFrame([self._beside(row) for _, row in rows.iterrows()]).set_index("row")

    def readme(self) -> pd.DataFrame:
        """The rows that have a place and a label in the column "readme"; the number of seeds where it is not three."""
        rows = self.rows[self.rows["readme"] != ""]
        places = rows["readme"].str.extract(r"(?P<place>\d+)\. (?P<label>.*)")
        rows = rows.assign(label=places["label"]).iloc[places["place"].astype(int).argsort()]
        found = pd.DataFrame([self._beside(row) | {"": row["label"]} for _, row in rows.iterrows()]).set_index("")
        few = found["seeds"].map(lambda seeds: f" ({seeds})" if seeds not in ("", 3) else "")
        return found.assign(here=found["ours"] + few)[
            ["paper", "here", "95% interval", "rounds x steps", "why they differ"]
        ]

    def missing(self) -> pd.DataFrame:
        """Runs that have a recipe, a name and no ledger yet, and the command for their first seed."""
        named = {name: None for runs in self.rows["runs"] for name in runs.split()} | {
            name: None for name in self.recipes if NAME.fullmatch(name)
        }
        absent = {name: self.command(name) for name in named if not ledgers(self.cited.folder, name)}
        rows = [(f"`{name}`", f"`{command}`") for name, command in absent.items() if command]
        return pd.DataFrame(rows, columns=["runs", "command of seed 0"]).set_index("runs")

    def command(self, name: str, seed: int = 0) -> str | None:
        """What runs `name` anew; None where no recipe says."""
        match = NAME.fullmatch(name)
        if match is None:
            raise BoostError(f"runs {name!r} are not named <section>-<variant>-<method><size>")
        section, variant, method, size = match.groups()
        options = self.recipes.get(name, self.recipes.get(f"{section}-{variant}"))
        if options is None:
            return None
        words = ["boostlib boost", "" if section == "math" else f"--section {section}", f"--method {method}"]
        words += [f"--numbers {size}" if size and "--u " not in options else "", options]
        return " ".join(filter(None, [*words, f"--seed {seed}", f"--run-dir data/runs/{name}-seed{seed}"]))

    def _beside(self, row: pd.Series) -> dict:
        names = row["runs"].split()
        taken = next((name for name in names if ledgers(self.cited.folder, name)), "")
        if names and not taken:
            commands = [command for command in map(self.command, names) if command]
            if not commands:
                raise BoostError(f"{names} have no runs and no recipe in data/runs/recipes.csv: add one")
            ours, interval = f"not run: `{commands[0]}`", ""
        else:
            ours, interval = (self.cited.fill(text, taken) for text in _shown(row["ours"]))
        return {
            "row": row["method"] + _size(row["parameters"]),
            "measure": row["measure"],
            "paper": row["value"],
            "ours": ours,
            "seeds": self.cited.number(f"{taken} seeds") if taken else "",
            "95% interval": interval,
            "rounds x steps": self.cited.fill("{* rounds} x {* steps}", taken) if taken else "",
            "run": f"`{taken}`" if taken else "",
            "why they differ": row["why"],
        }


def _size(parameters: str) -> str:
    if parameters in ("", "0"):
        return ""
    return f", {int(parameters):,} numbers" if parameters.isdigit() else f", {parameters}"


def _shown(ours: str) -> tuple[str, str]:
    word, _, rest = ours.partition(" ")
    value, interval = SHOWN.get(word, (ours, ""))
    return value.replace("S", rest or "test"), interval.replace("S", rest or "test")


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, its index first."""
    lines = [[table.index.name or "", *map(str, table.columns)], ["---"] * (len(table.columns) + 1)]
    lines += [[str(cell) for cell in row] for row in table.itertuples()]
    return "\n".join(f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in line)}|" for line in lines)
