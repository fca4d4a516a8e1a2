"""The figures of notebooks 04 and 05 are drawn from run directories alone."""

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from helpers import FakeTrainer, ParityTask, config

from boostlib import BoostConfig, boost
from boostlib.analysis import growth
from boostlib.analysis.recorded import LABELS, growth_runs, of_seed, recorded_runs, several_rounds, shown_runs
from boostlib.common.errors import BoostError
from boostlib.experiments.reproduce import ROOT
from boostlib.plots import dynamics, rank
from boostlib.plots.style import save_figure, use_style


@pytest.fixture
def runs(tiny_llama, tiny_tokenizer, tmp_path):
    """A folder of three tiny runs, named as recorded runs are."""
    for method, rounds, settings in (("rotate", 3, {}), ("top", 3, {"strategy": "top"}),
                                     ("monolithic", 1, {"strategy": "top", "rank": 6})):  # fmt: skip
        chosen: BoostConfig = replace(config(rounds, **settings), seed=1)
        folder = tmp_path / f"math-growth-{method}-seed1"
        boost(tiny_llama(), tiny_tokenizer, ParityTask(), FakeTrainer(), chosen, folder, progress=False)
    return tmp_path


def drawn(folder, model) -> dict:
    """The figures of notebooks 04 and 05 that need run directories alone, as the notebooks make them."""
    groups = growth_runs(folder)
    shown = {name: of_seed(groups[LABELS[name]], 1) for name in ("rotate", "top", "monolithic")}
    updates = {label: growth.recorded_updates(ledger, model) for label, ledger in shown.items()}
    tables = {label: growth.growth_table(found) for label, found in updates.items()}
    several, pair = several_rounds(groups), shown_runs(groups, 1)
    return {
        "04_rank_growth": rank.rank_growth(tables),
        "04_spans": rank.spans(updates),
        "04_eps": rank.plot_eps(tables["rotate"]).figure,
        "04_ablation": rank.ablation(groups),
        "05_flows": dynamics.flows(pair),
        "05_histories": dynamics.problem_histories(pair),
        "05_waiting": dynamics.waiting(several, pair),
        "05_costs": dynamics.costs(several, shown["rotate"]),
        "05_going_on": dynamics.plot_going_on(several).figure,
    }


def test_every_figure_is_drawn_from_ledgers_and_the_same_each_time(runs, tiny_llama, tmp_path):
    use_style()
    made, again = (
        [path for name, fig in drawn(runs, tiny_llama()).items() for path in save_figure(fig, name, tmp_path / folder)]
        for folder in ("out", "again")
    )
    assert len(made) == 18 and all(path.stat().st_size > 5000 for path in made)
    assert {path.suffix for path in made} == {".png", ".svg"}
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(made, again, strict=True))
    plt.close("all")


def test_what_is_missing_is_named(runs):
    with pytest.raises(BoostError, match="no run of seed 0; there are 1"):
        shown_runs(growth_runs(runs), seed=0)
    assert growth_runs(runs, "other") == {}


def test_gains_show_every_method_and_seed(runs):
    groups = recorded_runs(runs, "math", "growth")
    ax = rank.plot_gains(groups)
    assert [text.get_text() for text in ax.get_yticklabels()] == list(groups)
    run = groups[LABELS["top"]][0]
    gain = run.rounds[-1].metrics["test"].accuracy - run.base.metrics["test"].accuracy
    place = list(groups).index(LABELS["top"])
    assert any(line.get_xdata()[0] == pytest.approx(gain) for line in ax.lines if line.get_ydata()[0] == -place - 0.25)
    plt.close("all")


def test_what_the_notebooks_save_is_committed():
    saved = set()
    for notebook in ("04_rank_growth", "05_failure_dynamics"):
        source = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text()
        saved |= set(re.findall(r'save_figure\([^,]+, \\"(\w+)\\"', source))
    assert len(saved) == 13
    assert {path.name for path in (ROOT / "figures").glob("0[45]_*")} == {
        f"{s}.{k}" for s in saved for k in ("png", "svg")
    }
