"""The protein tasks: chains, rows, labels, splits, and the synthetic task's fixed rule."""

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from boostlib import load_task
from boostlib.common.errors import BoostError, DataError
from boostlib.common.stable import fingerprint_json
from boostlib.evaluation.metrics import composition
from boostlib.tasks.chains import AMINO_ACIDS, cut_evenly, read_chains, split_prompt
from boostlib.tasks.clusters import clusters, leaks, nearest, split_by_cluster
from boostlib.tasks.order_binding import marked
from boostlib.tasks.synthetic_binding import binds, charge, pairs

HEADER = "PDB,Ligand Sequences,Receptor Sequences,KD(M),split\n"
FOLDER = os.environ.get("BOOSTLIB_DATA")
needs_data = pytest.mark.skipif(
    not FOLDER or not (Path(FOLDER) / "ppb_affinity/filtered.csv").is_file(),
    reason="BOOSTLIB_DATA names no folder with ppb_affinity/filtered.csv",
)


@pytest.fixture
def table(tmp_path):
    """table(rows, header=HEADER, **settings): a binding task over a CSV file with these lines."""

    def write(rows, header=HEADER, **settings):
        path = tmp_path / "own.csv"
        path.write_text(header + "".join(f"{row}\n" for row in rows))
        return load_task("binding", file=path, **settings)

    return write


def good(splits=("train", "val", "test")) -> list[str]:
    """A binder and a non-binder a split."""
    return [f"{k}{split[0]},ACD{k}EF,GHI,{kd},{split}".replace("0E", "KE").replace("1E", "LE")
            for split in splits for k, kd in enumerate(("1e-7", "1.1e-7"))]  # fmt: skip


# --- the synthetic task


def test_the_synthetic_data_are_those_that_were_fixed_before_any_model_saw_them():
    task = load_task("synthetic_binding")
    prints = {s: fingerprint_json([[e.id, e.prompt, e.answer] for e in task.split(s)]) for s in task.splits}
    assert prints == {
        "train": "1c5bf72948de42642ae148c8418c89dc2056302d2fbe5c671df4ca2b852f4e10",
        "validation": "faadb2b05d6a07877de0356d080f57a135df8d560b84fa115cabaccc11dc7e19",
        "test": "0ed85970bbb3d7ed85d4e3a6f65e27ea1fe5cde1c49422bbcf1a81daa3eac00b",
    }


@pytest.mark.parametrize(
    ("h3", "charges", "neighbours", "answer"),
    [("ARDYW", 0, 0, False), ("KGSFDY", 0, 0, False), ("SRYAFDY", 0, 1, True), ("GKKSFDY", 1, 0, True),
     ("FRWEEDD", -3, 2, True), ("YKDDDDY", -3, 1, False), ("GGSGS", 0, 0, False)],
)  # fmt: skip
def test_the_hidden_rule(h3, charges, neighbours, answer):
    assert (charge(h3), pairs(h3), binds(h3)) == (charges, neighbours, answer)


def test_synthetic_splits_are_balanced_disjoint_and_keep_to_their_size():
    task, larger = load_task("synthetic_binding"), load_task("synthetic_binding", train=400)
    prompts = [e.prompt for split in task.splits for e in task.split(split)]
    assert len(set(prompts)) == len(prompts) == 320 + 96 + 256
    for split in task.splits:
        assert Counter(e.answer for e in task.split(split)) == {
            "0": task.__dict__[split] // 2,
            "1": task.__dict__[split] // 2,
        }
    assert larger.split("test") == task.split("test") and larger.split("validation") == task.split("validation")
    assert larger.split("train")[:200] != load_task("synthetic_binding", seed=1).split("train")[:200]
    with pytest.raises(BoostError, match="test must be a whole number of at least 2"):
        load_task("synthetic_binding", test=0)


# --- the task of order alone


def test_the_order_data_are_those_that_were_fixed_before_boosting_was_looked_at():
    task = load_task("order_binding")
    assert {s: fingerprint_json([[e.id, e.prompt, e.answer] for e in task.split(s)]) for s in task.splits} == {
        "train": "92cef26159483489ef949e9aff85bdb1b25c1932b2ad1e9c095eb14ce3b03432",
        "validation": "767736bd14e11e47a2718a11f8ffb3acbfed068f5cf0056c1414fb6d7238c496",
        "test": "0787ef40952a69ddac83b3fe5afdcc239574f6300a88ee4c59433b67091c9eda",
    }


def test_marked_residues_in_their_order():
    assert marked("GWSKAYD") == "acac" and marked("GSTA") == ""


