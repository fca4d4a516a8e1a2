"""Section "protein": what the data look like, ROC curves, and accuracy by size of the adapter."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import roc_auc_score, roc_curve

from boostlib.analysis.recorded import Groups
from boostlib.analysis.tables import first_and_last, gains_table
from boostlib.plots.style import COLORS, GREY, canvas
from boostlib.records.ledger import Ledger
from boostlib.tasks.base import LabelTask
from boostlib.tasks.chains import split_prompt


def plot_balance(task: LabelTask, ax: Axes | None = None) -> Axes:
    """Share of binders by split, with the number of examples."""
    ax = canvas(ax)
    counts = [len(task.split(split)) for split in task.splits]
    shares = [np.mean([example.answer == "1" for example in task.split(split)]) for split in task.splits]
    bars = ax.bar(task.splits, shares, color=COLORS[0], width=0.6)
    ax.bar_label(bars, [f"{share:.2f}\nn = {n}" for share, n in zip(shares, counts, strict=True)], padding=2)
    ax.axhline(0.5, color="black", lw=0.8, ls=":")
    ax.set(ylim=(0, 1), ylabel="share of binders")
    return ax


def plot_lengths(task: LabelTask, limit: int, ax: Axes | None = None) -> Axes:
    """Residues an example, all chains together, over all splits; grey: longer than `limit` tokens leave room for."""
    ax = canvas(ax)
    prompts = [split_prompt(str(example.prompt)) for split in task.splits for example in task.split(split)]
    lengths = np.array([sum(map(len, chains)) for chains in prompts])
    long = lengths + [1 + len(chains) for chains in prompts] > limit
    low, high = int(lengths.min()), int(np.quantile(lengths, 0.99))
    bins = np.arange(low - 0.5, high + 1.5, max(1, (high - low) // 30))  # whole residues: no empty bins between
    ax.hist([lengths[~long], lengths[long]], bins, stacked=True, color=[COLORS[0], GREY])
    ax.set(xlabel="residues", ylabel="examples", title=f"{long.sum()} of {len(long)} are cut to {limit} tokens")
    return ax


def plot_roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], ax: Axes | None = None, title: str = "test") -> Axes:
    """ROC curves; curves: label -> (labels (n,), logits (n,) or (runs, n)). Several runs: their mean curve."""
    ax, grid = canvas(ax), np.linspace(0, 1, 201)
    for color, (label, (labels, logits)) in zip(COLORS, curves.items(), strict=False):
        runs = [roc_curve(labels, row)[:2] for row in np.atleast_2d(logits)]
        mean = np.mean([np.interp(grid, false, true) for false, true in runs], axis=0)
        area = np.mean([roc_auc_score(labels, row) for row in np.atleast_2d(logits)])
        ax.plot(grid, np.concatenate([[0.0], mean[1:]]), color=color, label=f"{label} ({area:.2f})")
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
    ax.set(xlabel="false positive rate", ylabel="true positive rate", title=title, aspect="equal")
    ax.legend(loc="lower right", frameon=False, title="AUC", fontsize=7, title_fontsize=7)
    return ax


def plot_losses(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """Validation loss over a run's optimizer steps: a line a round from its start to its last look, the best one
    ringed.

    A round that ends above the ring was put back to it; one whose ring is its start was skipped.
    """
    ax, done = canvas(ax), 0
    for row in ledger.rounds:
        if row.validation:
            steps = done + np.linspace(0, row.steps, len(row.validation))
            color = COLORS[row.index % 2]
            ax.plot(steps, row.validation, ".-", color=color, ms=4)
            best = int(np.argmin(row.validation))
            ax.plot(steps[best], row.validation[best], "o", mfc="none", color=color, ms=8)
        done += row.steps
    ax.set(xlabel="optimizer step", ylabel="validation loss")
    return ax


def plot_sizes(groups: Groups, split: str = "test", ax: Axes | None = None) -> Axes:
    """Gain in accuracy over the untrained model against numbers a round, with 95% intervals; a dot a run."""
    ax, table = canvas(ax), gains_table(groups, split)
    sizes = table["parameters a round"]
    ax.errorbar(sizes, table.gain, [table.gain - table.low, table.high - table.gain], fmt="o", capsize=3)
    for label, runs in groups.items():
        before, after = first_and_last(runs, split)
        each = after.mean(axis=1) - before.mean(axis=1)  # (runs,)
        ax.plot([sizes[label] * 1.35] * len(each), each, ".", color=COLORS[1], ms=4)
    ax.axhline(0, color="black", lw=0.8, ls=":")
    ax.set(xscale="log", xlabel="trainable numbers a round", ylabel=f"gain in {split} accuracy")
    ax.margins(x=0.15)
    return ax
