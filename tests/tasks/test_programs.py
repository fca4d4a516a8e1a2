"""Tasks whose answers are programs: finding the code, running it, MBPP, HumanEval and python_basics."""

import gzip
import json
import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from boostlib import GRPO, AdapterConfig, BoostError, SVDBasis, TinyLoRA, evaluate, load_model
from boostlib.common.errors import DataError
from boostlib.evaluation.generate import cut_at, encode, generate
from boostlib.evaluation.pass_at_k import pass_at_k, sample_correct
from boostlib.experiments.methods import run_method, with_method
from boostlib.experiments.presets import SECTIONS, preset
from boostlib.models.embedded import installed_weights
from boostlib.models.subject import Subject
from boostlib.sandbox import CodeTask, Status, TaskError
from boostlib.tasks import load_task, mbpp, programs
from boostlib.tasks.programs import BLOCK_END, Problem, find_code, split_tests
from boostlib.tasks.python_basics import FUNCTIONS, PythonBasics, functions
from boostlib.tasks.python_more import to_problems
from boostlib.tasks.rows import load_rows

DOUBLE = "def double(n):\n    return 2 * n\n"
GOOD = f"Here:\n```python\n{DOUBLE}```\nIt doubles."


def problem(tests="assert double(2) == 4\nassert double(0) == 0", reference=DOUBLE, **check) -> Problem:
    task = CodeTask(tests, exports=("double",), **check)
    return Problem(id="double", prompt="p", answer=tests, reference=reference, check=task)


@pytest.fixture(scope="module")
def basics():
    return load_task("python_basics", workers=1)


@pytest.mark.parametrize(
    ("workers", "processes", "checks"), [(None, None, 8), (None, "3", 2), (None, "9", 1), (5, "3", 5)]
)
def test_processes_of_one_machine_divide_its_cores(monkeypatch, workers, processes, checks):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(programs, "_sandbox", lambda pid, workers, *rest: workers)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes) if processes else monkeypatch.delenv("LOCAL_WORLD_SIZE", False)
    assert load_task("python_basics", workers=workers)._box() == checks


# --- finding the code


@pytest.mark.parametrize(
    ("completion", "code", "closed"),
    [
        (GOOD, DOUBLE, True),
        (f"```\n{DOUBLE}```", DOUBLE, True),
        (f"```python\n{DOUBLE}```\n```python\nimport os\n```", DOUBLE, True),  # the first block counts
        (f"  ```py\n{DOUBLE}  ```", DOUBLE, True),
        ("```python\n>>> x = 1\n>>> for i in [1]:\n...     x = i\n```", "x = 1\nfor i in [1]:\n    x = i\n", True),
        (f"```python\n{DOUBLE}print(doub", DOUBLE, False),  # cut off by the limit of tokens
        (f"```python\n{DOUBLE}\nprint(double(\n  2,", f"{DOUBLE}\n", False),
        (f"Sure!\n{DOUBLE}This doubles n.", DOUBLE, False),
        (f"from math import pi\n{DOUBLE}", f"from math import pi\n{DOUBLE}", False),
        ("", "", False),
        ("I cannot write code, I define nothing.", "", False),
        ("```python\ndef (((", "", False),
        ("def\x00 f", "", False),
    ],
)
def test_code_is_found(completion, code, closed):
    assert find_code(completion) == (code, closed)


F = "```"
INNER = f'def double(n):\n    """Doubles.\n\n    {F}\n    double(2)\n    {F}\n    """\n    return 2 * n\n'
MARGIN = INNER.replace("    " + F, F)  # the fence within the code stands at the margin
QUOTES = "'" * 3
QUOTES = '"' * 3
LISTED = "{0}   def double(n):\n{0}       return 2 * n\n"