def test_order_binding_asks_for_order_and_for_nothing_else():
    task, larger = load_task("order_binding"), load_task("order_binding", train=1200)
    assert larger.split("test") == task.split("test") and larger.split("validation") == task.split("validation")
    for split in task.splits:
        assert Counter(e.answer for e in task.split(split)) == {a: task.__dict__[split] // 2 for a in "01"}
        for one in task.split(split):
            orders = marked(one.prompt[5:-7])
            assert one.answer == str(int(orders == "aca")) and sorted(orders) == ["a", "a", "c"]
            assert 17 <= len(one.prompt) <= 27
    loops = [e.prompt[5:-4] for split in task.splits for e in task.split(split)]
    assert len(set(loops)) == len(loops) == 1000 + 256 + 512


def test_order_binding_has_the_same_residues_in_both_classes():
    examples = load_task("order_binding", train=4000).split("train")
    binders = np.array([e.answer == "1" for e in examples])
    counts = composition(examples)
    assert np.abs(counts[binders].mean(axis=0) - counts[~binders].mean(axis=0))[:20].max() < 0.01


# --- chains


def test_chains_are_read_without_blanks_and_in_upper_case():
    assert read_chains(" ac d , EF\n", "row 1") == "ACD,EF"
    assert split_prompt("ACD,EF|GHI") == ["ACD", "EF", "GHI"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("ACJD", "row 7.*'J', residue 3 of chain 1"), ("ACD,E*F", r"'\*', residue 2 of chain 2"),
     ("ACD,,EF", "chain 2 of 3"), ("", "no chain at all"), (" , ", "no chain at all"), ("AC-D", "'-'"), ("AC1", "'1'")],
)  # fmt: skip
def test_bad_letters_and_empty_chains_are_named(text, message):
    with pytest.raises(DataError, match=message):
        read_chains(text, "row 7")


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(6, 200))
@example([33, 34, 34], 100)
def test_cutting_is_even_and_uses_the_room_there_is(lengths, most):
    chains = [AMINO_ACIDS[i] * n for i, n in enumerate(lengths)]
    cut = [len(chain) for chain in cut_evenly(chains, most)]
    assert sum(cut) == min(sum(lengths), most) or (sum(lengths) > most and most - sum(cut) < len(chains))
    assert all(c <= n for c, n in zip(cut, lengths, strict=True))
    shortened = [c for c, n in zip(cut, lengths, strict=True) if c < n]
    # nobody keeps more than those who were cut, but for the one residue that does not divide: 33, 34, 34 in 100
    assert not shortened or max(cut) - min(shortened) <= 1
    with pytest.raises(DataError, match="raise max_length"):
        cut_evenly(chains + ["A"] * most, most)


# --- rows of a file


def test_a_file_with_kd_and_split_is_read_as_it_is(table):
    task = table([*good(), "9a,ACD,GH,5e-10,train"])
    rows = task.split("train")
    assert [(e.id, e.prompt, e.answer, e.kind) for e in rows] == [
        ("0t-1", "ACDKEF|GHI", "1", "0t"),
        ("1t-2", "ACDLEF|GHI", "0", "1t"),
        ("9a-7", "ACD|GH", "1", "9a"),
    ]
    assert len(task.split("validation")) == len(task.split("test")) == 2
    assert table([*good(), "9a,ACD,GH,5e-10,train"], threshold=200).settings() != task.settings()


def test_labels_and_other_columns_through_the_same_door(table):
    rows = ["ACD,1,train", "ACE,no,train", "ACF,true,valid", "ACG,0,valid", "ACH,yes,test", "ACI,False,test"]
    task = table(rows, "heavy,binder,split\n", ligand="heavy", receptor=None, label="binder")
    assert [[e.answer for e in task.split(split)] for split in task.splits] == [["1", "0"]] * 3
    assert [e.id for e in task.split("train")] == ["row-1", "row-2"]
    with pytest.raises(DataError, match="row 2: binder is 'maybe'"):
        table(["ACD,1,train", "ACE,maybe,train"], "heavy,binder,split\n", ligand="heavy", receptor=None,
              label="binder").split("train")  # fmt: skip


@pytest.mark.parametrize("kd", ["0", "-1e-9", "", "nan", "inf", ">1e-5", "strong"])
def test_a_kd_that_is_no_positive_number_is_named_with_its_row(table, kd):
    with pytest.raises(DataError, match=r"row 7: KD\(M\) is .*label="):
        table([*good(), f"x,ACD,GH,{kd},train"]).split("train")


def test_every_bad_row_is_told_at_once(table):
    rows = [*good(), "x,AJD,GH,1e-9,train", "x,ACD,,1e-9,train", *["x,ACD,GH,0,train"] * 6]
    with pytest.raises(DataError) as caught:
        table(rows).split("test")
    text = str(caught.value)
    assert "row 7, Ligand Sequences: 'J'" in text and "row 8, Receptor Sequences: no chain" in text
    assert "and 3 more bad rows" in text


