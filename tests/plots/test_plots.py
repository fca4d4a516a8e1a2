"""Figures show the ledger's numbers: what is drawn is compared with what was recorded."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from boostlib.common.errors import BoostError
from boostlib.plots import rank as plots_rank
from boostlib.plots import runs as plots
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Base, Round, Scores, pack_bits
from boostlib.update import LowRankUpdate


@pytest.fixture(autouse=True)
def _style_and_tidy():
    with plt.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def _scores(accuracy: float) -> dict[str, Scores]:
    return {"test": Scores(accuracy, accuracy - 0.1, pack_bits([True] * 4))}


def _round(index: int, accuracy: float, steps: int = 4, rewards=(0.1, 0.2, 0.3, 0.4), **changes) -> Round:
    row = Round(
        index=index,
        failures=["a", "b", "c", "d", "e"],
        num_parameters=12,
        degrees_of_freedom=12,
        plan=[(index, 0)],
        adapter_norm=1.0 + index,
        update_norm=2.0 + index,
        fold_retention=1.0,
        train_accuracy=accuracy + 0.2,
        train_strict=accuracy + 0.15,
        metrics=_scores(accuracy),
        fixed=["a", "b"],
        broken=["z"],
        steps=steps,
        seconds={"train": 1.0},
        tokens=10,
        rewards=list(rewards),
        signal=[1.0] * len(rewards),
        seed=0,
        v_sha256="",
        weights_fingerprint="",
    )
    for name, value in changes.items():
        setattr(row, name, value)
    return row


@pytest.fixture
def ledger(tmp_path):
    """`ledger("name", base accuracy, rows)`: a ledger on disk."""

    def write(name: str, base: float, rows: list[Round]) -> Ledger:
        (tmp_path / name).mkdir()
        made = Ledger(tmp_path / name)
        made.append(Base(["a"], base + 0.2, base + 0.15, _scores(base), "", 1.0))
        for row in rows:
            made.append(row)
        return made

    return write


def _line(ax, label: str):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line


def _texts(ax) -> dict[str, tuple[float, float]]:
    return {text.get_text(): text.get_position() for text in ax.texts}


def test_accuracy_starts_at_the_untrained_model_and_shows_mean_seeds_and_range(ledger):
    one = ledger("s0", 0.4, [_round(0, 0.5), _round(1, 0.6)])
    two = ledger("s1", 0.4, [_round(0, 0.7), _round(1, 0.9)])
    ax = plots.plot_accuracy({"rotate": [one, two]})
    np.testing.assert_allclose(_line(ax, "rotate").get_xydata(), [(0, 0.4), (1, 0.6), (2, 0.75)])
    thin = [list(line.get_ydata()) for line in ax.lines if line.get_label() != "rotate"]
    assert thin == [[0.4, 0.5, 0.6], [0.4, 0.7, 0.9]]
    (band,) = ax.collections
    corners = {(float(x), round(float(y), 6)) for x, y in band.get_paths()[0].vertices}
    assert {(1, 0.5), (1, 0.7), (2, 0.6), (2, 0.9)} <= corners
    assert _texts(ax)["rotate"][1] == pytest.approx(0.75)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rounds", "test accuracy")


def test_accuracy_against_steps_counts_optimizer_steps_and_train_is_a_split(ledger):
    run = ledger("run", 0.4, [_round(0, 0.5, steps=8), _round(1, 0.6, steps=3)])
    ax = plots.plot_accuracy({"rotate": [run]}, split="train", against="steps")
    np.testing.assert_allclose(_line(ax, "rotate").get_xydata(), [(0, 0.6), (8, 0.7), (11, 0.8)])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("optimizer steps", "train accuracy")


def test_seeds_of_different_length_have_a_mean_as_far_as_all_reach(ledger):
    short = ledger("short", 0.4, [_round(0, 0.5)])
    long = ledger("long", 0.4, [_round(0, 0.7), _round(1, 0.9)])
    ax = plots.plot_accuracy({"rotate": [short, long]})
    np.testing.assert_allclose(_line(ax, "rotate").get_ydata(), [0.4, 0.6])
    assert [0.4, 0.7, 0.9] in [list(line.get_ydata()) for line in ax.lines]


@pytest.mark.parametrize("against, x", [("rounds", 1), ("steps", 24)])
def test_a_run_of_one_round_is_a_marker_that_says_its_steps(ledger, against, x):
    run = ledger("run", 0.4, [_round(0, 0.5), _round(1, 0.6)])
    once = ledger("once", 0.4, [_round(0, 0.55, steps=24)])
    ax = plots.plot_accuracy({"rotate": [run], "TinyLoRA": [once]}, against=against)
    marker = _line(ax, "TinyLoRA\n(1 round, 24 steps)")
    np.testing.assert_allclose(marker.get_xydata(), [(x, 0.55)])
    assert marker.get_linestyle() == "None" and marker.get_marker() == "D"
    assert "TinyLoRA\n(1 round, 24 steps)" in _texts(ax)


def test_failures_are_stacked_from_fixed_and_the_rest_with_broken_below(ledger):
    run = ledger("run", 0.4, [_round(0, 0.5), _round(1, 0.6, fixed=["c"], broken=["x", "y", "z"])])
    ax = plots.plot_failures(run)
    bars = [[(bar.get_y(), bar.get_height()) for bar in group] for group in ax.containers]
    assert bars == [[(0, 2), (0, 1)], [(2, 3), (1, 4)], [(0, -1), (0, -3)]]
    assert set(_texts(ax)) == {"fixed", "still wrong", "broken"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("round", "training examples")
    assert ax.yaxis.get_major_formatter()(-3, 0) == "3"


def test_bars_of_axes_that_share_heights_are_not_cut_off():
    _, axes = plt.subplots(1, 2, sharey=True)
    plots.plot_outcomes([5], [2], [1], axes[0])
    plots.plot_outcomes([50], [20], [40], axes[1])
    low, high = axes[0].get_ylim()
    assert low <= -40 and high >= 50


def test_rewards_run_over_all_steps_with_rounds_parted(ledger):
    rows = [_round(0, 0.5, rewards=[0.1, 0.3]), _round(1, 0.5, rewards=[], skipped="no signal"), _round(2, 0.6)]
    ax = plots.plot_rewards(ledger("run", 0.4, rows))
    np.testing.assert_allclose(ax.lines[0].get_xydata()[:, 0], range(1, 7))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.1, 0.3, 0.1, 0.2, 0.3, 0.4])
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [2.5]
    means = [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 2.5]
    np.testing.assert_allclose(means, [0.2, 0.25])
    assert set(_texts(ax)) == {"round 0", "2"}


def test_norms_of_each_round_and_of_the_sum(ledger):
    ax = plots.plot_norms(ledger("run", 0.4, [_round(0, 0.5), _round(1, 0.6)]))
    np.testing.assert_allclose(_line(ax, "this round").get_xydata(), [(0, 1.0), (1, 2.0)])
    np.testing.assert_allclose(_line(ax, "all so far").get_xydata(), [(0, 2.0), (1, 3.0)])
    assert ax.get_ylim()[0] == 0


def test_rank_is_drawn_from_round_one_on():
    ax = plots_rank.plot_rank({"rotate": [2, 4, 6], "top": [[2, 2, 2], [2, 2, 2]]})
    np.testing.assert_allclose(_line(ax, "rotate").get_xydata(), [(1, 2), (2, 4), (3, 6)])
    np.testing.assert_allclose(_line(ax, "top").get_ydata(), [2, 2, 2])


def test_overlap_is_one_with_itself_and_zero_between_disjoint_blocks():
    eye = torch.eye(6)
    updates = [LowRankUpdate({"w": (eye[:, i : i + 2], eye[i : i + 2])}) for i in (0, 2, 0)]
    ax = plots_rank.plot_overlap(updates)
    np.testing.assert_allclose(ax.collections[0].get_array(), [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=1e-12)


def test_spectrum_colours_blocks_by_round_and_leaves_the_rest_grey():
    ax = plots_rank.plot_spectrum(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), rank=2, rounds=2)
    assert [bar.get_height() for bar in ax.patches] == [5, 4, 3, 2, 1]
    colors = [bar.get_facecolor() for bar in ax.patches]
    assert colors[0] == colors[1] != colors[2] == colors[3] != colors[4]
    assert set(_texts(ax)) == {"0", "1"}


def test_matrix_is_shown_on_a_scale_around_zero():
    image = plots_rank.plot_matrix([[1.0, -3.0]], "dW").collections[0]
    assert image.get_clim() == (-3.0, 3.0)
    assert plots_rank.plot_matrix([[1.0, -3.0]], limit=5).collections[0].get_clim() == (-5, 5)
    assert plots_rank.plot_matrix([[0.0, 0.0]]).collections[0].get_clim() == (-1, 1)


def test_labels_of_lines_that_end_together_do_not_overlap():
    ax = plots.plot_curves({"one": [0, 0.5], "two": [0, 0.5], "three\n(two lines)": [0, 0.501], "far": [0, 1.0]})
    ax.figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert len(boxes) == 4
    assert all(below.y1 <= above.y0 for below, above in zip(boxes, boxes[1:], strict=False))
    assert max(box.x1 for box in boxes) <= ax.figure.bbox.x1, "labels must not leave the figure"


def test_figures_are_drawn_into_given_axes_and_a_figure_made_anew_has_the_same_bytes(tmp_path):
    def write(folder: str) -> list[bytes]:
        fig, ax = plt.subplots()
        assert plots.plot_curves({"a": [1, 2]}, ax=ax) is ax
        paths = plots.save_figure(fig, "name", tmp_path / folder)
        assert paths == [tmp_path / folder / "name.png", tmp_path / folder / "name.svg"]
        return [path.read_bytes() for path in paths]

    assert write("once") == write("again")


def test_empty_or_wrong_input_is_one_clear_error(ledger, tmp_path):
    run = ledger("run", 0.4, [_round(0, 0.5, rewards=[])])
    with pytest.raises(BoostError, match="no runs"):
        plots.plot_accuracy({})
    with pytest.raises(BoostError, match="no ledgers for 'rotate'"):
        plots.plot_accuracy({"rotate": []})
    with pytest.raises(BoostError, match="rounds or steps"):
        plots.plot_accuracy({"rotate": [run]}, against="hours")
    with pytest.raises(BoostError, match="not scored on the held-out split 'dev'; it has test"):
        plots.plot_accuracy({"rotate": [run]}, split="dev")
    with pytest.raises(BoostError, match="no rewards"):
        plots.plot_rewards(run)
    for plot in (plots.plot_failures, plots.plot_rewards, plots.plot_norms):
        with pytest.raises(BoostError, match="no finished round"):
            plot(Ledger(tmp_path / "nowhere"))
    for plot in (plots.plot_curves, plots_rank.plot_rank, plots_rank.plot_overlap):
        with pytest.raises(BoostError, match="got no"):
            plot({})
    with pytest.raises(BoostError, match="'top' has no values"):
        plots_rank.plot_rank({"top": []})
