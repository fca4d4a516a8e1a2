"""A user's error log: rows are checked all at once, scored as they ask, and grouped where they have no class."""

import json

import numpy as np
import pandas as pd
import pytest

from boostlib import BoostError, load_task
from boostlib.common.errors import DataError
from boostlib.common.stable import philox
from boostlib.experiments.reproduce import ROOT
from boostlib.release.grouping import cluster, embed, suggest_classes, write_classes
from boostlib.sandbox import TaskError
from boostlib.tasks.error_log import score_exact, score_label, score_number, score_regex

CASE = {"id": "a", "prompt": "2 + 2 =", "expected": "4"}
INCIDENT = ROOT / "data/incident/incident.jsonl"


@pytest.fixture
def load(tmp_path):
    """load([row, ...], stop=...): the task of a log with these rows; a text stands as it is."""

    def make(rows, **settings):
        path = tmp_path / "log.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return load_task("error_log", path=path, **settings)

    return make


# --- what a log holds


def test_rows_become_cases_in_their_splits(load):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]
    task = load([
        CASE | {"class": "sums", "cost": 3, "time": "yesterday"},
        {"id": 7, "messages": chat, "expected": 5, "score": "number"},
        CASE | {"id": "g", "kind": "guard"},
        CASE | {"id": "t", "split": "test"},
    ])  # fmt: skip
    assert task.splits == ("train", "guard", "test")
    first, second = task.split("train")
    assert (first.id, first.prompt, first.answer, first.kind, first.cost) == ("a", "2 + 2 =", "4", "sums", 3.0)
    assert (second.id, second.prompt, second.answer, second.kind, second.cost) == ("7", chat, "5", "", 1.0)
    assert [case.id for split in ("guard", "test") for case in task.split(split)] == ["g", "t"]


def test_a_folder_of_logs_is_one_log(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(CASE | {"id": name}) + "\n\n")
    assert [case.id for case in load_task("error_log", path=tmp_path).split("train")] == ["a", "b"]
    (tmp_path / "c.jsonl").write_text("\n" + json.dumps(CASE) + "\n")
    with pytest.raises(DataError, match="c.jsonl, line 2: the id 'a' is that of a.jsonl, line 1 already"):
        load_task("error_log", path=tmp_path)


def test_costs_by_class_stand_in_where_a_row_gives_none(load):
    rows = [CASE | {"class": "sums"}, CASE | {"id": "b", "class": "sums", "cost": 2}, CASE | {"id": "c"}]
    assert [case.cost for case in load(rows, costs={"sums": 5}).split("train")] == [5.0, 2.0, 1.0]
    with pytest.raises(BoostError, match=r"costs names 'sum', and no case .* its classes: 'sums'"):
        load(rows, costs={"sum": 5})
    with pytest.raises(BoostError, match="a cost is a positive number"):
        load(rows, costs={"sums": 0})


def test_settings_change_with_all_that_defines_a_case_and_not_with_the_path(load, tmp_path):
    settings = load([CASE]).settings()
    assert settings == json.loads(json.dumps(settings)) and str(tmp_path) not in json.dumps(settings)
    (tmp_path / "moved.jsonl").write_text(json.dumps(CASE))
    assert load_task("error_log", path=tmp_path / "moved.jsonl").settings() == settings
    changes = ({"cost": 2}, {"class": "x"}, {"score": "number"}, {"kind": "guard"})
    others = [load([CASE | change, CASE | {"id": "b"}]).settings() for change in changes]
    assert len({json.dumps(s) for s in [load([CASE, CASE | {"id": "b"}]).settings(), *others]}) == 5


# --- bad logs