@pytest.mark.parametrize(
    ("completion", "closed"),
    [
        (f"{DOUBLE}{F}\n", False),  # a block that the prompt began
        (f"{DOUBLE}{F}", False),
        (f"{DOUBLE}{F}\nThis doubles n.\n", False),
        (f"{DOUBLE}\n{F}\n\nUse it:\n{F}python\nprint(1)\n{F}", False),
        (f"{DOUBLE.rstrip()}{F}\nIt doubles.", False),
        (f"{DOUBLE}\nUse it:\n{F}python\nprint(double(2))\n{F}", False),
        (f"{F}python def double(n):\n    return 2 * n\n{F}", True),  # code on the fence's own line
        (f"{F}def double(n):\n    return 2 * n\n{F}", True),
        (f"{F}python def double(n): return 2 * n{F}", True),
        (f"{F}python import math\n{DOUBLE}{F}", True),
        (f"{F}python def double(n):\n    return 2 * n", False),
        (f"{F}python\n{DOUBLE.rstrip()}{F}\nIt doubles.", True),
        (f'{F}python title="double.py"\n{DOUBLE}{F}', True),
        (f"{F}{{.python}}\n{DOUBLE}{F}", True),
        (f"{F}Python3\n{DOUBLE}{F}", True),
        ("K = 2\ndef double(n):\n    return K * n\n", False),  # what stands before the first definition
        ("Sure:\n\nK: int = 2\n\n\ndef double(n):\n    return K * n\n\nThat is all.", False),
        ("try:\n    from math import nope\nexcept ImportError:\n    K = 2\ndef double(n):\n    return K * n\n", False),
        (f"from the list we take two.\nimport is easy.\nx = as said\n{DOUBLE}", False),
        (f"@everyone, look:\n{DOUBLE}", False),
        ("import functools\n\n@functools.cache\ndef double(n):\n    return 2 * n\n", False),
        ("double = lambda n: 2 * n\n", False),
        (f"{DOUBLE}\nIt is called by {F}double(2){F}, as said.", False),
        (f"{F}python\n{INNER}{F}\nSo.", True),  # a fence within the code
        (f"{F}python\n{INNER.replace('    ' + F, F)}{F}\nSo.", True),
        (f"{F}python\n{INNER.replace(F, F + 'python', 1)}{F}\nSo.", True),
        (f"{F}`python\n{DOUBLE}{F}`\n", True),
        (f"~~~python\n{DOUBLE}~~~\n", True),
        (f"1. So:\n\n   {F}python\n{LISTED.format('')}   {F}\n2. Done.", True),  # indented in a list
        (f"10. So:\n\n    {F}python\n{LISTED.format(' ')}    {F}\n", True),
        (f"- {F}python\n{LISTED.format('')}  {F}\n", True),
        (f"1. {F}python def double(n):\n       return 2 * n\n   {F}", True),
        (f"   {F}python\n{LISTED.format('')}", False),
        (f"> {F}python\n> def double(n):\n>     return 2 * n\n> {F}\n", True),
        (f"{F}python\n{DOUBLE}{F}\n".replace("\n", "\r\n"), True),
        (f"{F}bash\npip install x\n{F}\nThen:\n{F}python\n{DOUBLE}{F}", True),  # the block that defines something
        (f"{F}\n2\n{F}\n{F}python\n{DOUBLE}{F}", True),
        (f'{F}json\n{{"n": 2}}\n{F}\n{F}python\n{DOUBLE}{F}', True),
        (f"{F}python\nprint(double(2))\n{F}\nCode:\n{F}python\n{DOUBLE}{F}", True),
        (f"{F}python\nimport math\n{F}\n{F}python\n{DOUBLE}", False),
        (f"{F}python\n{DOUBLE}{F}\nTest:\n{F}python\ndef double(n): return 0\n{F}", True),
        (f"Here it is: {F}python\n{DOUBLE}{F}", True),
        (f"{F}pycon\n>>> def double(n):\n...     return 2 * n\n...\n>>> x = double(2)\n{F}", True),
        (f"{F}python\n# {F}\n{DOUBLE}{F}", True),
        (f"{F}python\n{DOUBLE}print('{F}')\n{F}", True),
        (f"{F}python\n    {DOUBLE.replace('    ', '        ')}{F}", True),
        (f"````python\n{MARGIN}````", True),
        (f"~~~python\n{MARGIN}~~~", True),
        (f'T = f"""\n{F}python\n{{1}}\n{F}\n"""\n{DOUBLE}', False),  # a fence in a string, and no other
        (MARGIN, False),
        (f"So:\n\n{MARGIN}\nIt doubles.", False),
        (f"> > {F}python\n> > def double(n):\n> >     return 2 * n\n> > {F}\n", True),
        (f">{F}python\n>def double(n):\n>    return 2 * n\n>{F}\n", True),
        (f"- a\n    - {F}python\n      def double(n):\n          return 2 * n\n      {F}", True),
        (f"* x\n\t{F}python\n\tdef double(n):\n\t    return 2 * n\n\t{F}", True),
        (f"1. So:\n   {F}python\n{LISTED.format('')}   {F}".replace("\n", "\r\n"), True),
        (f"{F}python\nfrom __future__ import annotations\n{DOUBLE}{F}", True),
        (f"{F}python\nasync def a(n):\n    return n\n\n{DOUBLE}{F}", True),
        (f"{F}python\n{DOUBLE}{F}<|im_end|>", True),
        (f"{DOUBLE}<|im_end|>", False),
        (f"\ufeff{DOUBLE}", False),
        (f"Here:\n\n    {DOUBLE.replace('    ', '        ')}\nIt doubles.", False),  # indented, as a block may be
        (">>> def double(n):\n...     return 2 * n\n", False),
        (DOUBLE.replace("\n", "\r\n"), False),
        (DOUBLE.replace("    ", "\t"), False),
        ("A, B = 1, 2\n\ndef double(n):\n    return B * n\n", False),
        ("K: int = 2\ndef double(n: int) -> int:\n    return K * n\n", False),
        ("K = [\n    1,\n    2,\n]\n\ndef double(n):\n    return K[1] * n\n", False),
        ("class A:\n    def go(self, n):\n        return 2 * n\n\ndouble = A().go\n", False),
        ("class double:\n    def __new__(cls, n):\n        return 2 * n\n", False),
        ("from functools import partial\nfrom operator import mul\ndouble = partial(mul, 2)\n", False),
        ("async def a(n):\n    return n\n\ndef double(n):\n    return 2 * n\n", False),
        (f"# Imports\nimport math\n# Code\n{DOUBLE}", False),
        (f"### Solution\n\n{DOUBLE}\n### Why\nIt doubles.", False),
        (f"{DOUBLE}\nDone\n", False),  # words that only happen to compile
        (f"{DOUBLE}\nNote: doubles\n", False),
        (f"{DOUBLE}\nDone, enjoy\n", False),
        (f"{DOUBLE}\n1. It doubles.\n2. It returns.", False),
        (f"{DOUBLE}\n| n | 2n |\n|---|---|\n", False),
        (f"{DOUBLE}\nif __name__ == '__main__':\n    print(double(2))\n", False),
    ],
)
def test_code_is_found_wherever_it_stands(completion, closed):
    code, found_closed = find_code(completion)
    scope: dict = {}
    exec(code, scope)
    assert scope["double"](4) == 8 and found_closed is closed


