"""Texts with labels: a user's files, what is wrong with them, who is held out; and the generated tickets."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from boostlib import load_task
from boostlib.common.errors import BoostError, DataError
from boostlib.config import data_hash
from boostlib.tasks.labelled_texts import LabelledTexts
from boostlib.tasks.tickets import MATTERS, Tickets

BANKING = Path(__file__).resolve().parents[3] / "shared" / "data" / "banking77"


def table(path: Path, rows, header="text,label") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def lines(path: Path, rows) -> Path:
    path.write_text("\n".join(json.dumps(row) if not isinstance(row, str) else row for row in rows) + "\n")
    return path


# --- a user's own


def test_one_file_is_held_out_by_class_and_a_hash_of_its_texts(tmp_path):
    rows = [f"{'abc'[i % 3]} text {i},{'xyz'[i % 3]}" for i in range(60)] + ["rare,w", "rarer,w"]
    task = load_task("labelled_texts", path=table(tmp_path / "all.csv", rows))
    assert task.classes == ("w", "x", "y", "z") and task.splits == ("train", "validation", "test")
    counts = {split: Counter(e.answer for e in task.split(split)) for split in task.splits}
    assert counts["test"] == dict.fromkeys("xyz", 4) and counts["validation"] == dict.fromkeys("xyz", 3)
    assert counts["train"] == {**dict.fromkeys("xyz", 13), "w": 2}
    again = LabelledTexts(path=table(tmp_path / "again.csv", rows[::-1]))
    for split in task.splits:  # wherever a row stands
        assert {e.prompt for e in task.split(split)} == {e.prompt for e in again.split(split)}
    assert {e.id for e in task.split("train")} < {f"line {n}" for n in range(2, 64)} and task.split("test")[
        0
    ].kind in "xyz"


def test_splits_are_named_by_rows_or_by_files_in_csv_tsv_or_jsonl(tmp_path):
    rows = [
        {"text": f"t {i}", "label": i % 2, "split": s, "id": f"n{i}"}
        for i, s in enumerate(("train", "dev", "test", "guard") * 4)
    ]
    task = LabelledTexts(path=lines(tmp_path / "rows.jsonl", rows))
    assert task.classes == ("0", "1") and task.splits == ("train", "validation", "test", "guard")
    assert [e.id for e in task.split("guard")] == ["n3", "n7", "n11", "n15"]
    folder = tmp_path / "folder"
    folder.mkdir()
    table(folder / "train.tsv", ["a, b\tx", "c\ty"], "question\tintent")
    with gzip.open(folder / "val.csv.gz", "wt") as file:
        file.write('question,intent\n"two\nlines, and ""more""",x\n')
    lines(folder / "test.jsonl", [{"question": "d", "intent": "y"}])
    lines(folder / "notes.jsonl", ["not a split"])
    task = LabelledTexts(path=folder, text="question", label="intent")
    assert [e.prompt for e in task.split("validation")] == ['two\nlines, and "more"']
    assert [(e.id, e.prompt, e.answer) for e in task.split("train")] == [
        ("train.tsv, line 2", "a, b", "x"), ("train.tsv, line 3", "c", "y")]  # fmt: skip
    assert "folder" not in json.dumps(task.settings()) and task.settings()["label"] == "intent"


