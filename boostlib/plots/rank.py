"""Pictures of what an update spans: rank by round, singular values. Style: plot_style.py; numbers: growth.py."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from boostlib.analysis.growth import spread
from boostlib.plots.style import COLORS, canvas, label_right, need, whole_numbers


def plot_growth(
    tables: Mapping[str, pd.DataFrame], column, ax: Axes | None = None, ylabel: str = "", ranges: bool = True
) -> Axes:
    """A rank by merged rounds: median over modules as a line and, where `ranges`, their range as a band.

    tables: label -> `growth_table`, drawn in its column `column` ("exact", an eps, "effective"). A table of one round
    (one adapter in one go) is a diamond with its range, and a dotted line to compare with.
    """
    ax, ends = canvas(ax), []
    for color, (label, table) in zip(COLORS, need(tables, "plot_growth got no tables").items(), strict=False):
        band = spread(table, column)
        if len(band) == 1:
            low, middle, high = band.iloc[0]
            ax.errorbar([1], [middle], [[middle - low], [high - middle]], fmt="D", ms=4, color=color, capsize=3)
            ax.axhline(middle, color=color, lw=0.8, ls=":")
        else:
            ax.plot(band.index, band["median"], color=color, marker="o" if len(band) <= 12 else None, ms=3)
            if ranges:
                ax.fill_between(band.index, band.low, band.high, color=color, alpha=0.15, lw=0)
        ends.append((label, float(band["median"].iloc[-1]), color))
    ax.set(xlabel="rounds", ylabel=ylabel or _name(column))
    ax.set_ylim(bottom=0)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(whole_numbers())
    label_right(ax, ends)
    return ax


def plot_eps(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """One run's median rank by merged rounds for every eps of its table: what the definition changes."""
    levels = {f"eps = {eps:g}": eps for eps in sorted(c for c in table if isinstance(c, float))}
    columns = {"exact": "exact", **levels, "effective": "effective"}
    tables = {label: table.assign(shown=table[column]) for label, column in columns.items()}
    return plot_growth(tables, "shown", ax, "rank of the update", ranges=False)


def plot_spectra(values: Mapping[str, np.ndarray], ax: Axes | None = None) -> Axes:
    """Singular values of updates, largest = 1: median over modules as a line, their range as a band.

    values: label -> `growth.spectra`, (modules, k). Zeros (below 1e-12) are not drawn: the axis is logarithmic.
    """
    ax, ends = canvas(ax), []
    for color, (label, s) in zip(COLORS, need(values, "plot_spectra got no updates").items(), strict=False):
        shown = np.where(s > 1e-12, s, np.nan)[:, (s > 1e-12).any(axis=0)]  # (modules, rank)
        x, middle = np.arange(1, shown.shape[1] + 1), np.nanmedian(shown, axis=0)
        ax.plot(x, middle, ".-", color=color, ms=4)
        ax.fill_between(x, np.nanmin(shown, axis=0), np.nanmax(shown, axis=0), color=color, alpha=0.15, lw=0)
        ends.append((label, float(np.log10(middle[np.isfinite(middle)][-1])), color))
    ax.set(xlabel="singular value, by size", ylabel="share of the largest", yscale="log")
    ax.xaxis.set_major_locator(whole_numbers())
    _label_log(ax, ends)
    return ax


def _label_log(ax: Axes, ends) -> None:
    """`label_right` for a logarithmic axis: heights in decades on an invisible linear twin."""
    twin = ax.twinx()
    twin.set_ylim(*np.log10(ax.get_ylim()))
    twin.set_axis_off()
    label_right(twin, ends)


def _name(column) -> str:
    return {"exact": "exact rank", "effective": "effective rank"}.get(column, f"rank at eps = {column}")
