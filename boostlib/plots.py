"""Pictures of runs: ledger rows (or plain numbers) in, matplotlib Axes out. Nothing here reads a model or trains one.

Conventions that all figures share:
- "rounds" on an axis counts finished rounds, 0 being the untrained model; "round" is a round's index in the ledger,
  which starts at 0. Accuracy is a state, so it is drawn against the count; failures belong to a round.
- Several seeds of one label: a thin line each, their mean as a thick line, their range as a band.
- Lines are named at their right end instead of in a legend; colours are Okabe and Ito's, safe for colour-blind readers.
- Sizes fit half the width of a page (3.3 inches).
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from boostlib.errors import BoostError
from boostlib.ledger import Ledger
from boostlib.rank import subspace_overlap
from boostlib.rounds import Base, Round
from boostlib.update import LowRankUpdate

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


# --- runs: ledgers in


def plot_accuracy(
    groups: Mapping[str, Sequence[Ledger]], split: str = "test", ax: Axes | None = None, against: str = "rounds"
) -> Axes:
    """Accuracy from the untrained model on; groups: label -> one ledger per seed.

    against: "rounds" or "steps" (optimizer steps so far, the fairer axis where rounds differ in length). A run of one
    round (TinyLoRA in one go) is a diamond with its number of steps in its label, and a dotted line to compare with:
    its single round may have taken as many steps as another run's twenty.
    """
    if against not in ("rounds", "steps"):
        raise BoostError(f"plot_accuracy(against={against!r}): must be rounds or steps")
    _need(groups, "plot_accuracy got no runs")
    curves, points = {}, {}
    for label, ledgers in groups.items():
        rows = [_rows(ledger) for ledger in _need(ledgers, f"plot_accuracy got no ledgers for {label!r}")]
        ys = [[_score(row, split) for row in (base, *rounds)] for base, rounds in rows]
        steps = [list(accumulate((row.steps for row in rounds), initial=0)) for _, rounds in rows]
        xs = steps if against == "steps" else [list(range(len(y))) for y in ys]
        if all(len(y) == 2 for y in ys):
            note = f"{label}\n(1 round, {np.mean([s[1] for s in steps]):.0f} steps)"
            points[note] = ([x[1] for x in xs], [y[1] for y in ys])
        else:
            curves[label] = (xs, ys)
    return _draw(_axes(ax), curves, "rounds" if against == "rounds" else "optimizer steps", f"{split} accuracy", points)


def plot_failures(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """What became of each round's failures: fixed or still wrong, and below zero what the round broke."""
    _, rounds = _rows(ledger)
    counts = ([len(row.failures) for row in rounds], [len(r.fixed) for r in rounds], [len(r.broken) for r in rounds])
    return plot_outcomes(*counts, ax=ax)


