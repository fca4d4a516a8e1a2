"""The figures of notebooks 04 and 05, one function each: recorded runs in, a matplotlib Figure out.

`rebuild` draws all of them from the ledgers under data/runs; `python -m boostlib figures` calls it. Numbers come from
growth.py and dynamics.py, single panels from the plots modules, the look from plot_style.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from boostlib.analysis.dynamics import rounds_wrong
from boostlib.analysis.growth import growth_table, recorded_updates, spectra
from boostlib.analysis.recorded import LABELS, recorded_runs
from boostlib.analysis.tables import gains_table
from boostlib.common.errors import BoostError
from boostlib.models.language import load_model
from boostlib.plots import dynamics as plots_dynamics
from boostlib.plots import rank as plots_rank
from boostlib.plots import runs as plots
from boostlib.plots.figures_theory import bounds, fresh_svd, isolation, measured
from boostlib.plots.style import COLORS, canvas, save_figure, use_style
from boostlib.records.ledger import Ledger
from boostlib.update import LowRankUpdate

Groups = Mapping[str, Sequence[Ledger]]  # label -> one ledger a seed
Runs = Mapping[str, Ledger]  # label -> the run that is shown


def flows(runs: Runs) -> Figure:
    """Who flowed between right and wrong, and the failures by their past: a column a run."""
    fig, axes = _grid(2, len(runs), 5.2, sharey="row")
    for column, (label, ledger) in enumerate(runs.items()):
        plots_dynamics.plot_flows(ledger, axes[0, column]).set_title(label)
        plots_dynamics.plot_states(ledger, axes[1, column])
    return fig


def problem_histories(runs: Runs) -> Figure:
    """One line a problem, dark where it is wrong: a panel a run."""
    fig, axes = _grid(1, len(runs), 3.4)
    for ax, (label, ledger) in zip(axes.flat, runs.items(), strict=True):
        plots_dynamics.plot_histories(ledger, ax).set_title(label)
    return fig


def waiting(groups: Groups, runs: Runs) -> Figure:
    """How long problems wait until they are first right, and after how many rounds they were wrong."""
    fig, axes = _grid(1, 2, 2.6)
    plots_dynamics.plot_waiting(groups, axes[0, 0])
    counts = {label: rounds_wrong(ledger).value_counts() for label, ledger in runs.items()}
    longest = max(int(count.index.max()) for count in counts.values())
    series = {label: count.reindex(range(1, longest + 1), fill_value=0).tolist() for label, count in counts.items()}
    plots.plot_curves(series, axes[0, 1], ylabel="problems", xlabel="states in which a problem was wrong", start=1)
    return fig


def costs(groups: Groups, run: Ledger) -> Figure:
    """Rewards and seconds of one run, norms of its updates, and the length of v by round for all."""
    fig, axes = _grid(2, 2, 5.0)
    plots.plot_rewards(run, axes[0, 0])
    plots.plot_norms(run, axes[0, 1])
    plots.plot_curves(lengths(groups), axes[1, 0], ylabel="length of $v$", xlabel="round").set_ylim(bottom=0)
    plots_dynamics.plot_seconds(run, axes[1, 1])
    return fig


def lengths(groups: Groups) -> dict[str, list[list[float]]]:
    """|v| of every round as trained: label -> one list a seed."""
    return {
        label: [[float(run.load_v(row.index)[0].norm()) for row in run.rounds] for run in runs]
        for label, runs in groups.items()
    }


def going_on(groups: Groups) -> Figure:
    """Held-out accuracy by rounds with 95% intervals."""
    fig, axes = _grid(1, 1, 2.8, width=4.8)
    plots_dynamics.plot_going_on(groups, ax=axes[0, 0])
    return fig


def rank_growth(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Exact rank, two epsilon-ranks and the effective rank by round: median and range over weights."""
    fig, axes = _grid(2, 2, 4.8)
    for ax, column in zip(axes.flat, ("exact", 1e-2, 1e-1, "effective"), strict=True):
        plots_rank.plot_growth(tables, column, ax)
    return fig


def spans(updates: Mapping[str, Sequence[LowRankUpdate]]) -> Figure:
    """Singular values of the summed update; overlap of every two rounds, a panel a method of several rounds."""
    several = {label: rounds for label, rounds in updates.items() if len(rounds) > 1}
    fig, axes = _grid(1, 1 + len(several), 2.4, width=8.4)
    totals = {label: spectra(sum(rounds, start=LowRankUpdate())) for label, rounds in updates.items()}
    plots_rank.plot_spectra(totals, axes[0, 0])
    for ax, (label, rounds) in zip(axes[0, 1:], several.items(), strict=True):
        plots.plot_overlap(rounds, ax).set_title(label)
    return fig


