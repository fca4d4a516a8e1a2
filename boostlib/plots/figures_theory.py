"""The figures of what theory says, one function each: a ledger and committed measurements in, a Figure out."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from boostlib.analysis.bounds import gap_table
from boostlib.analysis.gibbs import certify
from boostlib.plots import rank as plots_rank
from boostlib.plots import theory as plots_theory
from boostlib.plots.style import COLORS
from boostlib.records.ledger import Ledger

PAIRS = 2  # the demo deals its problems in pairs, 7 + 5 and 5 + 7: half as many are independent


def measured(folder: str | Path, run: str, what: str) -> pd.DataFrame:
    """The committed table `<run>-<what>.csv`, made by the functions that data/theory/README.md names."""
    return pd.read_csv(Path(folder) / f"{run}-{what}.csv")


def fresh_svd(one_basis: pd.DataFrame, fresh: pd.DataFrame) -> Figure:
    """Exact rank by round with one basis (`growth_table`) and with a fresh SVD each round (`fresh_table`)."""
    tables = {"one basis": one_basis, "fresh SVD each round": fresh}
    return plots_rank.plot_growth(tables, "exact").figure


def bounds(ledger: Ledger, noise: pd.DataFrame) -> Figure:
    """Left: bounds by round. Right: the run under noise, one point a draw: promised gap, measured gap, accuracy."""
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 2.8), layout="constrained")
    plots_theory.plot_bounds(gap_table(ledger, together=PAIRS), axes[0])
    certified, ax = certify(noise, together=PAIRS), axes[1]
    ax.plot(certified.sigma, certified.tight, "D", color=COLORS[1], ms=4, label="promised gap")
    ax.plot(certified.sigma, certified.gap, "o", color=COLORS[0], ms=4, label="measured gap")
    ax.plot(certified.sigma, certified.train, "_", color="black", ms=9, label="training accuracy under noise")
    ax.set(xscale="log", xlabel="noise $\\sigma$ on every number", ylabel="gap, or accuracy", ylim=(-0.05, 1))
    ax.legend(frameon=False, loc="upper right")
    return fig


def isolation(moves: pd.DataFrame) -> Figure:
    """How far margins moved in a round: against first order, and as a share of its bounds."""
    fig, axes = plt.subplots(1, 2, figsize=(8.0, 3.0), layout="constrained")
    plots_theory.plot_movement(moves, axes[0])
    plots_theory.plot_bound_ratio(moves, axes[1])
    return fig
