"""Who was fixed and who fell back, against runs whose every change is known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import FakeTrainer, ParityTask, config

from boostlib import Ledger, boost, plots_dynamics
from boostlib.dynamics import (
    costs_table,
    flow_table,
    histories,
    rounds_wrong,
    states,
    stopping_table,
    train_size,
    waiting,
)
from boostlib.errors import BoostError
from boostlib.report import versus_table
from boostlib.rounds import Base, Round, Scores, pack_bits

# training problems a..h; right unless listed
WRONG = ["abcd", "bcde", "cda", "dab", "da"]  # after 0, 1, 2, 3, 4 rounds


def _scores(right: int) -> dict[str, Scores]:
    return {"test": Scores(right / 4, right / 4, pack_bits([i < right for i in range(4)]))}


def _round(index: int, before: str, after: str, right: int) -> Round:
    return Round(
        index=index, failures=list(before), num_parameters=12, degrees_of_freedom=12, plan=[(index, 0)],
        adapter_norm=1.0, update_norm=1.0 + index, fold_retention=1.0, train_accuracy=1 - len(after) / 8,
        train_strict=0.0, metrics=_scores(right), fixed=[c for c in before if c not in after],
        broken=[c for c in after if c not in before], steps=2, seconds={"train": 3.0, "merge": 1.0, "evaluate": 2.0},
        tokens=5, rewards=[0.5], signal=[1.0], seed=0, v_sha256="", weights_fingerprint="",
    )  # fmt: skip


@pytest.fixture
def ledger(tmp_path):
    """`ledger("name", seed, test answers right by round)`: a run of the history above, on disk."""

    def write(name: str = "run", seed: int = 0, right=(1, 1, 2, 3, 2)) -> Ledger:
        made = Ledger(tmp_path / name)
        made.dir.mkdir()
        made.create({"identity": {"seed": seed}})
        made.append(Base(list(WRONG[0]), 0.5, 0.0, _scores(right[0]), "", 1.0))
        for t in range(4):
            made.append(_round(t, WRONG[t], WRONG[t + 1], right[t + 1]))
        return made

    return write


def test_histories_are_the_failures_after_every_round(ledger):
    wrong = histories(ledger())
    for t, ids in enumerate(WRONG):
        assert set(wrong.index[wrong[t]]) == set(ids)
        assert set(ids) == set(ledger(f"again{t}").failures_after(t))
    assert set(wrong.index) == set("abcde")


def test_states_part_the_failures_by_their_past(ledger):
    table = states(ledger())
    assert table["never right"].tolist() == [4, 3, 2, 1, 1]  # d alone in the end
    assert table["fell back"].tolist() == [0, 0, 1, 2, 1]  # a; a and b; a
    assert table["broken"].tolist() == [0, 1, 0, 0, 0]  # e
    assert table["fixed"].tolist() == [0, 1, 1, 1, 2]
    assert (table.iloc[:, :3].sum(axis=1) == [len(ids) for ids in WRONG]).all()


def test_flows_tell_first_times_from_repeats(ledger):
    table = flow_table(ledger())
    assert table["fixed"].tolist() == [1, 1, 1, 0]  # a, b, c
    assert table["regained"].tolist() == [0, 1, 0, 1]  # e after round 1, b after round 3
    assert table["broken"].tolist() == [1, 0, 0, 0]  # e
    assert table["lost again"].tolist() == [0, 1, 1, 0]  # a, b
    assert table["left"].tolist() == [4, 3, 3, 2]
    assert table["regression rate"].tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 5, 0])
    moved = table["fixed"] + table["regained"] - table["broken"] - table["lost again"]
    assert (table["failures"] - moved == table["left"]).all()


def test_waiting_and_rounds_wrong(ledger):
    np.testing.assert_allclose(waiting(ledger()), [1, 0.75, 0.5, 0.25, 0.25])
    assert rounds_wrong(ledger("other")).to_dict() == {"a": 4, "b": 3, "c": 3, "d": 5, "e": 1}


def test_train_size_needs_a_failure(ledger, tmp_path):
    assert train_size(ledger()) == 8
    perfect = Ledger(tmp_path / "perfect")
    perfect.dir.mkdir()
    perfect.append(Base([], 1.0, 1.0, _scores(4), "", 1.0))
    with pytest.raises(BoostError, match="no failures"):
        train_size(perfect)
    with pytest.raises(BoostError, match="run it first"):
        histories(Ledger(tmp_path / "nothing"))


def test_stopping_early_is_compared_with_going_on(ledger):
    table = stopping_table([ledger("s0"), ledger("s1", 1, (1, 2, 3, 3, 3))])
    assert table["test"].tolist() == [0.25, 0.375, 0.625, 0.75, 0.625]
    assert table["gain of going on"].tolist() == [0.375, 0.25, 0, -0.125, 0]
    assert (table["gain low"] <= table["gain of going on"]).all()
    assert (table["gain of going on"] <= table["gain high"]).all()
    assert (table["low"] <= table["test"]).all() and (table["test"] <= table["high"]).all()


def test_costs_are_the_ledgers(ledger):
    table = costs_table(ledger())
    assert table["steps"].tolist() == [2] * 4 and table["train"].tolist() == [3.0] * 4
    assert table["update norm"].tolist() == [1, 2, 3, 4]


def test_methods_are_compared_on_the_seeds_that_both_have(ledger):
    one, two = ledger("a0", 0, (1, 1, 1, 1, 4)), ledger("a1", 1, (1, 1, 1, 1, 3))
    groups = {"ours": [one, two], "theirs": [ledger("b1", 1, (1, 1, 1, 1, 2)), ledger("b2", 2)]}
    row = versus_table(groups, "theirs").loc["ours"]
    assert (row.seeds, row.test, row["test, theirs"], row.difference) == ("1", 0.75, 0.5, 0.25)
    with pytest.raises(BoostError, match="share no seed"):
        versus_table({"ours": [one], "theirs": [two]}, "theirs")
    with pytest.raises(BoostError, match="no runs of 'nobody'"):
        versus_table(groups, "nobody")


def test_figures_show_the_tables(ledger):
    run = ledger()
    groups = {"rotate": [run, ledger("s1", 1)]}
    flows = plots_dynamics.plot_flows(run)
    assert [bar.get_height() for bar in flows.patches][::2] == [len(ids) for ids in WRONG]
    assert plots_dynamics.plot_histories(run).images[0].get_array().sum() == sum(map(len, WRONG))
    wait = plots_dynamics.plot_waiting(groups).lines[-1]
    np.testing.assert_allclose(wait.get_ydata(), waiting(run))
    going = plots_dynamics.plot_going_on(groups).lines[0]
    np.testing.assert_allclose(going.get_ydata(), stopping_table(groups["rotate"])["test"])
    seconds = plots_dynamics.plot_seconds(run)
    assert [bar.get_height() for bar in seconds.patches] == [3.0] * 4 + [2.0] * 4 + [1.0] * 4
    stacked = plots_dynamics.plot_states(run)
    assert len(stacked.collections) == 4
    plt.close("all")


def test_a_real_run_agrees_with_its_own_failures(tiny_llama, tiny_tokenizer, tmp_path):
    run = boost(tiny_llama(), tiny_tokenizer, ParityTask(), FakeTrainer(), config(4), tmp_path / "r", progress=False)
    wrong = histories(run.ledger)
    for t in range(5):
        assert set(wrong.index[wrong[t]]) == set(run.ledger.failures_after(t))
    assert train_size(run.ledger) == ParityTask().train