def test_all_malformed_rows_are_listed_at_once_with_their_lines(load):
    bad = [
        ("not json", "not JSON"),
        ("[1]", "a JSON object is expected, not a list"),
        ({"prompt": "x", "expected": "y"}, "'id' should be"),
        ({"id": "b", "expected": "y"}, "give either 'prompt', a text, or 'messages'"),
        ({"id": "c", "prompt": " ", "expected": "y"}, "'prompt' should be a non-empty text"),
        ({"id": "d", "messages": [{"role": "assistant", "content": "x"}], "expected": "y"}, "'messages' should be"),
        ({"id": "e", "prompt": "x"}, "'expected' should be a text or a number, not None"),
        (CASE | {"id": "f", "score": "vibes"}, "'score' should be one of exact, number, regex, label, code"),
        (CASE | {"id": "g", "score": "regex", "expected": "("}, "'expected' is no regular expression"),
        (CASE | {"id": "h", "score": "number", "expected": "many"}, "'expected' should be a number or a formula"),
        (CASE | {"id": "i", "cost": -1}, "'cost' should be a positive number, not -1"),
        (CASE | {"id": "j", "kind": "gaurd"}, "'kind' should be 'failure' or 'guard'"),
        (CASE | {"id": "k", "split": "dev"}, "'split' should be one of train, guard, test"),
        (CASE | {"id": "l", "kind": "guard", "split": "test"}, "a guard cannot be in split 'test'"),
        (
            CASE | {"id": "m", "tests": "assert f() == 1", "score": "exact"},
            "'tests' are scored by code, not by 'exact'",
        ),
        ({"id": "n", "prompt": "x", "tests": []}, "'tests' should be source or a list of asserts"),
        ({"id": "o", "prompt": "x", "tests": "assert f( == 1"}, "the task's tests does not compile"),
        ({"id": "p", "prompt": "x", "tests": "def g(): pass"}, "the tests assert nothing"),
        (CASE, "the id 'a' is that of line 1 already"),
    ]
    with pytest.raises(DataError) as caught:
        load([CASE, *(row for row, _ in bad)])
    message = str(caught.value)
    assert f"has {len(bad)} problems" in message
    for text, (line, (_, problem)) in zip(message.splitlines()[1:], enumerate(bad, start=2), strict=True):
        assert text.startswith(f"  line {line}: {problem}")


def test_a_long_list_is_cut_and_the_rest_counted(load):
    with pytest.raises(DataError) as caught:
        load(["nonsense"] * 45)
    lines = str(caught.value).splitlines()
    assert "45 problems" in lines[0] and len(lines) == 22 and lines[-1] == "  and 25 more"


@pytest.mark.parametrize(
    "tests",
    [
        "try:\n    assert f(2) == 4\nexcept AssertionError:\n    pass",
        "for n in []:\n    assert f(n)",
        "if f is None:\n    assert f(2) == 4",
    ],
)
def test_tests_that_assert_nothing_are_named_without_a_reference_too(load, tests):
    rows = [{"id": "vain", "prompt": "x", "tests": tests}, {"id": "sound", "prompt": "x", "tests": "assert f(2) == 4"}]
    task = load(rows)
    vain, sound = task.cases
    right = "```python\ndef f(n): return n * n\n```"
    assert [score.correct for score in task.score_many([right, ""], [sound, sound])] == [True, False]
    with pytest.raises(TaskError, match="case 'vain': the task for f asserts nothing"):
        task.score_many([right, right], [sound, vain])


def test_references_that_fail_their_own_tests_are_named_all_of_them(load):
    code = {"prompt": "x", "tests": ["assert f(2) == 4"]}
    with pytest.raises(DataError) as caught:
        load([
            code | {"id": "good", "reference": "def f(n): return n * n"},
            code | {"id": "wrong", "reference": "def f(n): return n + 1"},
            code | {"id": "raises", "tests": "assert f(2) == undefined", "reference": "def f(n): return n * n"},
            code | {"id": "broken", "reference": "def f(n) return"},
        ])  # fmt: skip
    message = str(caught.value)
    assert "3 problems" in message and "  line 1:" not in message
    for line, text in ((2, "does not pass its own tests"), (3, "does not pass its own tests"), (4, "does not compile")):
        assert any(f"line {line}: " in one and text in one for one in message.splitlines())


