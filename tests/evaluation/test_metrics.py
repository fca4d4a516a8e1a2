"""Metrics of classifiers, floors, what a ledger keeps of logits, the section's table and its pictures."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import CoinTask, FakeTrainer, config
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from boostlib import boost, load_task
from boostlib.analysis.recorded import recorded_runs
from boostlib.analysis.tables import classification_table, rounds_table
from boostlib.evaluation.metrics import (
    _resampled,
    bootstrap_metrics,
    composition,
    floors,
    load_floors,
    metrics,
    save_floors,
)
from boostlib.plots.protein import plot_balance, plot_lengths, plot_losses, plot_roc, plot_sizes
from boostlib.records.rows import Scores, pack_bits, pack_logits


@pytest.fixture
def run(tiny_classifier, tiny_protein_tokenizer, tmp_path):
    model, task = tiny_classifier(), CoinTask(train=12, test=20)
    return boost(model, tiny_protein_tokenizer, task, FakeTrainer(), config(2), tmp_path / "run", progress=False)


def test_metrics_by_hand():
    found = metrics(np.array([1, 1, 1, 0, 0], bool), np.array([2.0, 1.0, -1.0, 0.5, -3.0]))
    assert found == {"accuracy": pytest.approx(0.6), "F1": pytest.approx(2 / 3), "AUC": pytest.approx(5 / 6)}
    assert np.isnan(metrics(np.ones(3, bool), np.ones(3))["AUC"])


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_calling_everything_a_binder_has_the_f1_that_the_docstring_says(share):
    labels = np.arange(1000) < 1000 * share
    found = metrics(labels, np.ones(1000))
    assert found == {"accuracy": share, "F1": pytest.approx(2 * share / (1 + share)), "AUC": 0.5}


def test_intervals_cover_the_mean_and_shrink_with_more_examples():
    rng, widths = np.random.default_rng(0), []
    for n in (50, 800):
        labels = rng.random(n) < 0.5
        logits = labels + rng.normal(size=(3, n)) * 1.5
        found = bootstrap_metrics(labels, logits, resamples=200)
        for name, (mean, low, high) in found.items():
            assert low <= mean <= high
            assert mean == pytest.approx(np.mean([metrics(labels, row)[name] for row in logits]))
        widths.append(found["AUC"][2] - found["AUC"][1])
    assert widths[1] < widths[0] / 2
    assert found == bootstrap_metrics(labels, logits, resamples=200)


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e6, 1e6, width=32)))
def test_logits_in_a_ledger_keep_sign_and_size(logits):
    bits = np.arange(len(logits)) % 3 == 0
    scores = Scores(0.5, 0.5, pack_bits(bits), pack_logits(logits))
    assert ((scores.scores() > 0) == (logits > 0)).all()
    assert np.allclose(scores.scores(), np.clip(logits, -60000, 60000), rtol=1e-3, atol=1e-7)
    assert (scores.labels() == ((logits > 0) == bits)).all()


@pytest.mark.parametrize("ties", [False, True])
def test_resamples_are_scored_as_scikit_learn_scores_them(ties):
    rng = np.random.default_rng(1)
    labels, logits = rng.random((20, 40)) < 0.4, rng.normal(size=(20, 40))
    logits = np.round(logits) if ties else logits
    found = _resampled(labels, logits)
    assert np.allclose(found.T, [list(metrics(y, z).values()) for y, z in zip(labels, logits, strict=True)])
    assert np.isnan(_resampled(np.ones((1, 4), bool), np.ones((1, 4)))[2])


def test_composition_counts_each_side():
    row = composition([load_task("synthetic_binding").split("test")[0]])[0]
    assert len(row) == 21 and row[:20].sum() == pytest.approx(1.0)
    two = composition(CoinTask().split("test"))
    assert two.shape == (6, 42)


def test_floors_read_no_model_and_composition_finds_what_composition_holds():
    task = load_task("synthetic_binding")
    labels = np.array([e.answer == "1" for e in task.split("test")])
    found = {name: metrics(labels, logits) for name, logits in floors(task).items()}
    assert found["always binds"] == {"accuracy": 0.5, "F1": pytest.approx(2 / 3), "AUC": 0.5}
    assert 0.6 < found["composition, logistic regression"]["AUC"] < 0.95


def test_the_table_begins_with_the_floors_and_the_probe(run):
    labels = run.base.metrics["test"].labels()
    table = classification_table({"ours": [run.ledger]}, "test", {"always binds": np.ones(len(labels))})
    assert list(table.index) == ["always binds", "linear probe", "ours"]
    probe = metrics(labels, run.base.metrics["test"].scores())
    assert table.loc["linear probe", "AUC"].startswith(f"{probe['AUC']:.3f} (")
    assert run.base.metrics["test"].accuracy == pytest.approx(probe["accuracy"])
    change = run.rounds[-1].metrics["test"].accuracy - probe["accuracy"]
    assert table.loc["ours", "gain"].startswith(f"{change:+.3f} (") and table.loc["always binds", "gain"] == ""
    assert table.loc["ours", "parameters a round"] == 6


def test_a_classifiers_rounds_show_f1_and_auc_instead_of_strictness(run):
    columns = list(rounds_table(run.ledger).columns)
    assert {"test", "test F1", "test AUC"} <= set(columns) and not any("strict" in column for column in columns)


def test_sizes_of_recorded_runs_are_kinds_of_their_own(run, tmp_path):
    run.dir.rename(tmp_path / "protein-demo-rotate4032-seed0")
    assert list(recorded_runs(tmp_path, "protein", "demo")) == ["BoostLoRA (rotate), 4,032 numbers"]
    (tmp_path / "protein-demo-rotate4032-seed0").rename(tmp_path / "protein-demo-rotate-seed0")
    assert list(recorded_runs(tmp_path, "protein", "demo")) == ["BoostLoRA (rotate)"]


def test_pictures_show_the_numbers_that_they_were_given(run):
    task = CoinTask(train=12, test=20)
    labels = run.base.metrics["test"].labels()
    ax = plot_roc({"probe": (labels, run.base.metrics["test"].scores()), "perfect": (labels, labels * 2.0 - 1)})
    assert "perfect (1.00)" in [text.get_text() for text in ax.get_legend().get_texts()]
    x, y = ax.lines[1].get_data()
    assert (y[1:] == 1).all() and y[0] == 0
    ax = plot_balance(task)
    assert [bar.get_height() for bar in ax.patches] == [
        np.mean([e.answer == "1" for e in task.split(split)]) for split in task.splits
    ]
    ax = plot_lengths(task, limit=20)
    assert ax.get_title().endswith("are cut to 20 tokens") and not ax.get_title().startswith("0 ")
    ax = plot_sizes({"ours": [run.ledger]})
    gain = run.rounds[-1].metrics["test"].accuracy - run.base.metrics["test"].accuracy
    (dots,) = [line for line in ax.lines if line.get_marker() == "."]
    assert dots.get_ydata().tolist() == [pytest.approx(gain)]
    ledger = SimpleNamespace(rounds=[SimpleNamespace(validation=[0.7, 0.5, 0.6], steps=4, index=0),
                                     SimpleNamespace(validation=[0.5, 0.9], steps=2, index=1)])  # fmt: skip
    curves = plot_losses(ledger).lines
    assert [line.get_xydata().tolist() for line in curves[1::2]] == [[[2.0, 0.5]], [[4.0, 0.5]]]  # the best of each
    plt.close("all")


def test_floors_are_read_back_as_they_were_written(tmp_path):
    task = CoinTask(train=30, test=20)
    save_floors(task, tmp_path / "floors.json")
    for (name, logits), (again, read) in zip(
        floors(task).items(), load_floors(tmp_path / "floors.json").items(), strict=True
    ):
        assert name == again and np.allclose(logits, read, atol=1e-4)
