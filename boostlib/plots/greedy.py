"""Section "greedy rounds": where the gradient lies, what there was to choose from, what was chosen."""

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from boostlib.analysis.tables import finished
from boostlib.plots.style import COLORS, GREY, canvas
from boostlib.records.ledger import Ledger


def plot_gradient(norms: np.ndarray, names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Gradient norms (modules, blocks) as a heat map of their logarithm, a row a kind of module and layer.

    names: of the modules, in the basis's order; rows are sorted by kind (q_proj, k_proj, ...) and within by layer.
    """
    ax = canvas(ax)
    kinds = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
    order = sorted(range(len(names)), key=lambda i: (kinds.index(names[i].rsplit(".", 1)[-1]), i))
    shown = np.log10(np.maximum(norms[order], norms[norms > 0].min()))
    sns.heatmap(shown, cmap="magma", cbar_kws={"label": "log$_{10}$ norm of dL/dR"}, rasterized=True, ax=ax)
    each = len(names) // len(kinds)
    starts = each * np.arange(len(kinds))
    ax.set_yticks(starts + each / 2, kinds, rotation=0)
    ax.hlines(starts[1:], *ax.get_xlim(), color="white", lw=0.8)
    ax.set(xlabel="block of the basis", ylabel="weights, layer 0 on top in each kind")
    return ax


def plot_candidates(slopes: np.ndarray, ax: Axes | None = None) -> Axes:
    """Slope |dL/dv| of every (block, candidate) pair of one group, (blocks, candidates): range and mean a block.

    The diamond is what `greedy` takes, the circle what `rotate` takes in its first round.
    """
    ax, blocks = canvas(ax), np.arange(len(slopes))
    ax.vlines(blocks, slopes.min(axis=1), slopes.max(axis=1), color=GREY, lw=4)
    ax.plot(blocks, slopes.mean(axis=1), "_", color=COLORS[0], ms=7, label="mean of the candidates")
    best = np.unravel_index(slopes.argmax(), slopes.shape)
    ax.plot(0, slopes[0, 0], "o", color=COLORS[1], ms=4, label="rotate, first round")
    ax.plot(best[0], slopes[best], "D", color=COLORS[2], ms=4, label="greedy")
    ax.set(xlabel="block of the basis", ylabel="slope |dL/dv|")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    return ax


def plot_chosen(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """The block that every group took in every round, as a number on its colour."""
    ax = canvas(ax)
    blocks = np.array([[block for block, _ in row.plan] for row in finished(ledger)])  # (rounds, groups)
    most = 1.5 * max(blocks.max(), 1)
    sns.heatmap(blocks, annot=True, fmt="d", cmap="Blues", vmin=0, vmax=most, cbar=False, annot_kws={"size": 7}, ax=ax)
    ax.set(xlabel="group of tied modules", ylabel="round")
    ax.tick_params(axis="y", rotation=0)
    return ax
