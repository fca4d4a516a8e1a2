"""Fields in texts are what the tables of analysis say of the same runs."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from boostlib import BoostError, Ledger
from boostlib.analysis.cited import Cited, ledgers, planned_rank
from boostlib.analysis.recorded import recorded_runs
from boostlib.analysis.tables import classification_table, gains_table, versus_table

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"


@pytest.fixture(scope="module")
def cited() -> Cited:
    return Cited(RUNS)


def test_gains_and_intervals_are_those_of_the_table(cited):
    row = gains_table({"one": ledgers(RUNS, "code-demo-rotate")}, "neighbour").iloc[0]
    found = cited.fill("{code-demo-rotate base neighbour} {* end neighbour} {* gain neighbour}", "code-demo-rotate")
    assert [float(number) for number in found.split()] == pytest.approx([row.base, row.boosted, row.gain])
    assert cited.number("code-demo-rotate low neighbour") == row.low
    assert (cited.number("code-demo-rotate fixed"), cited.number("code-demo-rotate broken")) == (row.fixed, row.broken)


def test_a_difference_is_paired_and_an_at_sign_cuts_both_sides(cited):
    groups = {"a": ledgers(RUNS, "math-equal-rotate"), "b": ledgers(RUNS, "math-equal-greedy")}
    expected = versus_table(groups, "b", after=1).loc["a"]
    assert cited.number("math-equal-rotate@1 - math-equal-greedy gain") == expected.difference
    assert cited.number("math-equal-rotate - math-equal-greedy@1 high") == expected.high
    assert cited.number("math-equal-rotate@1 - math-equal-greedy@1 by seed") == expected["by seed"]


def test_a_classifiers_metrics_are_those_of_the_table(cited):
    table = classification_table(recorded_runs(RUNS, "protein", "demo"))
    field = "{* last F1:.3f} ({* last low F1:.3f} to {* last high F1:.3f})"
    assert cited.fill(field, "protein-demo-full") == table.loc["full fine-tuning", "F1"]
    assert table.loc["linear probe", "AUC"].startswith(cited.fill("{protein-demo-full first AUC:.3f}"))


def test_rounds_steps_and_what_moved_are_the_ledgers(cited):
    run = Ledger(RUNS / "math-equal-greedy-seed1")
    assert cited.fill("{* rounds} {* steps} {* batches} {* which}", run.dir.name) == "3 6 6 + 2 1"
    assert cited.fill("{* moves}", run.dir.name).split() == [f"{len(r.fixed)}/{len(r.broken)}" for r in run.rounds]
    curve = [row.metrics["test"].accuracy for row in run.rounds]
    assert cited.fill("{* by round}", run.dir.name) == " ".join(f"{accuracy:.3f}" for accuracy in curve)
    assert cited.number(f"{run.dir.name} best") == 1 + curve.index(max(curve))
    assert cited.number(f"{run.dir.name} later") == pytest.approx(curve[-1] - curve[0])
    assert cited.number(f"{run.dir.name} left") == len(run.failures_after(3))


def test_percent_and_halves(cited):
    assert cited.fill("{code-demo-rotate base:.3f} {code-demo-rotate base:.1p}") == "0.513 51.3"  # 41 of 80
    assert cited.fill("{math-growth-full numbers:,}") == "134,515,008"


@pytest.mark.parametrize(
    ("name", "rank"),
    [("math-growth-rotate", 16), ("math-growth-top", 2), ("math-growth-monolithic", 16), ("math-long-rotate", 64)],
)
def test_the_planned_rank_is_two_for_every_block(name, rank):
    assert {planned_rank(run) for run in ledgers(RUNS, name)} == {rank}


def test_the_rank_of_a_lora_is_the_measured_one_and_all_weights_have_none(cited):
    assert cited.fill("{math-growth-lora rank} {math-growth-full rank}") == "1 –"


def test_a_rank_that_differs_between_groups_is_refused():
    rounds = [SimpleNamespace(merged=True, plan=plan) for plan in ([(0, 0), (0, 0)], [(0, 1), (1, 0)])]
    run = SimpleNamespace(dir="odd", rounds=rounds, header={"identity": {"adapter": {"rank": 2, "strategy": "greedy"}}})
    with pytest.raises(BoostError, match=r"odd: the rank is not one number, but \[2, 4\]"):
        planned_rank(run)


def test_measurements_are_cited_by_their_name(cited):
    assert cited.fill("{bench/round-cpu-1 boostlib whole:.0f}") == "74"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("math-nothing-rotate end", "no finished runs math-nothing-rotate"),
        ("math-demo-rotate luck", "'luck' begins with no measure"),
        ("math-demo-rotate - math-demo-top luck", "begins with no measure; there are gain, low, high, by seed"),
        ("bench/round-cpu-1 luck", "measured no 'luck'"),
    ],
)
def test_what_cannot_be_cited_is_named(cited, field, message):
    with pytest.raises(BoostError, match=message):
        cited.number(field)
