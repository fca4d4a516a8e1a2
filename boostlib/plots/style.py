"""What all figures share: theme, colours, saving, axes, lines with ranges, names at their ends. No data, no model.

Conventions:
- Several seeds of one label: a thin line each, their mean as a thick line, their range as a band.
- Lines are named at their right end instead of in a legend; colours are Okabe and Ito's, safe for colour-blind readers.
- Sizes fit half the width of a page (3.3 inches).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from boostlib.common.errors import BoostError

COLORS = ("#0072B2", "#D55E00", "#009E73", "#9E4A84", "#B8860B", "#56B4E9", "#000000")
GREY, FIXED, BROKEN = "#C4C4C4", COLORS[2], COLORS[1]
SIZE = (3.3, 2.3)  # inches


def use_style() -> None:
    """Set fonts, colours and spines for every figure made from here on: seaborn's theme for papers, in 8 points."""
    settings: dict[str, Any] = {"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8}
    settings |= {"lines.linewidth": 1.6, "patch.force_edgecolor": False, "figure.figsize": SIZE, "figure.dpi": 100}
    settings |= {"figure.constrained_layout.use": True, "svg.hashsalt": "boostlib"}
    sns.set_theme("paper", "ticks", COLORS, "DejaVu Sans", font_scale=8 / 9.6, rc=settings)


def save_figure(fig: Figure, name: str, folder: str | Path = "figures") -> list[Path]:
    """Write `<folder>/<name>.png` (200 dpi) and `.svg`; a figure made anew gives the same bytes. Returns both paths."""
    paths = [Path(folder) / f"{name}.{kind}" for kind in ("png", "svg")]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(paths[0], dpi=200)
    fig.savefig(paths[1], metadata={"Date": None})
    return paths


def canvas(ax: Axes | None, size: tuple[float, float] = SIZE) -> Axes:
    """The axes given, or new ones of `size`, by default half a page's width."""
    return ax if ax is not None else plt.subplots(figsize=size, layout="constrained")[1]


def panels(rows: int, columns: int, height: float, width: float = 7.2, **sharing) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns axes, width x height inches; sharing: sharex, sharey."""
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **sharing)


def whole_numbers() -> MaxNLocator:
    """Ticks at whole numbers alone."""
    return MaxNLocator(6, integer=True, steps=[1, 2, 5, 10])


def need(values, otherwise: str):
    """The values, which must not be empty: raises BoostError with the text given."""
    if len(values) == 0:
        raise BoostError(otherwise)
    return values


def line(ax: Axes, x, y, color: str, **settings) -> float:
    """The mean of y (n,) at every x (n,) as a line, its range as a band; returns the height of the line's end.

    settings: of `seaborn.lineplot`, such as another estimator.
    """
    x, y = np.asarray(x), np.asarray(y, dtype=float)
    marks = {"marker": "o" if len(np.unique(x)) <= 16 else None, "ms": 3, "mec": color}
    settings = {"estimator": "mean", "err_kws": {"alpha": 0.15, "lw": 0}, **marks, **settings}
    sns.lineplot(x=x, y=y, ax=ax, errorbar=("pi", 100), color=color, legend=False, **settings)
    return float(pd.Series(y).groupby(x).agg(settings["estimator"]).dropna().iloc[-1])


def draw(ax: Axes, curves: Mapping, xlabel: str, ylabel: str, points: Mapping | None = None) -> Axes:
    """Every group's seeds, mean and range; single points as diamonds. Means end with the shortest seed.

    curves, points: label -> (x of every seed, y of every seed), a sequence each or, in `points`, a number each.
    """
    ends, colors = [], cycle(COLORS)
    for label, (xs, ys) in curves.items():
        color, n = next(colors), min(map(len, ys))
        if len(ys) > 1:
            for x, y in zip(xs, ys, strict=True):
                ax.plot(x, y, color=color, lw=0.6, alpha=0.5)
        middle = np.mean([x[:n] for x in xs], axis=0)  # (n,)
        ends.append((label, line(ax, [*middle] * len(ys), [v for y in ys for v in y[:n]], color, label=label), color))
    for label, (xs, ys) in (points or {}).items():
        color = next(colors)
        ax.plot(xs, ys, "D", color=color, ms=4, label=label)
        ax.axhline(np.mean(ys), color=color, lw=0.8, ls=":")
        ends.append((label, np.mean(ys), color))
    return by_number(ax, xlabel, ylabel, ends)


def by_number(ax: Axes, xlabel: str, ylabel: str, ends: Sequence[tuple[str, float, str]] = ()) -> Axes:
    """Ends a picture over something that is counted: whole numbers below, names of both axes and right of the lines."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(whole_numbers())
    label_right(ax, ends)
    return ax


def parts_of(table: pd.DataFrame, colors: Sequence[str]) -> list[tuple[str, float, str]]:
    """What `label_right` needs to name the columns of `table`, drawn as a stack, where they lie in the last row."""
    last = table.iloc[-1]
    return list(zip(table, last.cumsum() - last / 2, colors, strict=False))


def label_right(ax: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Names right of the axes at the heights given (label, y, colour), moved apart where they would overlap."""
    scale = ax.yaxis.get_transform()  # the identity, or a logarithm
    low, high = scale.transform(ax.get_ylim())
    inches = 0.8 * ax.get_position().height * ax.figure.get_figheight()  # the layout takes about a fifth
    height = 1.25 * plt.rcParams["font.size"] / 72 / inches * (high - low)  # of a line of text, in units of y
    ends, top = sorted(ends, key=lambda end: end[1]), -np.inf
    halves = [height * (1 + label.count("\n")) / 2 for label, _, _ in ends]
    places = []
    for (_, y, _), half in zip(ends, halves, strict=True):  # upwards, each clear of the one below
        places.append(max(float(scale.transform(y)), top + half))
        top = places[-1] + half
    ceiling = high + height / 2
    for k in reversed(range(len(ends))):  # and down again where that left the axes
        places[k] = min(places[k], ceiling - halves[k])
        ceiling = places[k] - halves[k]
    for (label, _, color), place in zip(ends, scale.inverted().transform(places), strict=True):
        ax.text(1.03, place, label, color=color, transform=ax.get_yaxis_transform(), va="center", ha="left")
