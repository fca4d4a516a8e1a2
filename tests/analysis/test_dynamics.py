"""Who was fixed and who fell back, against runs whose every change is known."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import FakeTrainer, ParityTask, config

from boostlib import Gate, Ledger, boost
from boostlib.analysis.dynamics import (
    costs_table,
    flow_table,
    histories,
    states,
    stopping_table,
    train_size,
    waiting,
)
from boostlib.analysis.tables import gains_table, versus_table
from boostlib.common.errors import BoostError
from boostlib.evaluation.evaluate import paired_bootstrap
from boostlib.plots import dynamics as plots_dynamics
from boostlib.records.rows import Base, Round, Scores, pack_bits

# training problems a..h; right unless listed
WRONG = ["abcd", "bcde", "cda", "dab", "da"]  # after 0, 1, 2, 3, 4 rounds


def _scores(right: int) -> dict[str, Scores]:
    return {"test": Scores(right / 4, right / 4, pack_bits([i < right for i in range(4)]))}


def _bits(*rights: int) -> np.ndarray:
    """(seeds, 4) who of the four test problems was right, where so many were."""
    return np.array([[i < right for i in range(4)] for right in rights])


def _round(index: int, before: str, after: str, right: int, **changed) -> Round:
    row = Round(
        index=index, failures=list(before), num_parameters=12, degrees_of_freedom=12, plan=[(index, 0)],
        adapter_norm=1.0, update_norm=1.0 + index, fold_retention=1.0, train_accuracy=1 - len(after) / 8,
        train_strict=0.0, metrics=_scores(right), fixed=[c for c in before if c not in after],
        broken=[c for c in after if c not in before], steps=2, seconds={"train": 3.0, "merge": 1.0, "evaluate": 2.0},
        tokens=5, rewards=[0.5], signal=[1.0], seed=0, v_sha256="", weights_fingerprint="",
    )  # fmt: skip
    return replace(row, **changed)


@pytest.fixture
def ledger(tmp_path):
    """`ledger("name", seed, test answers right by round)`: a run of the history above, or of another, on disk. changed:
    what rounds have that is not so in `_round`, by index."""

    def write(name: str = "run", seed: int = 0, right=(1, 1, 2, 3, 2), wrong=WRONG, changed=None) -> Ledger:
        made = Ledger(tmp_path / name)
        made.dir.mkdir()
        made.create({"identity": {"seed": seed}})
        made.append(Base(list(wrong[0]), 1 - len(wrong[0]) / 8, 0.0, _scores(right[0]), "", 1.0))
        for t, (before, after) in enumerate(zip(wrong, wrong[1:], strict=False)):
            made.append(_round(t, before, after, right[t + 1], **(changed or {}).get(t, {})))
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


def test_skipped_and_rejected_rounds_fix_and_break_nothing(ledger):
    rejected = {"extra": {"gate": {"decision": "reject", "reason": "noise"}}}
    run = ledger(
        wrong=["abcd", "bcde", "bcde", "bcde", "cda"], changed={1: {"skipped": "nothing to learn"}, 2: rejected}
    )
    wrong = histories(run)
    assert [set(wrong.index[wrong[t]]) for t in range(5)] == [set("abcd"), *[set("bcde")] * 3, set("cda")]
    assert states(run)["never right"].tolist() == [4, 3, 3, 3, 2]
    assert flow_table(run)[["fixed", "regained", "broken", "lost again"]].sum(axis=1).tolist() == [2, 0, 0, 3]
    assert flow_table(run)["left"].tolist() == [4, 4, 4, 3]
    assert costs_table(run)["merged"].tolist() == [True, False, False, True]


def test_waiting(ledger):
    np.testing.assert_allclose(waiting(ledger()), [1, 0.75, 0.5, 0.25, 0.25])
    with pytest.raises(BoostError, match="no failures, so no problem waits"):
        waiting(ledger("perfect", wrong=["", "a"]))
    wrong = histories(ledger("other")).sum(axis=1)  # in how many states
    assert wrong.to_dict() == {"a": 4, "b": 3, "c": 3, "d": 5, "e": 1}


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
    right = [(1, 1, 2, 3, 2), (1, 2, 3, 3, 3)]
    table = stopping_table([ledger("s0", 0, right[0]), ledger("s1", 1, right[1])])
    assert table["test"].tolist() == [0.25, 0.375, 0.625, 0.75, 0.625]
    assert table["gain of going on"].tolist() == [0.375, 0.25, 0, -0.125, 0]
    bits = [_bits(*rights) for rights in zip(*right, strict=True)]  # by rounds, (seeds, 4) each
    for t in range(5):
        going_on, state = paired_bootstrap(bits[t], bits[-1]), paired_bootstrap(0 * bits[t], bits[t])
        assert tuple(table.loc[t, ["gain of going on", "gain low", "gain high"]]) == going_on
        assert tuple(table.loc[t, ["test", "low", "high"]]) == state
    assert ((table["low"] < table["test"]) & (table["test"] < table["high"])).all()
    moved = table.loc[:1]  # those whose answers differ from the last ones in both seeds
    assert (moved["gain low"] < moved["gain of going on"]).all()
    assert (moved["gain of going on"] < moved["gain high"]).all()


def test_seeds_are_cut_to_the_shortest_run(ledger):
    table = stopping_table([ledger("s0"), ledger("s1", 1, (1, 2, 4), wrong=WRONG[:3])])
    assert table["test"].tolist() == [0.25, 0.375, 0.75]
    assert table["gain of going on"].tolist() == [0.5, 0.375, 0]


@pytest.mark.parametrize("table", [flow_table, costs_table, lambda run: stopping_table([run]),
                                   lambda run: versus_table({"a": [run], "b": [run]}, "b")])  # fmt: skip
def test_tables_need_a_finished_round(ledger, table):
    assert len(table(ledger()))
    with pytest.raises(BoostError, match="begun has no finished round"):
        table(ledger("begun", wrong=WRONG[:1]))


@pytest.mark.parametrize("split", ["dev", "train"])
def test_tables_name_the_splits_that_there_are(ledger, split):
    run = ledger()
    for table in (
        lambda: stopping_table([run], split),
        lambda: versus_table({"a": [run], "b": [run]}, "b", split),
        lambda: gains_table({"a": [run]}, split),
    ):
        with pytest.raises(BoostError, match=f"not scored on the held-out split '{split}'; it has test"):
            table()


def test_costs_are_the_ledgers(ledger):
    table = costs_table(ledger())
    assert table["steps"].tolist() == [2] * 4 and table["train"].tolist() == [3.0] * 4
    assert table["update norm"].tolist() == [1, 2, 3, 4] and table["merged"].all()


def test_methods_are_compared_on_the_seeds_that_both_have(ledger):
    one, two = ledger("a0", 0, (1, 1, 1, 1, 4)), ledger("a1", 1, (1, 1, 1, 1, 3))
    groups = {"ours": [one, two], "theirs": [ledger("b1", 1, (1, 1, 1, 1, 2)), ledger("b2", 2)]}
    row = versus_table(groups, "theirs").loc["ours"]
    assert (row.seeds, row.test, row["test, theirs"], row.difference) == ("1", 0.75, 0.5, 0.25)
    assert row["by seed"] == "+0.250"
    with pytest.raises(BoostError, match="share no seed"):
        versus_table({"ours": [one], "theirs": [two]}, "theirs")
    with pytest.raises(BoostError, match="no runs of 'nobody'"):
        versus_table(groups, "nobody")


def test_versus_gives_the_paired_interval_and_every_seed(ledger):
    ours = [ledger("a1", 1, (1, 1, 1, 1, 1)), ledger("a0", 0, (1, 1, 1, 1, 4))]
    theirs = [ledger("b0", 0, (1, 1, 1, 1, 1)), ledger("b1", 1, (1, 1, 1, 1, 2))]
    row = versus_table({"ours": ours, "theirs": theirs}, "theirs").loc["ours"]
    found = (row.difference, row.low, row.high)
    assert found == paired_bootstrap(_bits(1, 2), _bits(4, 1)) and row.difference == 0.25
    assert row.low < row.difference < row.high
    assert (row.seeds, row["by seed"]) == ("0, 1", "+0.750 -0.250")


def test_seconds_are_those_of_the_parts_that_a_run_has(ledger):
    tuned = ledger("tuned", wrong=WRONG[:2], changed={0: {"seconds": {"train": 3.0, "evaluate": 2.0}}})
    bars = plots_dynamics.plot_seconds(tuned)
    assert [bar.get_height() for bar in bars.patches] == [3, 2]
    assert {text.get_text() for text in bars.texts} == {"train", "evaluate"}
    greedy = {"probe": 4.0, "train": 3.0, "merge": 1.0, "evaluate": 2.0}
    bars = plots_dynamics.plot_seconds(ledger("greedy", wrong=WRONG[:3], changed={1: {"seconds": greedy}}))
    assert [bar.get_height() for bar in bars.patches] == [0, 4, 3, 3, 2, 2, 1, 1]
    assert [bar.get_y() for bar in bars.patches] == [0, 0, 0, 4, 3, 7, 5, 9]
    assert {text.get_text() for text in bars.texts} == {"probe", "train", "evaluate", "merge"}
    plt.close("all")


def test_figures_show_the_tables(ledger):
    run, other = ledger(), ledger("s1", 1, wrong=["abcd", "cd", "c", "", "ab"])
    groups = {"rotate": [run, other]}
    flows = plots_dynamics.plot_flows(run)
    assert [bar.get_height() for bar in flows.patches][::2] == [len(ids) for ids in WRONG]
    assert plots_dynamics.plot_histories(run).collections[0].get_array().sum() == sum(map(len, WRONG))
    one, two, mean = (line.get_ydata() for line in plots_dynamics.plot_waiting(groups).lines)
    np.testing.assert_allclose(one, [1, 0.75, 0.5, 0.25, 0.25])
    np.testing.assert_allclose(two, [1, 0.5, 0.25, 0, 0])
    np.testing.assert_allclose(mean, [1, 0.625, 0.375, 0.125, 0.125])
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


def test_a_real_run_with_skipped_and_rejected_rounds_agrees_too(tiny_llama, tiny_tokenizer, tmp_path):
    run = boost(
        tiny_llama(), tiny_tokenizer, ParityTask(), FakeTrainer(skip=(1,)), config(6), tmp_path / "r",
        gate=Gate(guard=None, alpha=0.5, patience=None), progress=False,
    )  # fmt: skip
    idle = [row.index for row in run.rounds if not row.merged]
    assert run.rounds[1].skipped and any(row.rejected for row in run.rounds) and len(idle) < 6  # else nothing is tested
    wrong = histories(run.ledger)
    for t in range(7):
        assert set(wrong.index[wrong[t]]) == set(run.ledger.failures_after(t))
    assert all(set(wrong.index[wrong[t]]) == set(run.rounds[t].failures) for t in range(6))  # as they were evaluated
    assert all((wrong[t] == wrong[t + 1]).all() for t in idle)
    assert [t for t, merged in enumerate(costs_table(run.ledger)["merged"]) if not merged] == idle
