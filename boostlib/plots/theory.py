"""Pictures of what theory promises beside what was measured. Style: plot_style.py; numbers: theory.py, isolation.py."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from boostlib.plots.style import BROKEN, COLORS, FIXED, GREY, canvas, label_right, need, whole_numbers

SIDES = (("correct", True, FIXED), ("failing", False, BROKEN))


def plot_bounds(table: pd.DataFrame, ax: Axes | None = None, bits: float = 32) -> Axes:
    """The gap by rounds, measured with its interval as a band, under the bounds of `theory.gap_table`.

    "measured, without noise" is the run as it was, which the Occam bound is about; PAC-Bayes bounds the mean gap of the
    run with noise on its numbers, which this picture does not show. In the grey area the Occam bound says nothing: no
    gap is larger than the training accuracy. That accuracy is the run's without noise too, so the area says nothing
    about the PAC-Bayes lines. bits: as given to `gap_table`.
    """
    ax, x, ends = canvas(ax), need(table, "plot_bounds got no rounds").rounds, []
    sigmas = sorted((column for column in table if isinstance(column, float)), reverse=True)
    names = {sigma: f"PAC-Bayes,\nσ = {sigma:g}" for sigma in sigmas} | {"occam": f"Occam,\n{bits:g} bits"}
    ax.fill_between(x, table.train, 1, color=GREY, alpha=0.5, lw=0)
    for color, (column, name) in zip(COLORS[1:], names.items(), strict=False):
        ax.plot(x, np.minimum(table[column], 1), color=color)
        ends.append((name, min(table[column].iloc[-1], 1), color))
    ax.fill_between(x, table.low, table.high, color=COLORS[0], alpha=0.2, lw=0)
    ax.plot(x, table.gap, "o-", color=COLORS[0], ms=3)
    ends.append(("measured,\nwithout noise", table.gap.iloc[-1], COLORS[0]))
    ax.axhline(0, color="black", lw=0.8)
    ax.set(xlabel="rounds", ylabel="train minus true accuracy", ylim=(min(-0.1, table.low.min()), 1))
    ax.text(x.mean(), (1 + table.train.max()) / 2, "says nothing", ha="center", va="center", color="#606060")
    ax.xaxis.set_major_locator(whole_numbers())
    label_right(ax, ends)
    return ax


def plot_movement(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Measured against predicted movement of the margins of `isolation`, one point an example, and the identity."""
    ax = canvas(ax)
    reach = 1.08 * table[["predicted", "measured"]].abs().to_numpy().max()
    ax.plot([-reach, reach], [-reach, reach], color="black", lw=0.8)
    for name, side, color in SIDES:
        chosen = table[table.correct == side]
        ax.plot(chosen.predicted, chosen.measured, "o", ms=3.5, color=color, alpha=0.8, label=name)
    for place in (ax.axhline, ax.axvline):
        place(0, color=GREY, lw=0.8, zorder=0)
    ax.set(xlabel="predicted to first order (logits)", ylabel="measured (logits)", xlim=(-reach, reach))
    ax.set_ylim(-reach, reach)
    ends = [(name, table[table.correct == side].measured.median(), color) for name, side, color in SIDES]
    label_right(ax, [*ends, ("as predicted", reach, "black")])
    return ax


def plot_bound_ratio(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Measured movement as a share of the two first-order bounds of `isolation`, a point an example, medians as bars.

    Above 1 (dotted) terms of second order have carried a margin beyond the bound.
    """
    ax, bounds = canvas(ax), {r"$|\nabla_v z|\;|v|$": "bound_v", r"$|\nabla_W z|\;|\Delta W|$": "bound_w"}
    for group, column in enumerate(bounds.values()):
        for offset, (_, side, color) in zip((-0.17, 0.17), SIDES, strict=True):
            chosen = table[table.correct == side]
            ratio = (chosen.measured.abs() / chosen[column]).to_numpy()
            spread = np.linspace(-0.1, 0.1, len(ratio)) if len(ratio) > 1 else [0.0]
            ax.plot(group + offset + np.asarray(spread), ratio, "o", ms=3, color=color, alpha=0.7)
            ax.plot([group + offset - 0.13, group + offset + 0.13], [np.median(ratio)] * 2, color=color, lw=2)
    ax.axhline(1, color="black", lw=0.8, ls=":")
    ax.set(yscale="log", ylabel="|movement| / bound", xticks=[0, 1], xticklabels=list(bounds), xlim=(-0.5, 1.5))
    for height, (name, _, color) in zip((0.85, 0.75), SIDES, strict=True):
        ax.text(0.98, height, name, color=color, transform=ax.transAxes, ha="right", va="top")
    return ax
