"""The picture at the top of the README: the loop beside the exact rank that it grows, from two recorded runs.

    python figures/hero.py        # writes figures/hero.png and figures/hero.svg

The ranks are computed from the ledgers alone: the recorded numbers and the singular directions of the embedded model
give every round's update, and its rank is the number of singular values above 1e-6 of the largest, in fp64. Every one
of the 210 weights has the rank that is drawn, which the script asserts. About a quarter of a minute on one core.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import boostlib as bl
from boostlib.analysis.growth import growth_table, recorded_updates
from boostlib.plots.style import COLORS, GREY, save_figure, use_style

ROOT = Path(__file__).resolve().parents[1]
ROTATE, TOP = COLORS[0], COLORS[1]
INK, PAPER = "#24292F", "#FFFFFF"
STEPS = {  # what a box says -> its centre
    "evaluate the model\non the training problems": (0.22, 0.83),
    "keep what it gets wrong:\nthe failures": (0.77, 0.83),
    "train 12 numbers on them,\nin two singular directions\nof every weight": (0.77, 0.43),
    "merge them into the\nweights, discard\nthe adapter": (0.22, 0.43),
}
WIDTH, HEIGHT = 0.42, 0.23  # of a box


def main() -> None:
    model, _ = bl.load_model("smollm2", dtype="float32")
    runs = {name: bl.Ledger(ROOT / f"data/runs/math-growth-{name}-seed0") for name in ("rotate", "top")}
    ranks = {name: exact_ranks(ledger, model) for name, ledger in runs.items()}
    use_style()
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.7), width_ratios=(1.35, 1), layout="constrained")
    fig.get_layout_engine().set(wspace=0.08)
    fig.patch.set_facecolor(PAPER)
    draw_loop(left)
    draw_ranks(right, ranks)
    for path in save_figure(fig, "hero", ROOT / "figures"):
        print(f"wrote {path.relative_to(ROOT)}")


def exact_ranks(ledger: bl.Ledger, model) -> list[int]:
    """The exact rank after 1, 2, ... rounds, which is the same in every weight."""
    ranks = growth_table(recorded_updates(ledger, model), eps=()).groupby("rounds")["exact"]
    assert (ranks.nunique() == 1).all(), f"{ledger.dir}: the weights differ in rank"
    return [int(rank) for rank in ranks.first()]


def draw_loop(ax: Axes) -> None:
    """Four boxes in a ring, and below them the singular directions of a weight, two of which a round takes."""
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_axis_off()
    for number, (text, (x, y)) in enumerate(STEPS.items(), start=1):
        trained = number == 3
        box = FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.03",
            facecolor="#DCEBF6" if trained else "#F2F4F6",
            edgecolor=ROTATE if trained else "#8C959F",
            lw=1.6 if trained else 1.0,
        )
        ax.add_patch(box)
        ax.text(x, y, text, ha="center", va="center", fontsize=9.5, color=INK, linespacing=1.25)
        ax.text(x - WIDTH / 2, y + HEIGHT / 2 + 0.012, number, ha="left", va="bottom", fontsize=9, color="#57606A")
    centres = list(STEPS.values())
    for (x0, y0), (x1, y1) in zip(centres, centres[1:] + centres[:1], strict=True):
        dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        start = (x0 + dx * (WIDTH / 2 + 0.012), y0 + dy * (HEIGHT / 2 + 0.014))
        end = (x1 - dx * (WIDTH / 2 + 0.012), y1 - dy * (HEIGHT / 2 + 0.014))
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, lw=1.6, color=INK))
    ax.text(0.24, 0.63, "next two directions", ha="left", va="center", fontsize=9, color=ROTATE)
    draw_directions(ax)


def draw_directions(ax: Axes, rounds: int = 8, now: int = 3) -> None:
    """Squares for the directions by singular value: those of past rounds, of this one, and of later ones."""
    side, gap, left, y = 0.047, 0.032, 0.012, 0.09
    for t in range(rounds):
        x = left + t * (2 * side + gap)
        color = ROTATE if t == now else "#9CC4E4" if t < now else "#E6E8EB"
        for k in range(2):
            ax.add_patch(Rectangle((x + k * side, y), side * 0.92, 0.062, facecolor=color, lw=0))
        if t == now:
            ax.text(x + side, y - 0.02, "this round", ha="center", va="top", fontsize=9, color=ROTATE, weight="bold")
    done, later = left + now * (2 * side + gap) / 2, left + (now + 1 + rounds) * (2 * side + gap) / 2
    ax.text(done - gap / 2, y - 0.02, "merged", ha="center", va="top", fontsize=9, color="#57606A")
    ax.text(later + side / 2, y - 0.02, "next two, and so on", ha="center", va="top", fontsize=9, color="#57606A")
    ax.text(left, y + 0.085, "singular directions of a weight, largest first", fontsize=9, color="#57606A")


def draw_ranks(ax: Axes, ranks: dict[str, list[int]]) -> None:
    """Rank by merged rounds: rotating blocks add up, one block stays where it is."""
    names = {"rotate": ("new directions\nevery round", ROTATE), "top": ("the same two\nevery round", TOP)}
    for name, (label, color) in names.items():
        values = ranks[name]
        ax.plot(range(1, len(values) + 1), values, "o-", color=color, ms=4.5, lw=2)
        ax.text(len(values) + 0.3, values[-1], label, color=color, fontsize=9.5, va="center", linespacing=1.2)
    last = max(len(values) for values in ranks.values())
    ax.set(
        xlim=(0.6, last + 3.6), ylim=(0, 2 * last + 1.6), xticks=range(1, last + 1), yticks=range(0, 2 * last + 1, 4)
    )
    ax.spines["bottom"].set_bounds(1, last)
    ax.tick_params(labelsize=9)
    ax.set_title("exact rank of the whole update", loc="left", fontsize=10.5, color=INK)
    ax.set_xlabel("rounds merged", fontsize=9.5, x=(last / 2 - 0.1) / (last + 3.0))
    ax.hlines(ax.get_yticks(), 0.6, last, color=GREY, lw=0.5, alpha=0.6, zorder=0)


if __name__ == "__main__":
    main()