def test_a_fence_within_the_code_does_not_end_generation(tiny_tokenizer):
    texts = [f"{F}python\n{INNER}{F}", f"1. So:\n   {F}python\n{LISTED.format('')}   {F}"]
    texts += [f"{fence}python\n{MARGIN}{fence}" for fence in (F, "````", "~~~")]
    texts += [f"{F}python\nT = {QUOTES}\n{F}\n{QUOTES}\n{DOUBLE}{F}", f"{MARGIN}\n{F}python\n{DOUBLE}{F}"]
    for text in texts:
        ids = tiny_tokenizer(f"{text}\nAnd so on.")["input_ids"]
        assert tiny_tokenizer.decode(cut_at(ids, tiny_tokenizer, BLOCK_END)) == text


def test_a_completion_ends_with_its_first_block(tiny_tokenizer):
    ids = tiny_tokenizer(f"{GOOD} And ``` so on.")["input_ids"]
    kept = cut_at(ids, tiny_tokenizer, BLOCK_END)
    assert tiny_tokenizer.decode(kept).endswith("return 2 * n\n```") and kept == ids[: len(kept)]
    assert find_code(tiny_tokenizer.decode(kept)) == find_code(GOOD)
    open_ids = tiny_tokenizer(f"```python\n{DOUBLE}")["input_ids"]
    assert cut_at(open_ids, tiny_tokenizer, BLOCK_END) == open_ids


