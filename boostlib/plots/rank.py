"""Section "rank growth": one weight and its directions, ranks by round, what methods gained. Numbers: growth.py."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from boostlib.analysis.growth import spectra
from boostlib.analysis.recorded import Groups
from boostlib.analysis.tables import first_and_last, gains_table
from boostlib.plots.runs import plot_accuracy, plot_curves
from boostlib.plots.style import COLORS, GREY, by_number, canvas, line, need, panels, whole_numbers
from boostlib.rank import subspace_overlap
from boostlib.update import LowRankUpdate

# --- one weight


def plot_spectrum(S, rank: int, rounds: int, ax: Axes | None = None) -> Axes:
    """Singular values of one weight, coloured by the block of `rank` directions that a round of "rotate" takes."""
    ax, values = canvas(ax), np.asarray(need(S, "plot_spectrum got no singular values"), dtype=float)
    for t in range(rounds):
        span = np.arange(t * rank, min((t + 1) * rank, len(values)))
        ax.bar(span, values[span], width=0.85, color=COLORS[t % 2])
        if t % max(1, -(-rounds // 10)) == 0 and len(span):
            ax.text(span.mean(), values[span].max(), t, color=COLORS[t % 2], ha="center", va="bottom")
    rest = np.arange(rank * rounds, len(values))
    ax.bar(rest, values[rest], width=0.85, color=GREY)
    ax.set(xlabel="singular direction (numbers: its round)", ylabel="singular value")
    return ax


def plot_overlap(updates: Sequence[LowRankUpdate], ax: Axes | None = None) -> Axes:
    """Overlap of the row spaces of every two rounds, mean over weights: 0 orthogonal, 1 the same."""
    ax, n = canvas(ax), len(need(updates, "plot_overlap got no updates"))
    table = np.zeros((n, n))
    for i, j in np.ndindex(n, n):
        table[i, j] = np.mean([subspace_overlap(updates[i][name][1], updates[j][name][1]) for name in updates[i]])
    bar = {"label": "overlap", "ticks": [0, 0.5, 1], "shrink": 0.8}
    sns.heatmap(table, vmin=0, vmax=1, cmap="Blues", square=True, cbar_kws=bar, ax=ax)
    ax.set(xlabel="round", ylabel="round")
    ax.tick_params(axis="y", rotation=0)
    return ax


def plot_matrix(matrix, title: str = "", ax: Axes | None = None, limit: float | None = None) -> Axes:
    """A matrix as a heat map, blue below zero, red above. limit: the value of full colour, default the largest."""
    ax, matrix = canvas(ax), np.asarray(matrix, dtype=float)
    limit = limit or np.abs(matrix).max() or 1.0
    bar = {"shrink": 0.6, "ticks": MaxNLocator(3, symmetric=True)}
    sns.heatmap(
        matrix, vmin=-limit, vmax=limit, cmap="RdBu_r", square=True, cbar_kws=bar, ax=ax,
        xticklabels=False, yticklabels=False, rasterized=True,
    )  # fmt: skip
    ax.set_title(title)
    return ax


# --- by round


def plot_rank(curves: Mapping[str, Sequence], ax: Axes | None = None, ylabel: str = "rank of the update") -> Axes:
    """Rank of the cumulative update after 1, 2, ... rounds; curves: label -> ranks, or one list of ranks per seed."""
    ax = plot_curves(curves, ax=ax, ylabel=ylabel, start=1)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(whole_numbers())
    return ax


def plot_growth(tables: Mapping[str, pd.DataFrame], column, ax: Axes | None = None) -> Axes:
    """A rank by merged rounds: median over modules as a line and their range as a band.

    tables: label -> `growth_table`, drawn in its column `column` ("exact", an eps, "effective"). A table of one round
    (one adapter in one go) is a diamond with its range, and a dotted line to compare with.
    """
    ax, ends = canvas(ax), []
    for color, (label, table) in zip(COLORS, need(tables, "plot_growth got no tables").items(), strict=False):
        once = table.rounds.nunique() == 1
        look = {"err_style": "bars", "err_kws": {"capsize": 3}, "marker": "D", "ms": 4} if once else {}
        end = line(ax, table.rounds, table[column], color, estimator="median", **look)
        if once:
            ax.axhline(end, color=color, lw=0.8, ls=":")
        ends.append((label, end, color))
    names = {"exact": "exact rank", "effective": "effective rank"}
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(whole_numbers())
    return by_number(ax, "rounds", names.get(column, f"rank at eps = {column}"), ends)


def plot_eps(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """One run's median rank by merged rounds for every eps of its table: what the definition changes."""
    levels = {f"eps = {eps:g}": eps for eps in sorted(c for c in table if isinstance(c, float))}
    medians = table.drop(columns="module").groupby("rounds").median()
    columns = {"exact": "exact", **levels, "effective": "effective"}
    return plot_rank({label: medians[column].tolist() for label, column in columns.items()}, ax)