def test_a_log_that_is_missing_empty_or_without_failures_is_an_error(load, tmp_path):
    with pytest.raises(DataError, match='path="cases.jsonl"'):
        load_task("error_log")
    with pytest.raises(DataError, match="cannot be read"):
        load_task("error_log", path=tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no case"):
        load(["", ""])
    with pytest.raises(DataError, match="no failures to repair"):
        load([CASE | {"kind": "guard"}])
    with pytest.raises(BoostError, match="no regular expression"):
        load([CASE], stop="(")


# --- scores


@pytest.mark.parametrize(
    ("scorer", "text", "expected", "correct", "strict"),
    [
        (score_exact, " 4 ", "4", True, True),
        (score_exact, "a  b\nc", "a b c", True, False),
        (score_exact, "4.", "4", False, False),
        (score_number, "13", "13", True, True),
        (score_number, "13.0", "13", True, True),
        (score_number, "The answer is 13.", "13", True, False),
        (score_number, "So it is\n#### 13", "13", True, True),
        (score_number, r"Thus \boxed{\frac{1}{2}}", "1/2", True, False),
        (score_number, "x^2+2x+1", "(x+1)^2", True, False),
        (score_number, "13 or 14", "13", False, False),
        (score_number, "", "13", False, False),
        (score_regex, "order 66-A shipped", r"\d+-[A-Z]", True, False),
        (score_regex, " 66-A\n", r"\d+-[A-Z]", True, True),
        (score_regex, "66A", r"\d+-[A-Z]", False, False),
    ],
)
def test_scores(scorer, text, expected, correct, strict):
    score = scorer(text, expected)
    assert (score.correct, score.strict) == (correct, strict)


@pytest.mark.parametrize(
    ("text", "correct", "strict"),
    [
        ("spam", True, True),
        ("Spam.", True, False),
        ("It is spam, no ham", True, False),
        ("ham, not spam", False, False),
        ("not spam", False, False),  # the longer label begins earlier
        ("spammer", False, False),
        ("这是spam邮件", True, False),
        ("これはspamです", True, False),
        ("스팸spam입니다", True, False),
        ("นี่คือspam", True, False),
        ("**spam**", True, False),
        ("_spam_ or __ham__", True, False),
        ("__ham__, not _spam_", False, False),
        ("is_spam", False, False),
        ("spam_filter = 1", False, False),
        ("_spam", False, False),
        ("naïvespam", False, False),
        ("spam2", False, False),
        ("spamе", False, False),  # a Cyrillic letter
        ("spam\u0332", False, False),  # a mark that belongs to the m
        (" spam\n", True, True),
        ("", False, False),
    ],
)
def test_the_first_label_named_counts(text, correct, strict):
    score = score_label(text, "spam", ["ham", "not spam", "spam"])
    assert (score.correct, score.strict) == (correct, strict)


@pytest.mark.parametrize(
    ("text", "expected", "labels", "correct", "strict"),
    [
        ("Das ist ho\u0308flich.", "h\u00f6flich", ["h\u00f6flich", "grob"], True, False),
        ("h\u00f6flich", "ho\u0308flich", ["ho\u0308flich", "grob"], True, True),
        ("hoflich", "h\u00f6flich", ["h\u00f6flich", "grob"], False, False),
        ("ho\u0308flichst", "h\u00f6flich", ["h\u00f6flich"], False, False),
        ("这是垃圾邮件", "垃圾", ["垃圾", "正常"], True, False),
        ("不是", "是", ["是", "不是"], False, False),
        ("不是", "不是", ["是", "不是"], True, True),
        ("예정입니다", "예", ["예", "아니요"], False, False),
        ("예, 맞습니다", "예", ["예", "아니요"], True, False),
        ("is_ok: no", "no", ["is_ok", "no"], False, False),
        ("C++ it is", "C++", ["C++", "C"], True, False),
    ],
)
def test_labels_of_any_script_and_spelling(text, expected, labels, correct, strict):
    score = score_label(text, expected, labels)
    assert (score.correct, score.strict) == (correct, strict)


def test_an_accent_is_the_same_however_it_is_written():
    score = score_exact("cafe\u0301 noir", "caf\u00e9 noir")
    assert (score.correct, score.strict) == (True, True)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.00001, "0.00001"),
        (1e-7, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (2.5, "2.5"),
        (-1.5e-6, "-0.0000015"),
    ],
)
def test_a_number_is_expected_as_it_is_written(load, number, text):
    task = load([CASE | {"expected": number, "score": "number"}])
    case = task.cases[0]
    assert case.answer == text and task.score(f"It is {text}.", case).correct and task.score(text, case).strict
    assert not task.score("1", case).correct