@pytest.mark.parametrize("samples", [1, 3])
def test_generation_stops_where_the_pattern_matches(tiny_llama, tiny_tokenizer, samples):
    model = tiny_llama()
    prompts = encode(tiny_tokenizer, ["count a", "count bb", "sum"])
    free = generate(model, tiny_tokenizer, prompts, 24, stop_at_end=False, samples=samples)
    texts = tiny_tokenizer.batch_decode(free, skip_special_tokens=True)
    wanted = next(c for c in texts[0][3:] if c.isalnum())
    stopped = generate(model, tiny_tokenizer, prompts, 24, stop_at_end=False, samples=samples, stop=wanted)
    assert stopped == [cut_at(ids, tiny_tokenizer, wanted) for ids in free]
    assert len(stopped[0]) < 24


# --- scoring


def test_a_program_is_right_where_all_tests_pass(basics):
    half = "```python\ndef double(n):\n    return 4\n```"
    scores = basics.score_many([GOOD, DOUBLE, half, ""], [problem()] * 4)
    assert [(s.correct, s.strict, s.reward) for s in scores] == [
        (True, True, 1.0),
        (True, False, 1.0),
        (False, False, 0.0),
        (False, False, 0.0),
    ]
    assert basics.score(GOOD, problem()) == scores[0]


def test_partial_reward_is_the_share_of_passed_tests_and_changes_nothing_else():
    task = load_task("python_basics", partial=True, workers=1)
    half = "```python\ndef double(n):\n    return 4\n```"
    scores = task.score_many([GOOD, half, "no code"], [problem()] * 3)
    assert [score.reward for score in scores] == [1.0, 0.5, 0.0]
    assert [score.correct for score in scores] == [True, False, False]
    assert task.settings() != load_task("python_basics").settings()


def test_tests_are_split_by_assert():
    assert split_tests("x = 1\nassert f(x) == 1\nassert f(2) == 2") == [
        "x = 1\nassert f(x) == 1",
        "x = 1\nassert f(2) == 2",
    ]
    check = "def check(c):\n    y = 2\n    assert c(y)\n    assert c(1)"
    assert split_tests(check)[1] == "def check(c):\n    y = 2\n    assert c(1)"
    assert split_tests("assert True, 'fine'\nassert f(1)\nassert 1, 'x'") == ["assert f(1)"]
    loop = "def check(c):\n    for i in range(3):\n        assert c(i)"
    assert split_tests(loop) == [loop]


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("", Status.CANDIDATE_ERROR),
        ("Sorry, no.", Status.CANDIDATE_ERROR),
        ("```python\n" + "x = 1\n" * 200_000 + DOUBLE + "```", Status.PASSED),  # 1.2 MB of code
        ("```python\n" + "#" * 1_000_000, Status.CANDIDATE_ERROR),
        ("```python\ndef double(n):\n    return '\udcff'\n```", Status.CANDIDATE_ERROR),  # not UTF-8
        ("```python\ndef double(n):\n    return 'a' * 100_000_000\n```", Status.CANDIDATE_ERROR),
        ("```python\ndef double(n):\n    while True: pass\n```", Status.TIMEOUT),
        ("```python\nimport os\nos._exit(0)\n```", Status.CRASHED),
    ],
    ids=["empty", "prose", "1 MB", "1 MB of comment", "not UTF-8", "returns 100 MB", "hangs", "exits"],
)
def test_bad_programs_get_a_status(basics, completion, status):
    result = basics.run_many([completion, GOOD], [problem(), problem()])
    assert result[0].status is status
    assert result[1].passed


def test_a_reference_that_fails_its_own_tests_is_named():
    task = load_task("python_basics", workers=1)
    wrong = problem("assert double(2) == 5")
    for _ in range(2):  # not only the first time
        with pytest.raises(TaskError, match=r"python_basics, problem 'double': its reference .* failed: assert double"):
            task.score_many([GOOD], [wrong])


@pytest.mark.parametrize(
    "tests", ["double(2) == 4", "class Test:\n    def test(self): assert double(2) == 4", "assert (double(2) == 4, '')"]
)
def test_tests_that_assert_nothing_are_named(basics, tests):
    for _ in range(2):
        with pytest.raises(TaskError, match="python_basics, problem 'vain': .* the task for double asserts nothing"):
            basics.score_many([GOOD], [replace(problem(tests), id="vain")])