def plot_rewards(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """Mean reward of every optimizer step of a run, and of every round as a thick bar; dotted lines part the rounds.

    Rounds train on different failures, ever harder ones: their rewards need not rise from round to round.
    """
    ax, (_, rounds) = _axes(ax), _rows(ledger)
    rewards = _need([r for row in rounds for r in row.rewards], f"{ledger.dir} has no rewards: no round trained on any")
    ax.plot(range(1, len(rewards) + 1), rewards, ".-", color=COLORS[0], lw=0.7, ms=3)
    ends, every = list(accumulate(len(row.rewards) for row in rounds)), -(-len(rounds) // 5)
    for row, end in zip(rounds, ends, strict=True):
        start = end - len(row.rewards)
        if not row.rewards:  # skipped
            continue
        if start:
            ax.axvline(start + 0.5, color=GREY, lw=0.8, ls=":")
        ax.plot([start + 0.6, end + 0.4], [np.mean(row.rewards)] * 2, color=COLORS[1], lw=2.5)
        if row.index % every == 0:
            text = f"round {row.index}" if row.index == 0 else str(row.index)
            ax.text((start + end + 1) / 2, 1.01, text, transform=ax.get_xaxis_transform(), ha="center", va="bottom")
    ax.xaxis.set_major_locator(_whole_numbers())
    ax.set(xlabel="optimizer step", ylabel="mean reward")
    return ax


def plot_norms(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """Frobenius norm over all weights: of every round's own update, and of all rounds' sum so far."""
    _, rounds = _rows(ledger)
    series = {"this round": [row.adapter_norm for row in rounds], "all so far": [row.update_norm for row in rounds]}
    ax = plot_curves(series, ax=ax, xlabel="round", ylabel="norm of the update")
    ax.set_ylim(bottom=0)
    return ax


def plot_strict(ledger: Ledger, split: str = "test", ax: Axes | None = None) -> Axes:
    """Strict accuracy (the answer in the format asked for) beside lenient accuracy."""
    base, rounds = _rows(ledger)
    series = {
        "lenient": [_score(row, split) for row in (base, *rounds)],
        "strict": [_score(row, split, strict=True) for row in (base, *rounds)],
    }
    return plot_curves(series, ax=ax, ylabel=f"{split} accuracy")


# --- plain numbers in


def plot_curves(
    series: Mapping[str, Sequence], ax: Axes | None = None, ylabel: str = "", xlabel: str = "rounds", start: int = 0
) -> Axes:
    """Lines over rounds; series: label -> values, or label -> one list of values per seed. start: x of the first."""
    curves = {}
    for label, values in _need(series, "plot_curves got no series").items():
        seeds = [values] if np.ndim(_need(values, f"{label!r} has no values")[0]) == 0 else values
        curves[label] = ([range(start, start + len(y)) for y in seeds], seeds)
    return _draw(_axes(ax), curves, xlabel, ylabel, {})


def plot_rank(curves: Mapping[str, Sequence], ax: Axes | None = None, ylabel: str = "rank of the update") -> Axes:
    """Rank of the cumulative update after 1, 2, ... rounds; curves: label -> ranks, or one list of ranks per seed."""
    ax = plot_curves(curves, ax=ax, ylabel=ylabel, start=1)
    ax.set_ylim(bottom=0)
    return ax


def plot_outcomes(failures: Sequence[int], fixed: Sequence[int], broken: Sequence[int], ax: Axes | None = None) -> Axes:
    """Bars of one round each: failures split into fixed and still wrong, broken examples below zero."""
    ax, x = _axes(ax), np.arange(len(_need(failures, "plot_outcomes got no rounds")))
    left = np.subtract(failures, fixed)
    ax.bar(x, fixed, color=FIXED)
    ax.bar(x, left, bottom=fixed, color=GREY)
    ax.bar(x, np.negative(broken), color=BROKEN)
    ax.axhline(0, color="black", lw=0.8)
    ax.set(xlabel="round", ylabel="training examples")
    ax.xaxis.set_major_locator(_whole_numbers())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{abs(y):g}"))
    k = max((i for i in x if fixed[i] or broken[i]), default=-1)  # the last round that has bars to name
    middle = {"still wrong": fixed[k] + left[k] / 2, "fixed": fixed[k] / 2, "broken": -broken[k] / 2}
    inks = ("#707070", FIXED, BROKEN)
    _label_right(ax, [(label, y, ink) for (label, y), ink in zip(middle.items(), inks, strict=True)])
    return ax


def plot_spectrum(S, rank: int, rounds: int, ax: Axes | None = None) -> Axes:
    """Singular values of one weight, coloured by the block of `rank` directions that a round of "rotate" takes."""
    ax, values = _axes(ax), np.asarray(_need(S, "plot_spectrum got no singular values"), dtype=float)
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
    ax, n = _axes(ax), len(_need(updates, "plot_overlap got no updates"))
    table = np.zeros((n, n))
    for i, j in np.ndindex(n, n):
        table[i, j] = np.mean([subspace_overlap(updates[i][name][1], updates[j][name][1]) for name in updates[i]])
    image = ax.imshow(table, vmin=0, vmax=1, cmap="Blues")
    ax.figure.colorbar(image, ax=ax, label="overlap", ticks=[0, 0.5, 1], shrink=0.8)
    ax.set(xlabel="round", ylabel="round")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(_whole_numbers(nbins=5))
    return ax


def plot_matrix(matrix, title: str = "", ax: Axes | None = None, limit: float | None = None) -> Axes:
    """A matrix as a heat map, blue below zero, red above. limit: the value of full colour, default the largest."""
    ax, matrix = _axes(ax), np.asarray(matrix, dtype=float)
    limit = limit or np.abs(matrix).max() or 1.0
    image = ax.imshow(matrix, cmap="RdBu_r", interpolation="nearest", vmin=-limit, vmax=limit)
    ax.figure.colorbar(image, ax=ax, shrink=0.6, ticks=MaxNLocator(3, symmetric=True))
    ax.set(title=title, xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


# --- helpers


def _whole_numbers(nbins: int = 6) -> MaxNLocator:
    return MaxNLocator(nbins, integer=True, steps=[1, 2, 5, 10])


def _axes(ax: Axes | None) -> Axes:
    return ax if ax is not None else plt.subplots(figsize=SIZE, layout="constrained")[1]


def _need(values, otherwise: str):
    if len(values) == 0:
        raise BoostError(otherwise)
    return values


def _rows(ledger: Ledger) -> tuple[Base, list[Round]]:
    base, rounds = ledger.base, ledger.rounds
    if base is None or not rounds:
        raise BoostError(f"{ledger.dir} has no finished round to plot: let the run finish one")
    return base, rounds


def _score(row: Base | Round, split: str, strict: bool = False) -> float:
    if split == "train":
        return row.train_strict if strict else row.train_accuracy
    if split not in row.metrics:
        raise BoostError(f"this run was not scored on {split!r}; it has {', '.join(['train', *row.metrics])}")
    return row.metrics[split].strict if strict else row.metrics[split].accuracy


def _draw(ax: Axes, curves: Mapping, xlabel: str, ylabel: str, points: Mapping) -> Axes:
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
    ax.xaxis.set_major_locator(_whole_numbers())
    _label_right(ax, ends)
    return ax


def _label_right(ax: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Names right of the axes at the heights given, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    inches = 0.8 * ax.get_position().height * ax.figure.get_figheight()  # the layout takes about a fifth
    line = 1.25 * plt.rcParams["font.size"] / 72 / inches * (high - low)  # height of a line of text in units of y
    top = -np.inf
    for label, y, color in sorted(ends, key=lambda end: end[1]):
        half = line * (1 + label.count("\n")) / 2
        place = max(y, top + half)
        ax.text(1.03, place, label, color=color, transform=ax.get_yaxis_transform(), va="center", ha="left")
        top = place + half
