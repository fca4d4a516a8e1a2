"""Logs of other tools and tables: told apart by content, read whole, nothing in them guessed or lost."""

import contextlib
import gzip
import json
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from log_forms import CASES, FORMS, flat, harness, inspect_log, promptfoo, write

from boostlib import load_task
from boostlib.common.errors import DataError
from boostlib.tasks.log_rows import check_rows, listed
from boostlib.tasks.logs import inspect_log as inspect_reader
from boostlib.tasks.logs.reading import read_cases

OF_TESTS = [f"{i} + {i} =" for i in range(1, 31)]


def lines(*rows) -> bytes:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


# --- each form


@pytest.mark.parametrize("form", FORMS)
def test_what_failed_is_to_be_repaired_and_what_passed_a_guard(form, tmp_path):
    path = write(form, tmp_path)
    other = path.rename(tmp_path / ("log" + path.suffix))  # told by its content, not by its name
    task = load_task("error_log", path=other)
    assert {split: len(task.split(split)) for split in task.splits} == {"train": 10, "guard": 20}
    assert {case.kind for case in task.cases} == {"sums"}
    for case, (prompt, right, *_) in zip(task.cases, CASES, strict=True):
        asked = case.prompt if isinstance(case.prompt, str) else case.prompt[-1]["content"]
        assert asked.endswith(prompt) and str(right) in case.answer


@pytest.mark.parametrize("form", [form for form in FORMS if form != "own"])
def test_a_logged_answer_gets_the_logged_verdict(form, tmp_path):
    path = write(form, tmp_path)
    reading, task = read_cases(path), load_task("error_log", path=path)
    verdicts = [reading.verdicts[where] for where, _ in reading.rows]
    scores = task.score_many([answer for _, answer in verdicts], task.cases)
    assert [score.correct for score in scores] == [passed for passed, _ in verdicts] == [ok for *_, ok, _ in CASES]


def test_a_data_frame_is_a_table(tmp_path):
    frame = pd.DataFrame({"prompt": OF_TESTS[:4], "expected": [2, 4, np.nan, 8], "outcome": [True, False, True, False]})
    reading = read_cases(frame)
    assert [(where, row["expected"]) for where, row in reading.rows] == [("row 1", 2), ("row 2", 4), ("row 4", 8)]
    assert reading.problems == [("row 3", "there is no expected answer")]


def test_the_harness_says_where_a_completion_ends(tmp_path):
    reading = read_cases(write("harness", tmp_path))
    assert reading.settings == {"stop": "\\\n", "max_new_tokens": 4}


def test_of_several_filters_the_kindest_verdict_counts_and_of_several_epochs_the_worst(tmp_path):
    strict, lenient = harness(CASES[:1])[0], harness(CASES[:1])[0] | {"filter": "flexible-extract"}
    (tmp_path / "filters.jsonl").write_bytes(lines(strict | {"exact_match": 0.0}, lenient | {"exact_match": 1.0}))
    reading = read_cases(tmp_path / "filters.jsonl")
    assert [row["kind"] for _, row in reading.rows] == ["guard"] and len(reading.left_out) == 1
    log = inspect_log([CASES[0], (*CASES[0][:2], 5, False, "sums")])
    (tmp_path / "epochs.json").write_text(json.dumps(log))
    reading = read_cases(tmp_path / "epochs.json")
    assert ["kind" in row for _, row in reading.rows] == [False] and len(reading.left_out) == 1
    assert reading.verdicts["sample 1"] == (False, "It is 5")


def test_a_folder_is_one_log(tmp_path):
    for name in ("samples_a.jsonl", "samples_b.jsonl"):
        (tmp_path / name).write_bytes(lines(*harness(CASES[:3])))
    (tmp_path / "results.json").write_text("{}")  # the harness writes one beside its samples
    reading = read_cases(tmp_path)
    assert reading.records == 6 and [row["id"] for _, row in reading.rows] == ["a 0", "a 1", "a 2"]


