"""Pictures of runs: ledger rows (or plain numbers) in, matplotlib Axes out. Nothing here reads a model or trains one.

Conventions beside those of plot_style.py:
- "rounds" on an axis counts finished rounds, 0 being the untrained model; "round" is a round's index in the ledger,
  which starts at 0. Accuracy is a state, so it is drawn against the count; failures belong to a round.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from boostlib.common.errors import BoostError
from boostlib.plots.style import (
    BROKEN,
    COLORS,
    FIXED,
    GREY,
    canvas,
    draw,
    label_right,
    need,
    save_figure,
    use_style,
    whole_numbers,
)
from boostlib.rank import subspace_overlap
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Base, Round, held_out
from boostlib.update import LowRankUpdate

__all__ = ["save_figure", "use_style"]  # of plot_style, for notebooks that import this module alone


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
    need(groups, "plot_accuracy got no runs")
    curves, points = {}, {}
    for label, ledgers in groups.items():
        rows = [_rows(ledger) for ledger in need(ledgers, f"plot_accuracy got no ledgers for {label!r}")]
        ys = [[_score(row, split) for row in (base, *rounds)] for base, rounds in rows]
        steps = [list(accumulate((row.steps for row in rounds), initial=0)) for _, rounds in rows]
        xs = steps if against == "steps" else [list(range(len(y))) for y in ys]
        if all(len(y) == 2 for y in ys):
            note = f"{label}\n(1 round, {np.mean([s[1] for s in steps]):.0f} steps)"
            points[note] = ([x[1] for x in xs], [y[1] for y in ys])
        else:
            curves[label] = (xs, ys)
    return draw(canvas(ax), curves, "rounds" if against == "rounds" else "optimizer steps", f"{split} accuracy", points)


def plot_failures(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """What became of each round's failures: fixed or still wrong, and below zero what the round broke."""
    _, rounds = _rows(ledger)
    counts = ([len(row.failures) for row in rounds], [len(r.fixed) for r in rounds], [len(r.broken) for r in rounds])
    return plot_outcomes(*counts, ax=ax)


def plot_rewards(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """Mean reward of every optimizer step of a run, and of every round as a thick bar; dotted lines part the rounds.

    Rounds train on different failures, ever harder ones: their rewards need not rise from round to round.
    """
    ax, (_, rounds) = canvas(ax), _rows(ledger)
    rewards = need([r for row in rounds for r in row.rewards], f"{ledger.dir} has no rewards: no round trained on any")
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
    ax.xaxis.set_major_locator(whole_numbers())
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
    for label, values in need(series, "plot_curves got no series").items():
        seeds = [values] if np.ndim(need(values, f"{label!r} has no values")[0]) == 0 else values
        curves[label] = ([range(start, start + len(y)) for y in seeds], seeds)
    return draw(canvas(ax), curves, xlabel, ylabel, {})


def plot_rank(curves: Mapping[str, Sequence], ax: Axes | None = None, ylabel: str = "rank of the update") -> Axes:
    """Rank of the cumulative update after 1, 2, ... rounds; curves: label -> ranks, or one list of ranks per seed."""
    ax = plot_curves(curves, ax=ax, ylabel=ylabel, start=1)
    ax.set_ylim(bottom=0)
    return ax


def plot_outcomes(failures: Sequence[int], fixed: Sequence[int], broken: Sequence[int], ax: Axes | None = None) -> Axes:
    """Bars of one round each: failures split into fixed and still wrong, broken examples below zero."""
    ax, x = canvas(ax), np.arange(len(need(failures, "plot_outcomes got no rounds")))
    left = np.subtract(failures, fixed)
    ax.bar(x, fixed, color=FIXED)
    ax.bar(x, left, bottom=fixed, color=GREY)
    ax.bar(x, np.negative(broken), color=BROKEN)
    ax.axhline(0, color="black", lw=0.8)
    ax.set(xlabel="round", ylabel="training examples")
    ax.xaxis.set_major_locator(whole_numbers())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{abs(y):g}"))
    k = max((i for i in x if fixed[i] or broken[i]), default=-1)  # the last round that has bars to name
    middle = {"still wrong": fixed[k] + left[k] / 2, "fixed": fixed[k] / 2, "broken": -broken[k] / 2}
    inks = ("#707070", FIXED, BROKEN)
    label_right(ax, [(label, y, ink) for (label, y), ink in zip(middle.items(), inks, strict=True)])
    return ax


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
    image = ax.imshow(table, vmin=0, vmax=1, cmap="Blues")
    ax.figure.colorbar(image, ax=ax, label="overlap", ticks=[0, 0.5, 1], shrink=0.8)
    ax.set(xlabel="round", ylabel="round")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(whole_numbers(nbins=5))
    return ax


def plot_matrix(matrix, title: str = "", ax: Axes | None = None, limit: float | None = None) -> Axes:
    """A matrix as a heat map, blue below zero, red above. limit: the value of full colour, default the largest."""
    ax, matrix = canvas(ax), np.asarray(matrix, dtype=float)
    limit = limit or np.abs(matrix).max() or 1.0
    image = ax.imshow(matrix, cmap="RdBu_r", interpolation="nearest", vmin=-limit, vmax=limit)
    ax.figure.colorbar(image, ax=ax, shrink=0.6, ticks=MaxNLocator(3, symmetric=True))
    ax.set(title=title, xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def _rows(ledger: Ledger) -> tuple[Base, list[Round]]:
    base, rounds = ledger.base, ledger.rounds
    if base is None or not rounds:
        raise BoostError(f"{ledger.dir} has no finished round to plot: let the run finish one")
    return base, rounds


def _score(row: Base | Round, split: str, strict: bool = False) -> float:
    if split == "train":
        return row.train_strict if strict else row.train_accuracy
    scores = held_out(row, split)
    return scores.strict if strict else scores.accuracy
