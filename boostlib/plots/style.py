"""What all figures share: fonts, colours, saving, axes and names at the ends of lines. No data, no model.

Conventions:
- Several seeds of one label: a thin line each, their mean as a thick line, their range as a band.
- Lines are named at their right end instead of in a legend; colours are Okabe and Ito's, safe for colour-blind readers.
- Sizes fit half the width of a page (3.3 inches).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from boostlib.common.errors import BoostError

COLORS = ("#0072B2", "#D55E00", "#009E73", "#9E4A84", "#B8860B", "#56B4E9", "#000000")
GREY, FIXED, BROKEN = "#C4C4C4", COLORS[2], COLORS[1]
SIZE = (3.3, 2.3)  # inches


def use_style() -> None:
    """Set fonts, colours and spines for every figure made from here on."""
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8, "legend.fontsize": 8})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8})
    plt.rcParams.update({"xtick.labelsize": 8, "ytick.labelsize": 8, "lines.linewidth": 1.6, "figure.figsize": SIZE})
    plt.rcParams.update({"figure.dpi": 100, "figure.constrained_layout.use": True, "svg.hashsalt": "boostlib"})
    plt.rcParams["axes.prop_cycle"] = plt.cycler(color=COLORS)


def save_figure(fig: Figure, name: str, folder: str | Path = "figures") -> list[Path]:
    """Write `<folder>/<name>.png` (200 dpi) and `.svg`; a figure made anew gives the same bytes. Returns both paths."""
    paths = [Path(folder) / f"{name}.{kind}" for kind in ("png", "svg")]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(paths[0], dpi=200)
    fig.savefig(paths[1], metadata={"Date": None})
    return paths


def whole_numbers(nbins: int = 6) -> MaxNLocator:
    """Ticks at whole numbers alone."""
    return MaxNLocator(nbins, integer=True, steps=[1, 2, 5, 10])


def canvas(ax: Axes | None) -> Axes:
    """The axes given, or new ones of half a page's width."""
    return ax if ax is not None else plt.subplots(figsize=SIZE, layout="constrained")[1]


def need(values, otherwise: str):
    """The values, which must not be empty: raises BoostError with the text given."""
    if len(values) == 0:
        raise BoostError(otherwise)
    return values


def draw(ax: Axes, curves: Mapping, xlabel: str, ylabel: str, points: Mapping) -> Axes:
    """Every group's seeds, mean and range; single points as diamonds. Means end with the shortest seed."""
    ends, shades = [], iter(COLORS * (1 + (len(curves) + len(points)) // len(COLORS)))
    for label, (xs, ys) in curves.items():
        color, n = next(shades), min(len(y) for y in ys)
        x, y = np.mean([x[:n] for x in xs], axis=0), np.array([y[:n] for y in ys], dtype=float)  # (n,), (seeds, n)
        if len(ys) > 1:
            for seed_x, seed_y in zip(xs, ys, strict=True):
                ax.plot(seed_x, seed_y, color=color, lw=0.6, alpha=0.5)
            ax.fill_between(x, y.min(axis=0), y.max(axis=0), color=color, alpha=0.12, lw=0)
        ax.plot(x, y.mean(axis=0), color=color, marker="o" if n <= 12 else None, ms=3, label=label)
        ends.append((label, y.mean(axis=0)[-1], color))
    for label, (xs, ys) in points.items():
        color = next(shades)
        ax.plot(xs, ys, "D", color=color, ms=4, label=label)
        ax.axhline(np.mean(ys), color=color, lw=0.8, ls=":")
        ends.append((label, np.mean(ys), color))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(whole_numbers())
    label_right(ax, ends)
    return ax


def label_right(ax: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Names right of the axes at the heights given, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    inches = 0.8 * ax.get_position().height * ax.figure.get_figheight()  # the layout takes about a fifth
    line = 1.25 * plt.rcParams["font.size"] / 72 / inches * (high - low)  # height of a line of text in units of y
    ends, top = sorted(ends, key=lambda end: end[1]), -np.inf
    halves = [line * (1 + label.count("\n")) / 2 for label, _, _ in ends]
    places = []
    for (_, y, _), half in zip(ends, halves, strict=True):  # upwards, each clear of the one below
        places.append(max(y, top + half))
        top = places[-1] + half
    ceiling = high + line / 2
    for k in reversed(range(len(ends))):  # and down again where that left the axes
        places[k] = min(places[k], ceiling - halves[k])
        ceiling = places[k] - halves[k]
    for (label, _, color), place in zip(ends, places, strict=True):
        ax.text(1.03, place, label, color=color, transform=ax.get_yaxis_transform(), va="center", ha="left")