def test_a_candidate_that_evades_the_asserts_of_a_sound_task_is_scored(basics):
    tests = "assert double(2) == 4\nassert double(0) == 0"
    dodging = "```python\ndef double(n):\n    raise SystemExit(0)\n```"
    assert [s.correct for s in basics.score_many([dodging, GOOD], [problem(tests)] * 2)] == [False, True]


def test_a_candidate_that_makes_a_sound_task_fail_by_itself_fails_alone(basics):
    fragile = problem("assert double(2) == 4 or double(iter([]))")  # asked where the first answer is wrong
    wrong = "```python\ndef double(n):\n    return 5\n```"
    assert [s.correct for s in basics.score_many([wrong, GOOD], [fragile, fragile])] == [False, True]


def test_equal_programs_run_once(basics, monkeypatch):
    basics.require_sound([problem()])
    box, seen = basics._box(), []
    run_many = box.run_many
    monkeypatch.setattr(box, "run_many", lambda checks: seen.append(len(checks)) or run_many(checks))
    scores = basics.score_many([GOOD, GOOD + " Really.", DOUBLE + "x = 1"], [problem()] * 3)
    assert all(s.correct for s in scores) and seen == [0, 2]


# --- pass@k


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    correct = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]], dtype=bool)
    for k in range(1, 6):
        subsets = [row[list(chosen)].any() for row in correct for chosen in combinations(range(5), k)]
        assert pass_at_k(correct, k) == pytest.approx(np.mean(subsets))
    for k in (0, 6):
        with pytest.raises(BoostError, match=f"pass@{k} of 5 samples"):
            pass_at_k(correct, k)