def plot_spectra(values: Mapping[str, np.ndarray], ax: Axes | None = None) -> Axes:
    """Singular values of updates, largest = 1: median over modules as a line, their range as a band.

    values: label -> `growth.spectra`, (modules, k). Zeros (below 1e-12) are not drawn: the axis is logarithmic.
    """
    ax, ends = canvas(ax), []
    ax.set_yscale("log")
    for color, (label, s) in zip(COLORS, need(values, "plot_spectra got no updates").items(), strict=False):
        module, place = (s > 1e-12).nonzero()
        ends.append((label, line(ax, place + 1, s[module, place], color, estimator="median"), color))
    return by_number(ax, "singular value, by size", "share of the largest", ends)


def plot_gains(groups: Groups, ax: Axes | None = None) -> Axes:
    """Gain in test accuracy over the untrained model: mean with a 95% interval, a dot a seed; one line a method."""
    ax, table = canvas(ax), gains_table(groups)
    for y, (color, (label, row)) in enumerate(zip(cycle(COLORS), table.iterrows(), strict=False)):
        before, after = first_and_last(groups[label], "test")
        each = after.mean(axis=1) - before.mean(axis=1)  # (seeds,)
        error = [[row.gain - row.low], [row.high - row.gain]]
        ax.errorbar(row.gain, -y, xerr=error, fmt="o", color=color, capsize=3)
        ax.plot(each, np.full(len(each), -y - 0.25), ".", color=color, ms=3)
    ax.axvline(0, color="black", lw=0.8, ls=":")
    ax.set(xlabel="gain in test accuracy", yticks=range(0, -len(table), -1), yticklabels=list(table.index))
    ax.spines.left.set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


# --- figures of notebook 04


def rank_growth(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Exact rank, two epsilon-ranks and the effective rank by round: median and range over weights."""
    fig, axes = panels(2, 2, 4.8)
    for ax, column in zip(axes.flat, ("exact", 1e-2, 1e-1, "effective"), strict=True):
        plot_growth(tables, column, ax)
    return fig


def spans(updates: Mapping[str, Sequence[LowRankUpdate]]) -> Figure:
    """Singular values of the summed update; overlap of every two rounds, a panel a method of several rounds."""
    several = {label: rounds for label, rounds in updates.items() if len(rounds) > 1}
    fig, axes = panels(1, 1 + len(several), 2.4, width=8.4)
    totals = {label: spectra(sum(rounds, start=LowRankUpdate())) for label, rounds in updates.items()}
    plot_spectra(totals, axes[0, 0])
    for ax, (label, rounds) in zip(axes[0, 1:], several.items(), strict=True):
        plot_overlap(rounds, ax).set_title(label)
    return fig


def ablation(groups: Groups) -> Figure:
    """Test accuracy against optimizer steps, and every method's gain with its 95% interval and its seeds."""
    fig, axes = panels(1, 2, 3.0, width=8.4)
    plot_accuracy(groups, against="steps", ax=axes[0, 0])
    plot_gains(groups, axes[0, 1])
    return fig


def fresh_svd(one_basis: pd.DataFrame, fresh: pd.DataFrame) -> Figure:
    """Exact rank by round with one basis (`growth_table`) and with a fresh SVD each round (`fresh_table`)."""
    tables = {"one basis": one_basis, "fresh SVD each round": fresh}
    return plot_growth(tables, "exact").figure