@pytest.mark.parametrize(
    ("scores", "options", "score", "right", "wrong"),
    [
        ("match", {}, "regex", "it is 4.", "4 it is"),
        ("match", {"location": "begin"}, "regex", "4 it is", "it is 4"),
        ("match", {"numeric": True}, "number", "it is 4", "it is 44"),
        ("includes", {}, "regex", "4 it is", "5"),
        ("exact", {}, "regex", " 4. ", "it is 4"),
        ("answer", {"pattern": "line"}, "regex", "so\nanswer: 4", "4"),
        ("choice", {}, "regex", "ANSWER: 4", "ANSWER: 44"),
    ],
)
def test_scorers_of_inspect_are_rebuilt(scores, options, score, right, wrong, tmp_path):
    log = inspect_log([("2 + 2 =", 4, 5, False, "sums")])
    log["eval"]["scorers"] = [{"name": scores, "options": options}]
    log["samples"][0]["scores"] = {scores: {"value": "I"}}
    (tmp_path / "log.json").write_text(json.dumps(log))
    task = load_task("error_log", path=tmp_path / "log.json")
    assert task.cases[0].scoring == score
    assert [one.correct for one in task.score_many([right, wrong], task.cases * 2)] == [True, False]


@pytest.mark.parametrize(
    ("asserts", "right", "wrong"),
    [
        ([{"type": "equals", "value": "four"}], "four", "it is four"),
        ([{"type": "icontains", "value": "FOUR"}], "it is four", "five"),
        ([{"type": "not-contains", "value": "five"}], "four\nsix", "four\nfive"),
        ([{"type": "contains-any", "value": ["4", "four"]}], "four", "five"),
        ([{"type": "contains-all", "value": "two, four"}], "four and\ntwo", "four"),
        ([{"type": "starts-with", "value": "4."}], "4. yes", "yes 4."),
        ([{"type": "regex", "value": "^fo.r$"}], "four", "fo\nr"),
        ([{"type": "regex", "value": "(?i)FO.R$"}], "it is four", "fours"),
        ([{"type": "contains", "value": "2"}, {"type": "not-icontains", "value": "X"}], "1 2", "1 2 x"),
    ],
)
def test_assertions_of_promptfoo_are_rebuilt(asserts, right, wrong, tmp_path):
    log = promptfoo(CASES[:1])
    log["results"]["results"][0] |= {"testCase": {"assert": asserts}, "success": False}
    (tmp_path / "log.json").write_text(json.dumps(log))
    task = load_task("error_log", path=tmp_path / "log.json")
    scores = task.score_many([right, wrong], task.cases * 2)
    assert [(score.correct, score.strict) for score in scores] == [(True, True), (False, False)]


def test_an_eval_file_is_read_by_inspect_or_its_name_is_given(tmp_path, monkeypatch):
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.json", "{}")
    with pytest.raises(DataError, match="pip install inspect-ai"):
        read_cases(path)

    class Log:
        def model_dump(self, **_):
            return inspect_log(CASES)

    reader = type("reader", (), {"read_eval_log": staticmethod(lambda file, **_: Log())})
    monkeypatch.setattr(inspect_reader.importlib, "import_module", lambda name: reader)
    assert len(read_cases(path).rows) == 30


# --- malformed and half-usable logs: (content, rows, problems, what is left out), or what the error says

H, F, C = harness(CASES[:3]), flat(CASES[:3]), {"id": "a", "prompt": "2 + 2 =", "expected": "4"}
P, S = promptfoo(CASES[:3]), inspect_log(CASES[:3])
TURN = {"messages": [{"role": "user", "content": "2 + 2?"}], "expected": "4", "passed": False}


def results(**changes) -> bytes:
    first = P["results"]["results"][0]
    return json.dumps(
        {**P, "results": {**P["results"], "results": [first | changes, *P["results"]["results"][1:]]}}
    ).encode()


def samples(**changes) -> bytes:
    return json.dumps({**S, "samples": [S["samples"][0] | changes, *S["samples"][1:]]}).encode()


