"""The figures of notebooks 04 and 05 are drawn from run directories alone."""

import re
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from helpers import FakeTrainer, ParityTask, config

from boostlib import BoostConfig, boost
from boostlib.analysis.recorded import LABELS, recorded_runs
from boostlib.common.errors import BoostError
from boostlib.experiments.reproduce import ROOT
from boostlib.plots import figures, rank


@pytest.fixture
def runs(tiny_llama, tiny_tokenizer, tmp_path):
    """A folder of three tiny runs, named as recorded runs are."""
    for method, rounds, settings in (("rotate", 3, {}), ("top", 3, {"strategy": "top"}),
                                     ("monolithic", 1, {"strategy": "top", "rank": 6})):  # fmt: skip
        chosen: BoostConfig = replace(config(rounds, **settings), seed=1)
        folder = tmp_path / f"math-growth-{method}-seed1"
        boost(tiny_llama(), tiny_tokenizer, ParityTask(), FakeTrainer(), chosen, folder, progress=False)
    return tmp_path


def test_rebuild_draws_every_figure_from_ledgers(runs, tiny_llama, tmp_path):
    made = figures.rebuild(tmp_path / "out", runs, seed=1, model=tiny_llama())
    assert len(made) == 18 and all(path.stat().st_size > 5000 for path in made)
    assert {path.suffix for path in made} == {".png", ".svg"}
    again = figures.rebuild(tmp_path / "again", runs, seed=1, model=tiny_llama())
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(made, again, strict=True))
    plt.close("all")


def test_what_is_missing_is_named(runs, tiny_llama, tmp_path):
    with pytest.raises(BoostError, match="no run of seed 0; there are 1"):
        figures.rebuild(tmp_path / "out", runs, seed=0, model=tiny_llama())
    with pytest.raises(BoostError, match="math-other-rotate"):
        figures.rebuild(tmp_path / "out", runs, name="other", model=tiny_llama())


def test_gains_show_every_method_and_seed(runs):
    groups = recorded_runs(runs, "math", "growth")
    ax = rank.plot_gains(groups)
    assert [text.get_text() for text in ax.get_yticklabels()] == list(groups)
    run = groups[LABELS["top"]][0]
    gain = run.rounds[-1].metrics["test"].accuracy - run.base.metrics["test"].accuracy
    place = list(groups).index(LABELS["top"])
    assert any(line.get_xdata()[0] == pytest.approx(gain) for line in ax.lines if line.get_ydata()[0] == -place - 0.25)
    plt.close("all")


def test_the_notebooks_save_what_rebuild_draws_and_the_committed_figures_are_all_there():
    saved = set()
    for notebook in ("04_rank_growth", "05_failure_dynamics"):
        source = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text()
        saved |= set(re.findall(r'save_figure\([^,]+, \\"(\w+)\\"', source))
    drawn = set(re.findall(r'^ {8,12}"(0[45]_\w+)":', Path(figures.__file__).read_text(), re.MULTILINE))
    assert saved == drawn | {"04_cores"}  # which is drawn by hand, from no run
    assert {path.name for path in (ROOT / "figures").glob("0[45]_*")} == {
        f"{s}.{k}" for s in saved for k in ("png", "svg")
    }