def test_samples_of_a_model_are_reproducible(tiny_llama, tiny_tokenizer):
    from helpers import ParityTask

    model, task = tiny_llama(), ParityTask(max_new_tokens=4)
    first, again, other = (
        sample_correct(Subject(model, tiny_tokenizer, task), task.split("test"), samples=6, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first.shape == (6, 6) and np.array_equal(first, again) and not np.array_equal(first, other)


# --- python_basics


def test_the_functions_are_sound_and_no_constant_passes(basics):
    every = [e for split in ("train", "dev", "test") for e in basics.split(split)]
    assert [len(basics.split(s)) for s in basics.splits] == [80, 40, 80, 80]
    assert len({e.id for e in every}) == len(every) == 200
    basics.require_sound(every + basics.split("neighbour"))
    values = ("None", "True", "False", "0", "1", "''", "[]", "{}", "set()")
    fixed = [f"def {e.id}(*args):\n    return {value}" for e in every for value in values]
    owners = (e for e in every for _ in values)
    results = basics._run([(code, e.check) for code, e in zip(fixed, owners, strict=True)])
    passed = [result.passed for result in results]
    assert not any(passed), [code for code, right in zip(fixed, passed, strict=True) if right]


def test_prompts_are_as_documented(basics):
    prompts = {e.id: e.prompt[0]["content"] for split in ("train", "dev", "test") for e in basics.split(split)}
    assert prompts["is_even"] == "Write a python function is_even(n) that returns True if n is even."
    test, neighbour = basics.split("test"), basics.split("neighbour")
    assert [(e.id, e.answer, e.check) for e in test] == [(e.id, e.answer, e.check) for e in neighbour]
    shown = neighbour[0].prompt[0]["content"]
    assert shown.startswith("Complete this python function:\n\n```python\ndef ") and '"""' in shown
    names = [node.name for path in FUNCTIONS.glob("*.py") for node in functions(path)]
    assert len(names) == 200


def passes(example, other) -> bool:
    """Whether the reference of `example`, which is ours and harmless, passes the tests of `other`."""
    space: dict = {}
    try:
        exec(example.reference, space)
        space[other.id] = space[example.id]
        exec(other.answer, space)
    except Exception:
        return False
    return True


def test_more_functions_are_sound_and_leave_the_held_out_ones_alone(basics):
    more = load_task("python_more")
    for split in ("dev", "test", "neighbour"):
        assert more.split(split) == basics.split(split)
    train, held_out = more.split("train"), basics.split("dev") + basics.split("test")
    added = train[len(basics.split("train")) :]
    assert train[: -len(added)] == basics.split("train") and {e.kind for e in added} == {e.kind for e in train}
    assert all(passes(example, example) for example in added)
    values = ("None", "True", "False", "0", "1", "''", "[]", "{}", "set()")
    fixed = [replace(e, reference=f"def {e.id}(*args):\n    return {value}") for e in added for value in values]
    assert not [e.id for e in fixed if passes(e, e)]
    assert not [(e.id, other.id) for e in added for other in held_out if e.id == other.id or passes(e, other)]
    assert not {e.prompt[0]["content"] for e in added} & {e.prompt[0]["content"] for e in held_out}


def test_a_row_becomes_a_function_with_tests():
    first, *_ = to_problems(
        ["# numbers", "triple(n) | returns three times n | 3 * n | 2; -1", "is_zero(n) | x | n == 0 | 0; 3"]
    )
    assert first.prompt[0]["content"] == "Write a python function triple(n) that returns three times n."
    assert (first.kind, first.answer) == ("numbers", "assert triple(2) == 6\nassert triple(-1) == -3")
    assert first.reference == "def triple(n):\n    return 3 * n"


def test_the_embedded_model_writes_programs():
    if installed_weights("smollm2") is None:
        pytest.skip("the embedded model is not installed")
    model, tokenizer = load_model("smollm2", dtype="fp32")
    task = load_task("python_basics", limits={"test": 6})
    result = evaluate(model, tokenizer, task, "test", progress=False)
    assert result.correct.any() and all(text.count("```") <= 2 for text in result.completions)


# --- MBPP


def mbpp_row(number: int, **changed) -> dict:
    row = {
        "text": f"Write a function to add {number}.",
        "code": f"import math\r\ndef add(n):\r\n    return n + {number}",
        "task_id": number,
        "test_setup_code": "",
        "test_list": [f"assert add(1) == {number + 1}", f"assert add(math.floor(0.5)) == {number}"],
        "challenge_test_list": [],
    }
    return row | changed


def mbpp_folder(folder: Path, *rows: dict) -> Path:
    every = {number: mbpp_row(number) for number in range(1, 975)} | {row["task_id"]: row for row in rows}
    (folder / "mbpp").mkdir()
    (folder / "mbpp/mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in every.values()))
    return folder


def test_mbpp_is_split_as_published(tmp_path):
    task = load_task("mbpp", data_dir=mbpp_folder(tmp_path))
    ids = {split: [int(e.id) for e in task.split(split)] for split in task.splits}
    assert ids["train"] == list(range(601, 975)) and ids["dev"] == list(range(511, 601))
    assert ids["test"] == [n for n in range(11, 511) if n != 123]
    example = task.split("train")[0]
    assert example.prompt[0]["content"].split("\n") == [
        "Write a function to add 601.",
        "",
        "Your code should pass these tests:",
        *mbpp_row(601)["test_list"],
        "",
        mbpp.INSTRUCTION,
    ]
    answer = "```python\ndef add(n):\n    return n + 601\n```"  # the tests' `math` is the reference's import
    assert task.score(answer, example).correct and not task.score(answer, task.split("train")[1]).correct


def test_mbpp_lets_tests_take_what_the_reference_defines(tmp_path):
    row = mbpp_row(
        601,
        code="class Pair:\n    def __init__(self, a): self.a = a\ndef sum(p): return p.a\ndef aid(): pass",
        test_list=["assert sum(Pair(3)) == 3", "assert sum(pair) == 4", "assert max(1, 2) == 2"],
        test_setup_code="pair = Pair(4)",
    )
    example = load_task("mbpp", data_dir=mbpp_folder(tmp_path, row)).split("train")[0]
    assert example.check.exports == ("Pair", "sum")
    load_task("mbpp", workers=1).require_sound([example])


@pytest.mark.parametrize(
    ("row", "error", "complaint"),
    [
        (
            mbpp_row(605, test_list=[]),
            DataError,
            "mbpp, problem 605: the field 'test_list' should be a list of asserts",
        ),
        (mbpp_row(605, test_list=["assert add("]), TaskError, "mbpp, problem 605: .*was never closed"),
        (mbpp_row(605, code="def add(:"), TaskError, "mbpp, problem 605: invalid syntax"),
        (mbpp_row(605, text=""), DataError, "the field 'text' should be a non-empty text"),
        (mbpp_row(605) | {"task_id": "605"}, DataError, "'task_id' should be a whole number, not '605'"),
    ],
)
def test_malformed_mbpp_is_refused(tmp_path, row, error, complaint):
    with pytest.raises(error, match=complaint):
        load_task("mbpp", data_dir=mbpp_folder(tmp_path, row)).split("train")


def test_a_missing_mbpp_problem_is_named(tmp_path):
    folder = mbpp_folder(tmp_path)
    file = folder / "mbpp/mbpp.jsonl"
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:700]))
    with pytest.raises(DataError, match=r"split 'train': problem 701 is missing \(274 in all\); all of 601-974"):
        load_task("mbpp", data_dir=folder).split("train")


