"""Tables and pictures of greedy rounds say what the ledgers say."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from boostlib import BoostError, Ledger
from boostlib.analysis.recorded import variants
from boostlib.analysis.tables import choice_table, versus_table
from boostlib.plots import greedy as plots_greedy

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"
NAMES = {"greedy": "math-equal-greedy", "rotate": "math-equal-rotate"}


@pytest.fixture(scope="module")
def groups() -> dict[str, list[Ledger]]:
    return variants(RUNS, NAMES)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_every_seed_of_a_variant_is_found(groups):
    assert [ledger.header["identity"]["seed"] for ledger in groups["greedy"]] == [0, 1, 2]
    with pytest.raises(BoostError, match="no runs math-nothing-greedy-seed<k> for 'none'"):
        variants(RUNS, NAMES | {"none": "math-nothing-greedy"})


@pytest.mark.parametrize("after", [None, 1, 2])
def test_the_table_adds_up_what_the_ledgers_hold(groups, after):
    table = choice_table(groups, "rotate", after=after)
    for label, ledgers in groups.items():
        row, rounds = table.loc[label], [row for ledger in ledgers for row in ledger.rounds[:after]]
        last = [ledger.rounds[:after][-1] for ledger in ledgers]
        assert row.test == pytest.approx(np.mean([one.metrics["test"].accuracy for one in last]))
        assert row["test gain"] == pytest.approx(row.test - ledgers[0].base.metrics["test"].accuracy)
        assert row["fixed / broken"] == f"{sum(len(r.fixed) for r in rounds)} / {sum(len(r.broken) for r in rounds)}"
    assert table.loc["greedy", "steps + probing"] == "6 + 2" and table.loc["rotate", "steps + probing"] == "8 + 0"
    assert table.loc["rotate", "probing"] == "0%" and table.loc["greedy", "probing"] != "0%"
    assert table.loc["rotate", "difference"] == ""
    found = versus_table(groups, "rotate", after=after).loc["greedy"]
    assert found.difference == pytest.approx(table.loc["greedy", "test"] - table.loc["rotate", "test"])
    assert table.loc["greedy", "difference"] == f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def test_chosen_blocks_are_written_where_they_were_chosen(groups):
    ledger = groups["greedy"][0]
    ax = plots_greedy.plot_chosen(ledger)
    texts = {(int(t.get_position()[1]), int(t.get_position()[0])): int(t.get_text()) for t in ax.texts}
    assert texts == {(t, g): block for t, row in enumerate(ledger.rounds) for g, (block, _) in enumerate(row.plan)}


def test_candidates_show_their_best_and_what_rotate_takes():
    slopes = np.array([[1.0, 2.0, 0.5], [0.1, 5.0, 0.2]])
    lines = {line.get_label(): line.get_xydata() for line in plots_greedy.plot_candidates(slopes).lines}
    assert lines["greedy"].tolist() == [[1, 5.0]] and lines["rotate, first round"].tolist() == [[0, 1.0]]


def test_the_heat_map_sorts_modules_by_kind_and_survives_zeros():
    norms = np.array([[1.0, 10.0], [100.0, 0.0], [1000.0, 1.0], [10.0, 10.0]])
    ax = plots_greedy.plot_gradient(norms, ["0.q", "0.k", "1.q", "1.k"])
    assert ax.collections[0].get_array().tolist() == [[0, 1], [3, 0], [2, 0], [1, 1]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["q", "k"]