def ablation(groups: Groups) -> Figure:
    """Test accuracy against optimizer steps, and every method's gain with its 95% interval and its seeds."""
    fig, axes = _grid(1, 2, 3.0, width=8.4)
    plots.plot_accuracy(groups, against="steps", ax=axes[0, 0])
    plot_gains(groups, axes[0, 1])
    return fig


def plot_gains(groups: Groups, ax=None):
    """Gain in test accuracy over the untrained model: mean with a 95% interval, a dot a seed; one line a method."""
    ax, table = canvas(ax), gains_table(groups)
    for y, (label, row) in enumerate(table.iterrows()):
        runs = groups[label]
        each = [run.rounds[-1].metrics["test"].accuracy - run.base.metrics["test"].accuracy for run in runs]
        error = [[row.gain - row.low], [row.high - row.gain]]
        ax.errorbar(row.gain, -y, xerr=error, fmt="o", color=COLORS[y % len(COLORS)], capsize=3)
        ax.plot(each, np.full(len(each), -y - 0.25), ".", color=COLORS[y % len(COLORS)], ms=3)
    ax.axvline(0, color="black", lw=0.8, ls=":")
    ax.set(xlabel="gain in test accuracy", yticks=range(0, -len(table), -1), yticklabels=list(table.index))
    ax.spines.left.set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def recorded_groups(data: str | Path, name: str = "growth") -> dict[str, list[Ledger]]:
    """Runs `math-<name>-*` by label, and the monolithic ones at a learning rate of their own (`math-smallstep-*`)."""
    gentle = recorded_runs(data, "math", "smallstep").items()
    return {**recorded_runs(data, "math", name), **{f"{label}, lr 0.003": runs for label, runs in gentle}}


def shown_runs(groups: Groups, seed: int) -> dict[str, Ledger]:
    """One run each of the first two methods that have several rounds: those that are shown problem by problem."""
    several = [label for label, runs in groups.items() if len(runs[0].rounds) > 1]
    return {f"{label}, seed {seed}": of_seed(groups[label], seed) for label in several[:2]}


def rebuild(
    folder: str | Path, data: str | Path, name: str = "growth", seed: int = 0, model: nn.Module | None = None
) -> list[Path]:
    """Draw every figure of notebooks 04 and 05 that shows recorded runs: `math-<name>-*` of the folder `data`, and the
    measurements beside it in `theory`, which are about the rotating run of seed 0. Returns the files written."""
    use_style()
    groups = recorded_groups(data, name)
    missing = [method for method in ("rotate", "top", "monolithic") if LABELS[method] not in groups]
    if missing:
        raise BoostError(
            f"{data} has no runs math-{name}-{missing[0]}-seed*: give the folder that holds them (data/runs)"
        )
    rounds = {label: runs for label, runs in groups.items() if len(runs[0].rounds) > 1}
    shown = shown_runs(groups, seed)
    model = load_model("smollm2", dtype="fp32")[0] if model is None else model
    grown = {short: of_seed(groups[LABELS[short]], seed) for short in ("rotate", "top", "monolithic")}
    updates = {label: recorded_updates(run, model) for label, run in grown.items()}
    tables = {label: growth_table(found) for label, found in updates.items()}
    made = {
        "05_flows": flows(shown),
        "05_histories": problem_histories(shown),
        "05_waiting": waiting(rounds, shown),
        "05_costs": costs(rounds, grown["rotate"]),
        "05_going_on": going_on(rounds),
        "04_rank_growth": rank_growth(tables),
        "04_spans": spans(updates),
        "04_eps": plots_rank.plot_eps(tables["rotate"]).figure,
        "04_ablation": ablation(groups),
        **_theory(Path(data).parent / "theory", f"math-{name}-rotate-seed0", groups, tables["rotate"]),
    }
    return [path for title, fig in made.items() for path in save_figure(fig, title, folder)]


def _theory(folder: Path, run: str, groups: Groups, table: pd.DataFrame) -> dict[str, Figure]:
    """What data/theory holds about `run`; nothing where it holds nothing."""
    if not (folder / f"{run}-noise.csv").exists():
        return {}
    noise, fresh, moves = (measured(folder, run, what) for what in ("noise", "fresh-svd", "isolation-round0"))
    return {
        "04_fresh_svd": fresh_svd(table, fresh),
        "04_bounds": bounds(of_seed(groups[LABELS["rotate"]], 0), noise),
        "05_isolation": isolation(moves),
    }


def of_seed(ledgers: Sequence[Ledger], seed: int) -> Ledger:
    """The run with that seed. Raises BoostError, naming the seeds there are, where it is missing."""
    runs = {run.header["identity"]["seed"]: run for run in ledgers}
    if seed not in runs:
        raise BoostError(f"no run of seed {seed}; there are {', '.join(map(str, sorted(runs))) or 'none'}")
    return runs[seed]


def _grid(rows: int, columns: int, height: float, width: float = 7.2, **sharing):
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **sharing)
