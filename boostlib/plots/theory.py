"""What theory promises beside what was measured: bounds on the gap, and isolation. Numbers: bounds.py, isolation.py."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from boostlib.analysis.bounds import BITS, certify, gap_table
from boostlib.plots.style import BROKEN, COLORS, FIXED, GREY, by_number, canvas, label_right, need, panels
from boostlib.records.ledger import Ledger

PAIRS = 2  # the demo deals its problems in pairs, 7 + 5 and 5 + 7: half as many are independent
SIDES = (("correct", True, FIXED), ("failing", False, BROKEN))


def plot_bounds(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The gap by rounds, measured with its interval as a band, under the bounds of `gap_table`.

    "measured, without noise" is the run as it was, which the Occam bound is about; PAC-Bayes bounds the mean gap of the
    run with noise on its numbers, which this picture does not show. In the grey area the Occam bound says nothing: no
    gap is larger than the training accuracy. That accuracy is the run's without noise too, so the area says nothing
    about the PAC-Bayes lines.
    """
    ax, x, ends = canvas(ax), need(table, "plot_bounds got no rounds").rounds, []
    sigmas = sorted((column for column in table if isinstance(column, float)), reverse=True)
    names = {sigma: f"PAC-Bayes,\nσ = {sigma:g}" for sigma in sigmas} | {"occam": f"Occam,\n{BITS} bits"}
    ax.fill_between(x, table.train, 1, color=GREY, alpha=0.5, lw=0)
    for color, (column, name) in zip(COLORS[1:], names.items(), strict=False):
        ax.plot(x, np.minimum(table[column], 1), color=color)
        ends.append((name, min(table[column].iloc[-1], 1), color))
    ax.fill_between(x, table.low, table.high, color=COLORS[0], alpha=0.2, lw=0)
    ax.plot(x, table.gap, "o-", color=COLORS[0], ms=3)
    ends.append(("measured,\nwithout noise", table.gap.iloc[-1], COLORS[0]))
    ax.axhline(0, color="black", lw=0.8)
    ax.set_ylim(min(-0.1, table.low.min()), 1)
    ax.text(x.mean(), (1 + table.train.max()) / 2, "says nothing", ha="center", va="center", color="#606060")
    return by_number(ax, "rounds", "train minus true accuracy", ends)


def plot_movement(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Measured against predicted movement of the margins of `isolation`, one point an example, and the identity."""
    ax = canvas(ax)
    reach = 1.08 * table[["predicted", "measured"]].abs().to_numpy().max()
    ax.plot([-reach, reach], [-reach, reach], color="black", lw=0.8)
    for name, side, color in SIDES:
        chosen = table[table.correct == side]
        ax.plot(chosen.predicted, chosen.measured, "o", ms=3.5, color=color, alpha=0.8, label=name)
    ax.axhline(0, color=GREY, lw=0.8, zorder=0)
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    ax.set(xlabel="predicted to first order (logits)", ylabel="measured (logits)")
    ax.axis((-reach, reach, -reach, reach))
    ends = [(name, table[table.correct == side].measured.median(), color) for name, side, color in SIDES]
    label_right(ax, [*ends, ("as predicted", reach, "black")])
    return ax


def plot_bound_ratio(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Measured movement as a share of the two first-order bounds of `isolation`, a point an example, medians as bars.

    Above 1 (dotted) terms of second order have carried a margin beyond the bound.
    """
    ax, bounds = canvas(ax), {r"$|\nabla_v z|\;|v|$": "bound_v", r"$|\nabla_W z|\;|\Delta W|$": "bound_w"}
    for group, column in enumerate(bounds.values()):
        for place, (_, side, color) in zip((group - 0.17, group + 0.17), SIDES, strict=True):
            chosen = table[table.correct == side]
            ratio = (chosen.measured.abs() / chosen[column]).to_numpy()
            x = place + np.linspace(-0.1, 0.1, len(ratio)) if len(ratio) > 1 else [place]
            ax.plot(x, ratio, "o", ms=3, color=color, alpha=0.7)
            ax.hlines(np.median(ratio), place - 0.13, place + 0.13, color=color, lw=2)
    ax.axhline(1, color="black", lw=0.8, ls=":")
    ax.set(yscale="log", ylabel="|movement| / bound", xticks=[0, 1], xticklabels=list(bounds), xlim=(-0.5, 1.5))
    for height, (name, _, color) in zip((0.85, 0.75), SIDES, strict=True):
        ax.text(0.98, height, name, color=color, transform=ax.transAxes, ha="right", va="top")
    return ax


def bounds(ledger: Ledger, noise: pd.DataFrame) -> Figure:
    """Left: bounds by round. Right: the run under noise, one point a draw: promised gap, measured gap, accuracy."""
    fig, [[left, ax]] = panels(1, 2, 2.8, width=8.4)
    plot_bounds(gap_table(ledger, together=PAIRS), left)
    certified = certify(noise, together=PAIRS)
    ax.plot(certified.sigma, certified.tight, "D", color=COLORS[1], ms=4, label="promised gap")
    ax.plot(certified.sigma, certified.gap, "o", color=COLORS[0], ms=4, label="measured gap")
    ax.plot(certified.sigma, certified.train, "_", color="black", ms=9, label="training accuracy under noise")
    ax.set(xscale="log", xlabel="noise $\\sigma$ on every number", ylabel="gap, or accuracy", ylim=(-0.05, 1))
    ax.legend(frameon=False, loc="upper right")
    return fig


def isolation(moves: pd.DataFrame) -> Figure:
    """How far margins moved in a round: against first order, and as a share of its bounds."""
    fig, [[left, right]] = panels(1, 2, 3.0, width=8.0)
    plot_movement(moves, left)
    plot_bound_ratio(moves, right)
    return fig
