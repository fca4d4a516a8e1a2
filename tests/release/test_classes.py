"""The report by error class: its numbers are those of a count by hand, and costs are checked before they are used."""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import FakeTrainer, ParityTask, config

from boostlib import BoostError, Ledger, boost, evaluate, plot_classes
from boostlib.release.classes import class_report
from boostlib.tasks.base import Example


@dataclass
class Kinds(ParityTask):
    """The parity task in two classes, with costs where a test gives some."""

    costs: dict | None = None

    def split(self, name):
        return [replace(e, kind="<even> & $5" if i % 3 else "third") for i, e in enumerate(super().split(name))]


@pytest.fixture(scope="module")
def run(tiny_llama, tiny_tokenizer, tmp_path_factory):
    folder, task = tmp_path_factory.mktemp("classes"), Kinds(train=30, test=18)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOOSTLIB_CACHE", str(folder / "cache"))
        trainer = FakeTrainer(scale=10.0)
        return boost(tiny_llama(), tiny_tokenizer, task, trainer, config(2), folder / "run", progress=False)


@pytest.fixture(scope="module")
def found(run, tiny_llama, tiny_tokenizer):
    """split -> (ids, kinds, right before, right after), from evaluating both models anew."""
    task = Kinds(train=30, test=18)
    both = {}
    for split in ("train", "test"):
        before, after = (evaluate(m, tiny_tokenizer, task, split, progress=False) for m in (tiny_llama(), run.model))
        kinds = np.array([example.kind for example in task.split(split)])
        both[split] = (np.array(before.ids), kinds, before.correct, after.correct)
    return both


def test_every_class_agrees_with_a_count_by_hand(run, found):
    table = class_report(run.ledger, Kinds(train=30, test=18))
    for split, (_, kinds, before, after) in found.items():
        for kind in ("third", "<even> & $5", "(all)"):
            row, of = table.loc[(split, kind)], (kinds == kind) | (kind == "(all)")
            assert (row["n"], row["before"], row["after"]) == (of.sum(), before[of].mean(), after[of].mean())
            assert row["fixed"] == (after & ~before & of).sum() and row["broken"] == (before & ~after & of).sum()
            assert row["cost saved"] == pytest.approx(row["fixed"] - row["broken"])
            assert row["low"] <= row["gain"] <= row["high"]
    assert table["fixed"].sum() > 0 and table["broken"].sum() > 0  # else nothing was counted
    assert set(table.index.get_level_values("split")) == {"train", "test"} and len(table) == 6


def test_costs_weigh_each_failure_by_its_id_or_else_its_class(run, found):
    ids, kinds, before, after = found["train"]
    dear = ids[np.flatnonzero(before != after)[0]]
    table = class_report(run.ledger, Kinds(train=30, test=18, costs={"third": 10.0, str(dear): 100.0}))
    paid = np.where(ids == dear, 100.0, np.where(kinds == "third", 10.0, 1.0))
    for kind in ("third", "<even> & $5", "(all)"):
        row, of = table.loc[("train", kind)], (kinds == kind) | (kind == "(all)")
        assert row["cost before"] == pytest.approx((paid * ~before)[of].sum())
        assert row["cost after"] == pytest.approx((paid * ~after)[of].sum())
        assert row["cost saved"] == pytest.approx(row["cost before"] - row["cost after"])
        assert row["saved low"] <= row["cost saved"] <= row["saved high"]


def test_an_examples_own_cost_counts_where_the_task_names_none(run, found):
    @dataclass(frozen=True)
    class Priced(Example):
        cost: float = 7.0

    class Cases(Kinds):
        def split(self, name):
            return [Priced(**vars(example)) for example in super().split(name)]

    _, _, before, _ = found["train"]
    assert (
        class_report(run.ledger, Cases(train=30, test=18)).loc[("train", "(all)"), "cost before"]
        == 7.0 * (~before).sum()
    )


def test_unknown_names_in_costs_are_all_listed(run):
    with pytest.raises(BoostError, match="costs of fourth, nobody: no id and no class.*third"):
        class_report(run.ledger, Kinds(train=30, test=18, costs={"nobody": 1.0, "fourth": 2.0, "third": 3.0}))


def test_another_task_is_refused(run):
    with pytest.raises(BoostError, match="train split differs.*'parity'"):
        class_report(run.ledger, Kinds(train=29, test=18))


def test_without_classes_there_is_one_row_a_split(run):
    table = class_report(run.ledger, ParityTask(train=30, test=18))
    assert table.index.tolist() == [("train", "(no class)"), ("test", "(no class)")]


def test_an_empty_run_is_said_to_be_empty(tmp_path):
    with pytest.raises(BoostError, match="no finished evaluation"):
        class_report(Ledger(tmp_path), ParityTask())


def test_the_figure_shows_every_class(run):
    table = class_report(run.ledger, Kinds(train=30, test=18))
    ax = plot_classes(table)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{name} ({row['n']:.0f})" for name, row in table.loc["test"].iterrows()]
    drawn = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert drawn == [x for _, row in table.loc["test"].iterrows() for x in (row["before"], row["after"])]
    ax.figure.canvas.draw()  # a $ in a name is no formula
    other = plot_classes(table, "train", ax=plt.subplots()[1])
    assert "train" in other.get_xlabel()
    plt.close("all")
