"""One page about a run that needs no other file and no explanation: for who decides, not for who trained.

What happened in plain words, the gain by split and by error class, the rounds, pictures, and where it all comes from.
Everything is inside the file: pictures are inline SVG, there is no script, and a Content-Security-Policy forbids the
page to fetch anything. Text from the run and the task is escaped. Wide tables scroll in a box of their own, so the page
can be read on a telephone.
"""

import io
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from string import Template

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from boostlib.analysis.tables import gains_table, provenance, rounds_table
from boostlib.common.durable import write_durably
from boostlib.common.errors import BoostError, RunError
from boostlib.common.settings import File, checks, valid
from boostlib.plots.runs import plot_accuracy, plot_failures
from boostlib.plots.style import use_style
from boostlib.records.ledger import Ledger
from boostlib.release.card import licence_note
from boostlib.release.classes import class_report, plot_classes
from boostlib.tasks.base import Task

PAGE = Template(Path(__file__).with_name("page.html").read_text())
PLAIN_SVG = {"Date": None, "Creator": None, "Format": None, "Type": None}  # else it names addresses


@checks
def write_html(ledger: Ledger, task: Task | None, path: File) -> Path:
    """Write the page; returns its path. task: the run's, for the section about error classes; None leaves it out.

    An existing page is replaced, whole or not at all. Raises BoostError where no round has finished yet.
    """
    if valid("write_html(ledger=", ledger, Ledger).base is None or not ledger.rounds:
        raise BoostError(f"{ledger.dir} holds no finished round yet: run it first")
    classes = class_report(ledger, task) if task is not None else None
    identity, columns = ledger.header["identity"], {"base": "before", "boosted": "after"}
    gains = _held_out_gains(ledger)[[*columns, "gain", "low", "high"]].rename(columns=columns)
    with plt.rc_context():
        use_style()
        figures = _figures(ledger, classes)
    text = PAGE.substitute(
        title=escape(f"{identity['task']['name']}: {ledger.dir.name}"),
        model=escape(identity["model"]["name"]),
        summary="".join(f"<p>{escape(line)}</p>" for line in summary(ledger, classes)),
        gains=_table(gains.rename_axis("cases")),
        classes=_class_section(classes),
        rounds=_table(_rounds(ledger)),
        figures=figures,
        provenance=_provenance(ledger),
    )
    if not Path(path).parent.is_dir():
        raise RunError(f"there is no folder {Path(path).parent} to write {Path(path).name} into: make it first")
    write_durably(Path(path), text.encode())
    return Path(path)


def summary(ledger: Ledger, classes: pd.DataFrame | None = None) -> list[str]:
    """What happened, in sentences without a term of the trade; the verdict on new cases follows the interval."""
    base, rounds = ledger.base, ledger.rounds
    left, before = set(ledger.failures_after(len(rounds))), set(base.failures)
    merged = sum(row.merged for row in rounds)
    numbers = sum(row.num_parameters for row in rounds if row.merged)
    lines = [
        f"Before the repair the model got {len(before)} of its training cases wrong, now {len(left)}: "
        f"{len(before - left)} were fixed, {len(left - before)} that used to work are broken.",
        f"The repair took {len(rounds)} rounds, of which {merged} were kept; they change the model by {numbers} "
        "trained numbers and cost nothing when it is used.",
    ]
    lines += [_verdict(split, row) for split, row in _held_out_gains(ledger).iterrows()]
    if classes is not None:
        total = classes.query("split != 'train' and `class` != '(all)'")
        if len(total):
            before, after = (total[f"cost {when}"].sum() for when in ("before", "after"))
            lines.append(
                f"On the cases it was not trained on, failures cost {before:,.6g} before and cost {after:,.6g} now."
            )
    return lines


