"""Section "failure dynamics": flows, one line a problem, waiting times, costs. Numbers: analysis/dynamics.py."""

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from boostlib.analysis import dynamics
from boostlib.analysis.recorded import Groups, Runs
from boostlib.plots.runs import plot_curves, plot_norms, plot_rewards
from boostlib.plots.style import BROKEN, COLORS, FIXED, GREY, by_number, canvas, panels, parts_of
from boostlib.records.ledger import Ledger

INK = {"never right": "#707070", "fell back": COLORS[3], "broken": BROKEN, "fixed": FIXED}
RIGHT = "#E6EEF3"  # right from the start
PARTS = ("probe", "train", "evaluate", "merge")  # of a round's seconds; not every kind of run has all of them


def plot_flows(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """The training set as two stacks after every round, wrong below and right above, and who flowed between them.

    Green: fixed in this round; orange: lost in this round; grey stayed wrong, light blue stayed right.
    """
    ax, n, table = canvas(ax), dynamics.train_size(ledger), dynamics.flow_table(ledger)
    ups, downs = table["fixed"] + table["regained"], table["broken"] + table["lost again"]
    for t, (before, up, down, after) in enumerate(zip(table["failures"], ups, downs, table["left"], strict=True)):
        # stacked from below on the left: stayed wrong, fixed | lost, stayed right
        _band(ax, t, (0, before - up), (0, before - up), GREY)
        _band(ax, t, (before + down, n), (after + up, n), RIGHT)
        _band(ax, t, (before - up, before), (after, after + up), FIXED)
        _band(ax, t, (before, before + down), (after - down, after), BROKEN)
    for t, count in enumerate([table["failures"].iloc[0], *table["left"]]):
        ax.bar(t, count, 0.18, color="#707070")
        ax.bar(t, n - count, 0.18, bottom=count, color="#9DB4C0")
    ax.set_ylim(0, n)
    ends = [("wrong", after / 2, "#707070"), ("right", (after + n) / 2, "#5E7B8A")]
    ends += [("fixed", after + up / 2, FIXED), ("lost", after - down / 2, BROKEN)]
    return by_number(ax, "rounds", "training problems", ends)


def plot_states(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """Problems by state after 0, 1, ... rounds, stacked: the failures by their past, and above them what is fixed."""
    ax, table = canvas(ax), dynamics.states(ledger)
    colors = [INK[state] for state in table]
    ax.stackplot(table.index, table.T.to_numpy(), colors=colors, alpha=0.85, lw=0)
    ax.set_xlim(0, table.index[-1])
    return by_number(ax, "rounds", "training problems", parts_of(table, colors))


def plot_histories(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """One line a problem that was ever wrong, one column a state of the model; dark where it is wrong.

    Sorted by when a problem was first right, then by how often it was wrong: solved early on top.
    """
    ax, wrong = canvas(ax), dynamics.histories(ledger)
    first_right = (~wrong).to_numpy().argmax(axis=1) + wrong.all(axis=1) * wrong.shape[1]
    order = np.lexsort((wrong.sum(axis=1), first_right))
    shown = wrong.to_numpy()[order].astype(int)
    sns.heatmap(shown, cmap=[RIGHT, "#404040"], cbar=False, yticklabels=False, rasterized=True, ax=ax)
    ax.set(xlabel="rounds", ylabel=f"{len(wrong)} problems ever wrong")
    return ax


def plot_waiting(groups: Groups, ax: Axes | None = None) -> Axes:
    """Share of the untrained model's failures that were never right so far, by rounds: how long a problem waits."""
    curves = {label: [dynamics.waiting(ledger) for ledger in ledgers] for label, ledgers in groups.items()}
    ax = plot_curves(curves, ax, ylabel="failures never right yet")
    ax.set_ylim(0, 1)
    return ax


def plot_going_on(groups: Groups, split: str = "test", ax: Axes | None = None) -> Axes:
    """Held-out accuracy by rounds, mean over seeds, with 95% intervals over problems and seeds."""
    ax, ends = canvas(ax, (4.8, 2.8)), []
    for color, (label, ledgers) in zip(COLORS, groups.items(), strict=False):
        table = dynamics.stopping_table(ledgers, split)
        ax.plot(table.index, table[split], ".-", color=color, ms=5)
        ax.fill_between(table.index, table.low, table.high, color=color, alpha=0.12, lw=0)
        ends.append((label, float(table[split].iloc[-1]), color))
    return by_number(ax, "rounds", f"{split} accuracy", ends)


def plot_seconds(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """Seconds of every round, by what they went into: those of `PARTS` that the run has, a missing one counting 0."""
    ax, table = canvas(ax), dynamics.costs_table(ledger)
    table = table[[part for part in PARTS if part in table]].fillna(0)
    tops = table.cumsum(axis=1)
    for color, part in zip(COLORS, table, strict=False):
        ax.bar(table.index, table[part], bottom=tops[part] - table[part], color=color)
    return by_number(ax, "round", "seconds", parts_of(table, COLORS))


def _band(ax: Axes, t: int, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    """A smooth band from the heights `start` at x = t to the heights `end` at x = t + 1."""
    x = np.linspace(0, 1, 30)
    ease = x * x * (3 - 2 * x)
    low, high = (a + (b - a) * ease for a, b in zip(start, end, strict=True))
    ax.fill_between(t + x, low, high, color=color, lw=0, alpha=0.9)


# --- figures of notebook 05


def flows(runs: Runs) -> Figure:
    """Who flowed between right and wrong, and the failures by their past: a column a run."""
    fig, axes = panels(2, len(runs), 5.2, sharey="row")
    for column, (label, ledger) in enumerate(runs.items()):
        plot_flows(ledger, axes[0, column]).set_title(label)
        plot_states(ledger, axes[1, column])
    return fig


def problem_histories(runs: Runs) -> Figure:
    """One line a problem, dark where it is wrong: a panel a run."""
    fig, axes = panels(1, len(runs), 3.4)
    for ax, (label, ledger) in zip(axes.flat, runs.items(), strict=True):
        plot_histories(ledger, ax).set_title(label)
    return fig


def waiting(groups: Groups, runs: Runs) -> Figure:
    """How long problems wait until they are first right, and after how many rounds they were wrong."""
    fig, axes = panels(1, 2, 2.6)
    plot_waiting(groups, axes[0, 0])
    counts = {label: dynamics.histories(ledger).sum(axis=1).value_counts() for label, ledger in runs.items()}
    longest = max(int(count.index.max()) for count in counts.values())
    series = {label: count.reindex(range(1, longest + 1), fill_value=0).tolist() for label, count in counts.items()}
    plot_curves(series, axes[0, 1], ylabel="problems", xlabel="states in which a problem was wrong", start=1)
    return fig


def costs(groups: Groups, run: Ledger) -> Figure:
    """Rewards and seconds of one run, norms of its updates, and the length of v by round for all."""
    fig, axes = panels(2, 2, 5.0)
    plot_rewards(run, axes[0, 0])
    plot_norms(run, axes[0, 1])
    lengths = {label: [dynamics.lengths(run) for run in runs] for label, runs in groups.items()}
    plot_curves(lengths, axes[1, 0], ylabel="length of $v$", xlabel="round").set_ylim(bottom=0)
    plot_seconds(run, axes[1, 1])
    return fig