def test_a_log_written_by_pandas_is_read(tmp_path):
    rows = [CASE | {"class": "sums", "cost": 2}, {"id": "g", "prompt": "1 + 1 =", "expected": "2", "kind": "guard"},
            {"id": "c", "prompt": "x", "tests": ["assert f(2) == 4"], "reference": "def f(n): return n * n"},
            {"id": "m", "messages": [{"role": "user", "content": "?"}], "expected": "4", "split": "test",
             "score": "number"}]  # fmt: skip
    pd.DataFrame(rows).to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    assert "null" in (tmp_path / "log.jsonl").read_text()
    cases = {case.id: case for case in load_task("error_log", path=tmp_path / "log.jsonl").cases}
    assert {id: (case.split, case.scoring, case.cost) for id, case in cases.items()} == {
        "a": ("train", "exact", 2.0), "g": ("guard", "exact", 1.0), "c": ("train", "code", 1.0),
        "m": ("test", "number", 1.0)}  # fmt: skip


def test_fields_of_ones_own_are_left_alone(load):
    own = {"time": "now", "model": "x", "host": "h", "tags": [1], "note": None, "loss": 0.5, "answer": "5", "uid": 3}
    assert load([CASE | own]).cases[0].id == "a"


def test_a_batch_of_every_way_to_score_comes_back_in_order(load):
    task = load([
        CASE,
        {"id": "n", "prompt": "x", "expected": 12, "score": "number"},
        {"id": "c", "prompt": "x", "tests": ["import math", "assert root(9) == math.isqrt(9)"],
         "reference": "import math\ndef root(n): return math.isqrt(n)"},
        {"id": "l", "prompt": "x", "expected": "yes", "score": "label"},
        {"id": "m", "prompt": "x", "expected": "no", "score": "label"},
        {"id": "d", "prompt": "x", "tests": "assert [twice(n) for n in (1, 2)] == [2, 4]"},
    ])  # fmt: skip
    cases, fence = task.split("train"), "```python\n{}\n```"
    right = ["4", "= 12", fence.format("def root(n): return n // 3"), "Yes!", "no",
             fence.format("def twice(n): return 2 * n")]  # fmt: skip
    wrong = ["5", "= 1", fence.format("def root(n): return n"), "no, yes", "maybe", "def twice(n): return n"]
    assert [score.correct for score in task.score_many(right, cases)] == [True] * 6
    assert [score.correct for score in task.score_many(wrong, cases)] == [False] * 6
    assert [task.score(text, case).strict for text, case in zip(right, cases, strict=True)] == [
        True, False, True, False, True, True]  # fmt: skip


def test_text_after_the_stop_is_not_read(load):
    row = CASE | {"score": "number"}
    assert load([row], stop="\n").score(" 4\n17", load([row]).split("train")[0]).correct
    assert not load([row]).score(" 4\n17", load([row]).split("train")[0]).correct