def test_every_published_reference_passes_its_tests():
    folder = os.environ.get("BOOSTLIB_DATA")
    if not folder or not (Path(folder) / mbpp.SOURCE.file).is_file():
        pytest.skip(f"BOOSTLIB_DATA names no folder with {mbpp.SOURCE.file}")
    task = load_task("mbpp")
    rows = load_rows(mbpp.SOURCE, ("text", "code"))
    problems = [task.to_problem(row) for row in rows if row["task_id"] not in mbpp.TOO_SLOW]
    assert len(problems) == 973
    task.require_sound(problems)


# --- HumanEval


def humaneval_rows() -> list[dict]:
    return [
        {
            "task_id": "HumanEval/0",
            "prompt": 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """ Sum them. """\n',
            "canonical_solution": "    return sum(numbers)\n",
            "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) + candidate([]) == 3\n",
            "entry_point": "total",
        },
        {
            "task_id": "HumanEval/1",
            "prompt": 'def shift(n):\n    """helper"""\n    return n + 1\n\n\ndef unshift(n):\n    """undo shift"""\n',
            "canonical_solution": "    return n - 1\n",
            "test": "def check(candidate):\n    for n in range(5):\n        assert candidate(shift(n)) == n\n",
            "entry_point": "unshift",
        },
    ]


