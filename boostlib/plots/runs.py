"""Pictures of runs: ledger rows (or plain numbers) in, matplotlib Axes out. Nothing here reads a model or trains one.

Conventions beside those of style.py:
- "rounds" on an axis counts finished rounds, 0 being the untrained model; "round" is a round's index in the ledger,
  which starts at 0. Accuracy is a state, so it is drawn against the count; failures belong to a round.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from boostlib.analysis.recorded import Groups
from boostlib.analysis.tables import finished
from boostlib.common.errors import BoostError
from boostlib.plots.style import BROKEN, COLORS, FIXED, GREY, by_number, canvas, draw, need, save_figure, use_style
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Base, Round, held_out

__all__ = ["save_figure", "use_style"]  # for notebooks that import this module alone


# --- runs: ledgers in


def plot_accuracy(groups: Groups, split: str = "test", ax: Axes | None = None, against: str = "rounds") -> Axes:
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
        need(ledgers, f"plot_accuracy got no ledgers for {label!r}")
        rounds = [finished(ledger) for ledger in ledgers]
        ys = [[_score(row, split) for row in (run.base, *run.rounds)] for run in ledgers]
        steps = [list(accumulate((row.steps for row in rows), initial=0)) for rows in rounds]
        xs = steps if against == "steps" else [list(range(len(y))) for y in ys]
        if all(len(y) == 2 for y in ys):
            note = f"{label}\n(1 round, {np.mean([s[1] for s in steps]):.0f} steps)"
            points[note] = ([x[1] for x in xs], [y[1] for y in ys])
        else:
            curves[label] = (xs, ys)
    return draw(canvas(ax), curves, "rounds" if against == "rounds" else "optimizer steps", f"{split} accuracy", points)


def plot_failures(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """What became of each round's failures: fixed or still wrong, and below zero what the round broke."""
    counts = [(len(row.failures), len(row.fixed), len(row.broken)) for row in finished(ledger)]
    failures, fixed, broken = zip(*counts, strict=True)
    return plot_outcomes(failures, fixed, broken, ax)


def plot_rewards(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """Mean reward of every optimizer step of a run, and of every round as a thick bar; dotted lines part the rounds.

    Rounds train on different failures, ever harder ones: their rewards need not rise from round to round.
    """
    ax, rounds = canvas(ax), finished(ledger)
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
    return by_number(ax, "optimizer step", "mean reward")


def plot_norms(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """Frobenius norm over all weights: of every round's own update, and of all rounds' sum so far."""
    rounds = finished(ledger)
    series = {"this round": [row.adapter_norm for row in rounds], "all so far": [row.update_norm for row in rounds]}
    ax = plot_curves(series, ax=ax, xlabel="round", ylabel="norm of the update")
    ax.set_ylim(bottom=0)
    return ax


# --- plain numbers in


def plot_curves(
    series: Mapping[str, Sequence], ax: Axes | None = None, ylabel: str = "", xlabel: str = "rounds", start: int = 0
) -> Axes:
    """Lines over rounds; series: label -> values, or label -> one list of values per seed. start: x of the first."""
    curves = {}
    for label, values in need(series, "plot_curves got no series").items():
        seeds = [values] if np.ndim(need(values, f"{label!r} has no values")[0]) == 0 else values
        curves[label] = ([range(start, start + len(y)) for y in seeds], seeds)
    return draw(canvas(ax), curves, xlabel, ylabel)


def plot_outcomes(failures: Sequence[int], fixed: Sequence[int], broken: Sequence[int], ax: Axes | None = None) -> Axes:
    """Bars of one round each: failures split into fixed and still wrong, broken examples below zero."""
    ax, x = canvas(ax), np.arange(len(need(failures, "plot_outcomes got no rounds")))
    left = np.subtract(failures, fixed)
    ax.bar(x, fixed, color=FIXED)
    ax.bar(x, left, bottom=fixed, color=GREY)
    ax.bar(x, np.negative(broken), color=BROKEN)
    ax.axhline(0, color="black", lw=0.8)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{abs(y):g}"))
    k = max((i for i in range(len(x)) if fixed[i] or broken[i]), default=-1)  # the last round that has bars to name
    still = ("still wrong", fixed[k] + left[k] / 2, "#707070")
    ends = [still, ("fixed", fixed[k] / 2, FIXED), ("broken", -broken[k] / 2, BROKEN)]
    return by_number(ax, "round", "training examples", ends)


def _score(row: Base | Round, split: str) -> float:
    return row.train_accuracy if split == "train" else held_out(row, split).accuracy