# --- groups


def test_clusters_are_found_numbered_by_size_and_the_same_each_time():
    random = philox("clusters")
    centres = 5 * np.eye(3, 16)
    truth = np.repeat([0, 1, 2], [6, 14, 10])
    features = 3.0 + centres[truth] + 0.3 * random.standard_normal((30, 16))
    labels = cluster(features)
    assert labels.tolist() == np.array([2, 0, 1])[truth].tolist()
    assert cluster(features, groups=2).max() == 1
    with pytest.raises(DataError, match="2 cases cannot be put into 2 groups"):
        cluster(features[:2])


def test_an_embedding_is_the_mean_state_after_what_all_prompts_share(tiny_llama, tiny_tokenizer):
    import torch

    model, prompts = tiny_llama(), ["shared: apple", "shared: a pear and more"]
    found = embed(model, tiny_tokenizer, prompts)
    for row, prompt in zip(found, prompts, strict=True):
        ids = torch.tensor([tiny_tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            states = model.model(ids).last_hidden_state[0, len("shared: a") :]
        np.testing.assert_allclose(row, states.mean(0).numpy(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(found, embed(model, tiny_tokenizer, prompts))


def test_suggested_classes_can_be_edited_and_written(load, tiny_llama, tiny_tokenizer, tmp_path):
    texts = ["aaaa aa a", "aaa aaaa", "aa aaa a", "zz zzz z", "zzzz zz"]
    rows = [CASE | {"id": f"c{i}", "prompt": text} for i, text in enumerate(texts)]
    task = load([*rows, CASE | {"id": "named", "class": "mine"}])
    table = suggest_classes(tiny_llama(), tiny_tokenizer, task.split("train"), groups=2)
    assert table["id"].tolist() == [f"c{i}" for i in range(5)]
    assert table["class"].tolist() == ["group 1"] * 3 + ["group 2"] * 2
    assert table.equals(suggest_classes(tiny_llama(), tiny_tokenizer, task.split("train"), groups=2))
    table.loc[table["class"] == "group 2", "class"] = "zeds"
    write_classes(table, task.path, tmp_path / "classes.jsonl")
    edited = load_task("error_log", path=tmp_path / "classes.jsonl", costs={"zeds": 9})
    assert [case.kind for case in edited.split("train")] == ["group 1"] * 3 + ["zeds"] * 2 + ["mine"]
    assert [case.cost for case in edited.split("train")] == [1.0] * 3 + [9.0] * 2 + [1.0]
    with pytest.raises(DataError, match="exists"):
        write_classes(table, task.path, tmp_path / "classes.jsonl")
    with pytest.raises(DataError, match=r"not in the log: \['other'\]"):
        write_classes(table.replace("c0", "other"), task.path, tmp_path / "new.jsonl")
    with pytest.raises(DataError, match=r"without a class: \['c1'\]"):
        write_classes(table.replace({"class": {"group 1": ""}}).iloc[1:2], task.path, tmp_path / "new.jsonl")
    with pytest.raises(DataError, match="every case has a class already"):
        suggest_classes(tiny_llama(), tiny_tokenizer, edited.split("train"))


# --- the worked incident


def test_the_incident_loads_and_its_splits_share_no_problem():
    task = load_task("error_log", path=INCIDENT, stop="\n", max_new_tokens=4)
    cases = {split: task.split(split) for split in task.splits}
    assert {split: len(found) for split, found in cases.items()} == {"train": 120, "guard": 60, "test": 60}
    assert {case.kind for case in cases["train"]} == {"small sums", "large sums", "differences"}
    problems = [{frozenset(case.id.split()) for case in found} for found in cases.values()]
    assert not (problems[0] & problems[1] or problems[0] & problems[2] or problems[1] & problems[2])
    for case in task.cases:
        assert case.answer == str(eval(case.id)) and case.prompt.endswith(f"\n{case.id} =")