@pytest.fixture
def humaneval(tmp_path):
    (tmp_path / "humaneval").mkdir()
    with gzip.open(tmp_path / "humaneval/HumanEval.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in humaneval_rows())
    return load_task("humaneval", data_dir=tmp_path, workers=1)


@pytest.mark.parametrize(
    ("index", "completion", "right"),
    [
        (0, "```python\ndef total(numbers: List[int]) -> int:\n    return sum(numbers)\n```", True),
        (0, "    return sum(numbers)\n\n\ndef other(", True),  # a base model goes on with the raw prompt
        (0, "```python\ndef total(numbers):\n    return 3\n```", False),
        (0, "```python\ndef sum_all(numbers):\n    return sum(numbers)\n```", False),  # the docstring alone is left
        (1, "```python\ndef unshift(n):\n    return n - 1\n```", True),
        (1, "```python\ndef shift(n):\n    return 0\ndef unshift(n):\n    return n\n```", False),
        # the tests call their own `shift`: redefining it to suit the answer does not help
        (1, "```python\ndef shift(n):\n    return n\ndef unshift(n):\n    return n\n```", False),
        (1, "", False),
        (
            0,
            "```python\nfrom __future__ import annotations\n\ndef total(numbers: Later):\n    return sum(numbers)\n```",
            True,
        ),
        (
            0,
            '```python\n"""Sums."""\nfrom __future__ import (\n    annotations,\n)\nimport math\n'
            "def total(numbers):\n    return int(math.fsum(numbers))\n```",
            True,
        ),
        (0, "```python\n    return sum(numbers)\n```", True),  # the body alone
        (0, "```python\n    return 3\n```", False),
        (0, "    \n    return sum(numbers)\n", True),  # lines of blanks first
        (0, "\n  \t\n\n    return sum(numbers)\n", True),
        (0, "    return sum(numbers)\n\nprint(total(1, 2))\n", True),  # it runs on
        (0, "    return sum(numbers)\n\n\nassert total([1]) == 2\n", True),
        (0, "    return sum(numbers)\n\nnumbers = input()\nprint(total(numbers))\n", True),
        (0, "    return sum(numbers)\n\nimport numpy as np\n", True),
        (0, "    return sum(numbers)\n\nif __name__ == '__main__':\n    import doctest\n    doctest.nope()\n", True),
        (0, "    return sum(numbers)\n\n\ndef total(numbers):\n    pass\n", True),
        (0, "    return sum(numbers)\n\n\ndef check(candidate):\n    assert 0\n\n\ncheck(total)\n", True),
        (0, "    return sum(numbers)\n```\n\nThis sums them.\n", True),
        (0, "    return sum(numbers)```\n", True),
        (0, "    return sum(numbers)\n\nThis sums them, I'd say.\n", True),
        (0, "    return aid(numbers)\n\n\ndef aid(numbers):\n    return sum(numbers)\n\nprint(nope)\n", True),
        (0, "    return 3\n\n\ndef total(numbers):\n    return sum(numbers)\n", False),  # the first one counts
        (0, "    return 3\n\nprint(total([3]))\n", False),
        (1, "    return n - 1\n\n\nprint(unshift(shift(1)))\nassert unshift(2) == 2\n", True),
    ],
)
def test_humaneval_programs(humaneval, index, completion, right):
    assert humaneval.score(completion, humaneval.split("test")[index]).correct is right


def test_humaneval_prompt_and_tests_that_do_not_parse(humaneval, tmp_path):
    prompt = humaneval.split("test")[0].prompt[0]["content"]
    assert prompt.startswith(humaneval.instruction) and prompt.endswith('""" Sum them. """\n```')
    with gzip.open(tmp_path / "humaneval/HumanEval.jsonl.gz", "at") as file:
        file.write(json.dumps(humaneval_rows()[0] | {"task_id": "HumanEval/2", "test": "def check("}) + "\n")
    with pytest.raises(TaskError, match="humaneval, problem 'HumanEval/2': the task's tests does not compile"):
        load_task("humaneval", data_dir=tmp_path).split("test")


# --- training


class Wrapped(PythonBasics):
    """What a random model writes counts as a program that is right where the sum of its bytes is even."""

    def program(self, completion, example):
        return f"def double(n):\n    return {2 if sum(completion.encode()) % 2 == 0 else 3} * n"


def test_grpo_trains_on_rewards_from_execution(tiny_llama, tiny_tokenizer):
    model, task, seen = tiny_llama(), Wrapped(max_new_tokens=4, workers=1), []
    adapter = TinyLoRA(SVDBasis.from_model(model, rank=2), AdapterConfig(n_tie=7), round=0).attach(model)
    problems = [replace(problem(), prompt=text) for text in ("count a", "count b")]
    trainer = GRPO(prompts=2, samples=4, max_steps=2, epochs=4)
    done = trainer.train(Subject(model, tiny_tokenizer, task, on_step=seen.append), problems, adapter)
    assert done.steps == len(seen) == 2 and any(done.signal) and adapter.v.any()
    assert all(0 <= reward <= 1 and (8 * reward).is_integer() for reward in done.rewards)  # of 8 programs a step


def test_mbpp_with_a_local_model_and_the_paper_presets_trainer(tiny_llama, tiny_tokenizer, tmp_path):
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    paper = preset("paper", SECTIONS["code"])
    small = replace(
        paper,
        model=str(tmp_path / "model"),
        dtype="fp32",
        task_options={"max_new_tokens": 4, "limits": {"train": 4, "dev": 2, "test": 3}},
        trainer=replace(paper.trainer, prompts=4, samples=2, max_samples=2, max_steps=1, micro_batch=4),
        boost=replace(paper.boost, rounds=1, adapter=replace(paper.boost.adapter, n_tie=7)),
    )
    ledger = run_method(with_method(small, "rotate"), tmp_path / "run", str(mbpp_folder(tmp_path)))
    assert [len(ledger.base.metrics[split].bits()) for split in ("dev", "test")] == [2, 3]
    assert len(ledger.rounds) == 1 and len(ledger.rounds[0].failures) == 4