BAD: dict[str, tuple] = {
    "a line is cut": (lines(*F, '{"prompt": "2 +'), 3, ["line 4: not JSON"], []),
    "a line is a list": (lines(*F, [1]), 3, ["line 4: a JSON object is expected"], []),
    "the first line is cut": (lines('{"prompt": ', *F), 3, ["line 1: not JSON"], []),
    "every line is wrong": (lines(*["{nonsense"] * 5), 0, ["line 1-5: not JSON"], []),
    "no verdict": (lines(*F, {"prompt": "x", "answer": 1}), 3, ["line 4: there is no outcome"], []),
    "a verdict of another kind": (lines(*F, F[0] | {"passed": "perhaps"}), 3, ["line 4: 'passed' should be"], []),
    "a share for a verdict": (lines(*F, F[0] | {"passed": 0.5}), 3, [], ["line 4: the verdict is a share"]),
    "no prompt": (lines(*F, {"prompt": "", "answer": 1, "passed": True}), 3, ["line 4: 'prompt' should be"], []),
    "nothing expected": (lines(*F, {"prompt": "x", "passed": True}), 3, ["line 4: there is no expected"], []),
    "twice the same": (lines(*F, F[0]), 3, [], ["line 4: asks and expects the same"]),
    "an own log with three faults": (
        lines(C, C | {"cost": -1, "id": "b"}, C, "x"), 3,
        ["line 2: 'cost' should be", "line 3: the id 'a' is that of line 1", "line 4: not JSON"], [],
    ),
    "a likelihood": (
        lines(*H, H[0] | {"arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": " A"}, "gen_args_1": {}}, "acc": 1.0}), 3,
        [], ["line 4: scored by the likelihood"],
    ),
    "pairs for answers": (lines(*H, H[0] | {"resps": [[["-1.5", "False"]]]}), 3, [], ["line 4: scored by the"]),
    "another metric": (
        lines(*H, {n: v for n, v in H[0].items() if n != "exact_match"} | {"metrics": ["rouge1"]}), 3, [],
        ["line 4: scored by rouge1"],
    ),
    "several samples": (lines(*H, H[0] | {"resps": [["1", "2"]]}), 3, [], ["line 4: several answers"]),
    "no request": (lines(*H, H[0] | {"arguments": 3}), 3, ["line 4: 'arguments' should hold"], []),
    "no answer": (lines(*H, H[0] | {"resps": None}), 3, ["line 4: 'resps' should be a list"], []),
    "no target": (lines(*H, H[0] | {"target": None}), 3, ["line 4: 'target' is missing"], []),
    "a model's grade": (
        results(testCase={"assert": [{"type": "llm-rubric"}]}), 2, [], ["result 1: scored by llm-rubric"],
    ),
    "a template": (
        results(testCase={"assert": [{"type": "equals", "value": "{{ a | b }}"}]}), 2, [],
        ["result 1: an assertion made by a template"],
    ),
    "a pattern of JavaScript": (
        results(testCase={"assert": [{"type": "regex", "value": "(?<year>2)"}]}), 2, [], ["result 1: a pattern that"],
    ),
    "a provider that failed": (results(failureReason=2), 2, [], ["result 1: the provider failed"]),
    "a result without a prompt": (results(prompt=None), 2, ["result 1: 'prompt' should be an object"], []),
    "asserts that are none": (results(testCase={"assert": "x"}), 2, ["result 1: 'testCase.assert' should be"], []),
    "a graded sample": (
        samples(scores={"model_graded_qa": {"value": "C"}}), 2, [], ["sample 1: scored by model_graded_qa"],
    ),
    "a sample that ended in an error": (samples(error={"message": "late"}), 2, [], ["sample 1: the sample ended"]),
    "a sample with tools": (
        samples(messages=[{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]), 2, [],
        ["sample 1: it calls tools"],
    ),
    "an image": (
        lines(TURN, TURN | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), 1, [],
        ["line 2: a message holds more than text"],
    ),
    "messages that are none": (lines(TURN, TURN | {"messages": "hi"}), 1, ["line 2: 'messages' should be a list"], []),
    "a wide row": (b"prompt,expected,outcome\na,1,pass\nb,2,fail,3\n\"c\nd\",3,fail\n", 2, ["line 3: more"], []),
    "a table that breaks off": (b'prompt,expected,outcome\na,1,pass\n"b,2,fail\n', 1, ["line 3: cannot be read"], []),
    "other columns": (b"when,what\n1,2\n", "needs one of prompt"),
    "a column twice": (b"prompt,expected,expected,outcome\na,1,2,pass\n", "has a column twice"),
    "a classifier's log": (b"text,label,predicted\nhi,a,b\n", "a classifier's log"),
    "another document": (json.dumps({"results": {"gsm8k": 0.5}}, indent=1).encode(), "no form that is known"),
    "an evaluation without samples": (json.dumps({**S, "samples": []}, indent=1).encode(), "without its samples"),
    "nothing": (b"", "holds no case"),
    "no text": (b"\xff\xfe{}", "cannot be read"),
    "half a gzip": (gzip.compress(lines(*F))[:-8], "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_everything_wrong_is_listed_and_nothing_is_lost(name, tmp_path):
    content, *expected = BAD[name]
    ending = {b"{": ".jsonl", b"": ".jsonl", b"\x1f": ".jsonl.gz"}.get(content[:1], ".csv")
    path = tmp_path / f"log{ending}"
    path.write_bytes(content)
    if len(expected) == 1:
        with pytest.raises(DataError, match=expected[0]):
            read_cases(path)
        return
    rows, problems, left_out = expected
    reading = read_cases(path)
    assert len(reading.rows) == rows
    assert reading.records == len(reading.rows) + len(reading.problems) + len(reading.left_out)
    for found, wanted in (([*reading.problems, *check_rows(reading.rows)], problems), (reading.left_out, left_out)):
        shown = listed(found)
        assert len(shown) == len(wanted)
        assert all(line.startswith(f"  {start}") for line, start in zip(shown, wanted, strict=True)), shown


def test_what_is_wrong_in_the_same_way_is_one_line_with_its_places():
    problems = [(f"line {n}", "x") for n in (9, 1, 2, 3)] + [("a.jsonl, line 4", "y"), ("line 5", "x")]
    assert listed(problems) == ["  a.jsonl, line 4: y", "  line 1-3, 5, 9: x"]


ODD = (None, 3, -0.5, "x", "", [], {}, [[]], [3], {"a": 1}, True, "\ud800", [None], [{}], {"role": 3})


def places(value, path=()):
    """Every place in nested JSON, the first of each list."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "csv"])
def test_whatever_stands_in_a_field_is_a_row_a_problem_or_left_out(form, tmp_path):
    name, make = FORMS[form]
    made = make(CASES[:2])
    for path in list(places(made))[1:]:
        for odd in ODD:
            changed = at = json.loads(json.dumps(made))
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = odd
            lines = (
                "".join(json.dumps(row) + "\n" for row in changed) if isinstance(made, list) else json.dumps(changed)
            )
            (tmp_path / name).write_text(lines)
            with contextlib.suppress(DataError):
                reading = read_cases(tmp_path / name)
                bad = {where for where, _ in check_rows(reading.rows)}
                sound = [row for where, row in reading.rows if where not in bad]
                json.dumps(sound, ensure_ascii=False).encode()
                assert reading.records == len(reading.rows) + len(reading.problems) + len(reading.left_out)


# --- size

MEASURE = """
import sys, time
from pathlib import Path
from boostlib.tasks.log_rows import check_rows
from boostlib.tasks.logs.reading import read_cases
start = time.process_time()
reading = read_cases(sys.argv[1])
assert not reading.problems and not check_rows(reading.rows)
seconds = time.process_time() - start
(peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(reading.records, seconds, int(peak) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["harness", "own", "csv", "promptfoo"])
def test_a_log_of_100_000_rows_is_read_in_20_seconds_and_a_gigabyte(form, tmp_path):
    cases = [
        (f"A question of some length, as people ask: {'so ' * 60} {i} + 1 =", i + 1, i, False, "s")
        for i in range(100_000)
    ]
    path = write(form, tmp_path, cases)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    records, seconds, gigabytes = map(float, done.stdout.split())
    assert records == 100_000 and seconds < 20 and gigabytes < 1, done.stdout
