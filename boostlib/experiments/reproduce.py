"""Run the notebooks headless through papermill and say what each showed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from boostlib.common.durable import output_folder
from boostlib.common.errors import BoostError

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    """One executed notebook."""

    name: str
    seconds: float
    error: str  # empty where it ran through
    shows: str  # text of the cell tagged `shows`
    path: Path


def reproduce(preset: str, only: Sequence[str] = (), out: str | Path | None = None) -> list[Outcome]:
    """Execute the notebooks whose names begin with an entry of `only` (default: all), in order.

    Executed copies go to `out` (default `out/<preset>`), figures to `out/figures`; the committed notebooks are not
    touched. Says beforehand how long each took when it last ran, and what each showed as soon as it has ended. A
    notebook that fails is reported and the next one runs.
    """
    sources = select(only)
    folder = output_folder(Path(out) if out is not None else ROOT / "out" / preset).resolve()
    print(plan(sources, folder, preset), flush=True)
    outcomes = []
    for source in sources:
        outcomes.append(_execute(source, folder, preset))
        print(summary(outcomes[-1:]), flush=True)
    return outcomes


def select(only: Sequence[str]) -> list[Path]:
    """The notebooks to run. Raises BoostError for an entry that matches none."""
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise BoostError(
            f"no notebooks under {ROOT / 'notebooks'}: run from a clone of the repository (pip install -e .)"
        )
    for entry in only:
        if not any(path.name.startswith(entry) for path in notebooks):
            raise BoostError(f"--only {entry}: no such notebook; there are {', '.join(p.stem for p in notebooks)}")
    return [path for path in notebooks if not only or path.name.startswith(tuple(only))]


def plan(sources: Sequence[Path], folder: Path, preset: str) -> str:
    """Minutes of every notebook's last run: of the copy in `folder`, else of the committed one; and their sum."""
    found = {source.stem: _minutes(folder / source.name, preset) or _minutes(source, preset) for source in sources}
    lines = [f"{name:<24} " + (f"{took:5.1f} min" if took else "   not timed yet") for name, took in found.items()]
    return "\n".join(["minutes when last run:", *lines, f"{'in all':<24} {sum(filter(None, found.values())):5.1f} min"])


def _minutes(path: Path, preset: str) -> float | None:
    """Of the run that wrote this copy, as papermill noted; None where there is none, or one that failed, was cut off
    or was of another preset."""
    try:
        noted = nbformat.read(path, as_version=4).metadata.get("papermill", {})
    except (OSError, ValueError):  # no file, or half of one
        return None
    same = noted.get("parameters", {}).get("preset", preset) == preset
    return noted["duration"] / 60 if same and noted.get("duration") and not noted.get("exception") else None


def _execute(source: Path, folder: Path, preset: str) -> Outcome:
    target, start, error = folder / source.name, time.perf_counter(), ""
    wanted = {"preset": preset, "figures_dir": str(folder / "figures")}
    known = papermill.inspect_notebook(str(source))
    parameters = {name: value for name, value in wanted.items() if name in known}
    print(f"{source.stem}:", flush=True)
    try:
        papermill.execute_notebook(
            str(source), str(target), parameters, kernel_name="python3", cwd=str(source.parent), start_timeout=600
        )
    except PapermillExecutionError as failure:
        error = f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
    except RuntimeError as failure:  # the kernel died, or never answered
        error = str(failure)
    return Outcome(source.stem, time.perf_counter() - start, error, _shows(target), target)


def _shows(path: Path) -> str:
    """Printed text of the cells tagged `shows`."""
    cells = nbformat.read(path, as_version=4).cells if path.exists() else []
    outputs = [o for c in cells if "shows" in c.metadata.get("tags", []) for o in c.get("outputs", [])]
    return "".join(o.get("text", "") for o in outputs if o.output_type == "stream" and o.name == "stdout").strip()


def summary(outcomes: Sequence[Outcome]) -> str:
    """A table of what each notebook showed."""
    lines = []
    for outcome in outcomes:
        state = "FAILED" if outcome.error else "ok"
        lines.append(f"{outcome.name:<24} {state:<7} {outcome.seconds / 60:5.1f} min   {outcome.path}")
        lines += [f"    {line}" for line in (outcome.error or outcome.shows).splitlines()]
    return "\n".join(lines)