def test_missing_columns_are_named_and_the_found_ones_too(table, tmp_path):
    with pytest.raises(
        DataError, match=r"no column 'KD\(M\)'; found: PDB, Ligand Sequences, Receptor Sequences, split"
    ):
        table(["a,ACD,EF,train"], "PDB,Ligand Sequences,Receptor Sequences,split\n").split("train")
    with pytest.raises(DataError, match="does not exist"):
        load_task("binding", file=tmp_path / "nowhere.csv").split("train")
    with pytest.raises(DataError, match="is empty"):
        table([]).split("train")


def test_one_class_alone_is_refused(table):
    rows = [row.replace("1.1e-7", "1e-8") for row in good()]
    with pytest.raises(DataError, match="split 'train': all 2 rows are binders: change threshold, now 100 nM"):
        table(rows).split("train")


def test_unknown_and_empty_splits_are_refused(table):
    with pytest.raises(DataError, match="row 7: split is 'holdout'"):
        table([*good(), "x,ACD,GH,1e-9,holdout"]).split("train")
    with pytest.raises(DataError, match="no row has split 'validation'"):
        table(good(("train", "test"))).split("validation")


@pytest.mark.parametrize(
    ("setting", "value"), [("threshold", 0), ("threshold", "high"), ("similarity", -1), ("seed", 1.5)]
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(BoostError, match=setting):
        load_task("binding", **{setting: value})


# --- splits by similarity


def families(count: int, members: int) -> list[str]:
    random = np.random.default_rng(0)
    base = ["".join(random.choice(list(AMINO_ACIDS), 80)) for _ in range(count)]
    return [chain[:k] + "A" + chain[k + 1 :] for chain in base for k in range(members)]


def test_relatives_stay_together_and_strangers_do_not():
    texts = families(12, 5)
    found = clusters(texts, 0.5)
    assert len(set(found)) == 12 and all(len(set(found[5 * k : 5 * k + 5])) == 1 for k in range(12))
    assert nearest(texts[:5], texts[5:]).max() < 0.2 < 0.9 < nearest(texts[:1], texts[1:]).min()
    placed = split_by_cluster(found, {"train": 0.8, "validation": 0.1, "test": 0.1}, seed=0)
    assert placed == split_by_cluster(found, {"train": 0.8, "validation": 0.1, "test": 0.1}, seed=0)
    assert Counter(placed)["train"] >= 40 and len(set(placed)) == 3


def test_a_file_without_a_split_is_split_by_cluster_and_says_so(table, caplog):
    rows = [f"p{i // 5},{chain},GHI,{'1e-9' if i % 2 else '1e-3'}" for i, chain in enumerate(families(12, 5))]
    task = table(rows, "PDB,Ligand Sequences,Receptor Sequences,KD(M)\n")
    with caplog.at_level(logging.WARNING):
        groups = [{e.kind for e in task.split(split)} for split in task.splits]
    assert sum(map(len, groups)) == 12 and len(set.union(*groups)) == 12
    assert "has no column 'split', so its 60 rows were split by 12 sequence clusters" in caplog.text
    assert all(row["shared complexes"] == row["near duplicates"] == 0 for row in leaks(task))


def test_one_cluster_alone_cannot_be_split(table):
    rows = [f"p,{chain},GHI,{'1e-9' if i % 2 else '1e-3'}" for i, chain in enumerate(families(1, 20))]
    with pytest.raises(DataError, match="20 rows form 1 cluster"):
        table(rows, "PDB,Ligand Sequences,Receptor Sequences,KD(M)\n").split("train")


def test_leaks_are_found(table, caplog):
    rows = good() + ["0t,ACDKEFAAAA,GHI,1e-9,test"]
    with caplog.at_level(logging.WARNING):
        found = {row["splits"]: row for row in leaks(table(rows))}
    assert "2 complexes (0t, ...) lie in more than one split" in caplog.text
    assert found["train, test"]["shared complexes"] == 2  # 0t and 1t: train and test begin with the same letter
    assert found["train, test"]["near duplicates"] >= 2 and found["train, validation"]["shared complexes"] == 0


# --- the published format


@pytest.mark.data
@needs_data
def test_the_real_rows():
    task = load_task("binding", data_dir=FOLDER)
    shares = {s: np.mean([e.answer == "1" for e in task.split(s)]) for s in task.splits}
    assert {s: len(task.split(s)) for s in task.splits} == {"train": 4146, "validation": 492, "test": 520}
    assert {s: round(share, 2) for s, share in shares.items()} == {"train": 0.71, "validation": 0.50, "test": 0.48}
    assert all(row["shared complexes"] == 0 for row in leaks(task))
    assert all(row["near duplicates"] == 0 for row in leaks(task) if "train" in row["splits"])