def _verdict(split: str, row: pd.Series) -> str:
    if row["low"] > 0:
        meaning = "an improvement beyond chance"
    elif row["high"] < 0:
        meaning = "a loss beyond chance: do not release it without a reason"
    else:
        meaning = "which may be chance: the range includes no change"
    return (
        f"On cases it was not trained on ({split}), {row['base']:.1%} were right before and {row['boosted']:.1%} are "
        f"now: {100 * row['gain']:+.1f} points, with 95% confidence between {100 * row['low']:+.1f} and "
        f"{100 * row['high']:+.1f}, {meaning}."
    )


def _held_out_gains(ledger: Ledger) -> pd.DataFrame:
    """The run's row of `gains_table` for each held-out split."""
    return pd.DataFrame({split: gains_table({"run": [ledger]}, split).loc["run"] for split in ledger.base.metrics}).T


def _rounds(ledger: Ledger) -> pd.DataFrame:
    table, counts = rounds_table(ledger), ["failures", "fixed", "broken"]
    table[counts] = table[counts].astype("Int64")  # the untrained model has none
    return table[[column for column in (*counts, "train", *ledger.base.metrics) if column in table]]


def _class_section(classes: pd.DataFrame | None) -> str:
    if classes is None:
        return "<p>The task was not given, so failures are not split by class here.</p>"
    gains = [_interval(3, *row) for row in classes[["gain", "low", "high"]].to_numpy()]
    saved = [_interval(1, *row) for row in classes[["cost saved", "saved low", "saved high"]].to_numpy()]
    table = classes[["n", "before", "after", "fixed", "broken"]]
    return _table(table.assign(**{"gain (95% interval)": gains, "cost saved (95% interval)": saved}))


def _figures(ledger: Ledger, classes: pd.DataFrame | None) -> str:
    split = next(iter(ledger.base.metrics), None)
    drawn = [_figure("What became of the failures of each round", lambda: plot_failures(ledger))]
    if split:
        drawn.append(_figure(f"Share right on {split}, round by round", lambda: plot_accuracy({"": [ledger]}, split)))
    if classes is not None:
        drawn.append(_figure("Before and after, by class of error", lambda: plot_classes(classes, split)))
    return "".join(drawn)


def _figure(caption: str, draw: Callable[[], Axes]) -> str:
    figure, file = draw().figure, io.StringIO()
    figure.savefig(file, format="svg", metadata=PLAIN_SVG)
    plt.close(figure)
    svg = re.sub(r"^.*?<svg ", "<svg ", file.getvalue(), flags=re.DOTALL)  # without XML's prolog
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    label = escape(caption)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>{svg}<figcaption>{label}</figcaption></figure>"


def _provenance(ledger: Ledger) -> str:
    model, where = ledger.header["identity"]["model"], ledger.header["environment"]
    facts = {
        "Run": ledger.dir.name,
        "Where and when": provenance([ledger]),
        "Base model": f"{model['name']} ({model['dtype']}), fingerprint {model['fingerprint']}",
        "Licence": licence_note(model["name"]),
        "Weights now": ledger.rounds[-1].weights_fingerprint,
        "Versions": ", ".join(f"{key} {value}" for key, value in where.items() if key not in ("date", "device")),
        "Check it": f"python -m boostlib verify {ledger.dir.name} --weights",
        "Go back": f"python -m boostlib replay {ledger.dir.name} --round K",
    }
    return "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items()) + "</dl>"


def _table(table: pd.DataFrame) -> str:
    """A table in a box that scrolls. Its index, which may have several levels, stands left."""
    cells = table.astype(object).where(table.notna(), "").map(_text).rename_axis(columns=None).reset_index()
    with pd.option_context("display.max_colwidth", None):
        text = cells.to_html(index=False, border=0, justify="unset", classes=f"by{table.index.nlevels}")
    return f'<div class="box" tabindex="0">{text}</div>'


def _text(value) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if isinstance(value, str) else text.replace("-", "\N{MINUS SIGN}")


def _interval(digits: int, gain: float, low: float, high: float) -> str:
    return f"{gain:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})".replace("-", "\N{MINUS SIGN}")