def test_everything_that_is_wrong_with_a_file_is_told_at_once_with_its_line(tmp_path):
    rows = ["fine,x", ",x", "no label,", "too,many,cells", "  ,y", '"two\nlines",x', "other case,X", "only one cell"]
    with pytest.raises(DataError) as found:
        load_task("labelled_texts", path=table(tmp_path / "bad.csv", rows))
    message = str(found.value)
    assert "bad.csv has 6 problems; correct these lines:" in message
    for what in (
        "line 3: 'text' is missing or empty; fields found: label",
        "line 4: 'label' is missing or empty; fields found: text",
        "line 5: it has more cells than columns",
        "line 6: 'text' should be a text that is not blank, not '  '",
        "line 9: the label 'X' differs by case alone from 'x' in line 2",
        "line 10: 'label' is missing or empty",
    ):
        assert what in message
    rows = [{"text": "a", "label": True}, {"text": 3, "label": "x"}, "{", "[1]", {"text": "a", "label": 1.5},
            {"text": "b", "label": "y", "split": "later"}, {"id": 1, "text": "c", "label": "y"},
            {"id": "1", "text": "d", "label": "x"}]  # fmt: skip
    with pytest.raises(DataError) as found:
        load_task("labelled_texts", path=lines(tmp_path / "bad.jsonl", rows))
    for what in ("line 1: 'label' should be a text or a whole number, not True", "line 2: 'text' should be a text",
                 "line 3: not JSON", "line 4: a JSON object is expected", "line 5: 'label' should be", "not 1.5",
                 "line 6: 'split' should be one of train, validation, test, guard, not 'later'",
                 "line 8: the id '1' is that of line 7 already"):  # fmt: skip
        assert what in str(found.value)
    with pytest.raises(DataError, match="30 problems.*(?s:.*)  and 10 more"):
        load_task("labelled_texts", path=table(tmp_path / "many.csv", ["fine,x", *[",x"] * 30]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,x", "b,x"], "holds 2 training rows, and 1 class in all"),
        ([], "is empty: it should hold one text with its label a row"),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        load_task("labelled_texts", path=table(tmp_path / "few.csv", rows))


def test_files_that_are_not_there_or_not_tables_are_named(tmp_path):
    with pytest.raises(DataError, match="load_task"):
        load_task("labelled_texts")
    with pytest.raises(DataError, match="cannot be read"):
        load_task("labelled_texts", path=tmp_path / "none.csv")
    with pytest.raises(DataError, match="holds no file named after a split, such as train.csv"):
        load_task("labelled_texts", path=tmp_path)
    (tmp_path / "x.csv").write_text('text,label\n"never closed,x\n')
    with pytest.raises(DataError, match="cannot be read"):
        load_task("labelled_texts", path=tmp_path / "x.csv")
    with pytest.raises(DataError, match="'label' is missing or empty; fields found: text, category"):
        load_task("labelled_texts", path=table(tmp_path / "y.csv", ["a,b"], "text,category"))
    with pytest.raises(BoostError, match="hold_out"):
        load_task("labelled_texts", path=tmp_path / "y.csv", hold_out=1.0)


def test_costs_name_classes_of_the_data(tmp_path):
    path = table(tmp_path / "t.csv", ["a,x", "b,y"])
    assert load_task("labelled_texts", path=path, pair_costs={"x": {"y": 4}}).settings()["pair_costs"] == {
        "x": {"y": 4}
    }
    with pytest.raises(BoostError, match="'z' is no class; the classes: 'x', 'y'"):
        load_task("labelled_texts", path=path, pair_costs={"x": {"z": 4}})


@pytest.mark.data
@pytest.mark.skipif(not BANKING.is_dir(), reason=f"no copy of banking77 in {BANKING}")
def test_banking77_has_its_published_sizes():
    task = load_task("labelled_texts", path=BANKING, label="category")
    assert len(task.classes) == 77 and len(task.split("test")) == 3080
    assert len(task.split("train")) + len(task.split("validation")) == 10_003
    assert set(Counter(e.answer for e in task.split("test")).values()) == {40}


# --- tickets


def test_tickets_are_those_that_were_tuned_on():
    found = {split: data_hash(Tickets(), split)[:12] for split in Tickets.splits}
    assert found == {"train": "b2366f795171", "validation": "74993b8f79cc", "test": "6a25a7c19bd0"}


def test_tickets_are_even_distinct_and_depend_on_their_seed_alone():
    task = Tickets(train=81)
    for split in task.splits:
        counts = Counter(e.answer for e in task.split(split))
        assert set(counts) == set(MATTERS) and max(counts.values()) - min(counts.values()) <= 1
    prompts = [e.prompt for split in task.splits for e in task.split(split)]
    assert len(set(prompts)) == len(prompts) and not any(p[0].islower() or "{" in p for p in prompts)
    assert [e.prompt for e in Tickets().split("test")] == [e.prompt for e in task.split("test")]
    assert [e.prompt for e in Tickets(seed=1).split("test")] != [e.prompt for e in task.split("test")]


def test_every_wording_of_a_desk_is_filled_in_and_its_mistakes_cost_what_the_table_says():
    text = " ".join(e.prompt for e in Tickets().split("train"))
    for wordings in MATTERS.values():
        for wording in wordings:
            assert max(wording.replace("}", "{").split("{"), key=len).strip(" ,?").lower() in text.lower(), wording
    assert Tickets().settings()["pair_costs"]["security"]["sales"] == 8
    with pytest.raises(BoostError, match="a whole number of at least 8"):
        Tickets(test=3)
