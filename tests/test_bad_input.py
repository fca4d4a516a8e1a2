"""Malformed input at every public door: files, rows, settings, run directories, bundles, command lines.

Whatever is wrong, there is one error that names it, no traceback, and every file is as it was before.
"""

import gzip
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import FakeTrainer, ParityTask, config, saved
from recorded import recorded_run

import boostlib as bl
from boostlib import AdapterConfig, BoostError, SVDBasis, TinyLoRA, load_task
from boostlib.__main__ import main
from boostlib.common.errors import DataError
from boostlib.records.bundle import MAGIC
from boostlib.tasks import TASKS

CASE = {"id": "b", "prompt": "2 + 2 =", "expected": "4"}
CODE = {"id": "b", "prompt": "x", "tests": ["assert f(2) == 4"]}
GSM = {"question": "Two and two?", "answer": "2+2=4\n#### 4"}
MATH = {"problem": "1+1?", "answer": "2", "subject": "Algebra", "unique_id": "test/1"}
MBPP = {"task_id": 11, "text": "Double it.", "code": "def f(n): return 2 * n", "test_list": ["assert f(2) == 4"]}
HUMAN = {"task_id": "HumanEval/0", "prompt": "def f(n):\n", "canonical_solution": "    return n\n",
         "test": "def check(c):\n    assert c(1) == 1\n", "entry_point": "f"}  # fmt: skip
CHAT = [{"role": "user", "content": "2 + 2?"}]


@pytest.fixture(scope="module")
def stock(tmp_path_factory, tiny_llama, tiny_tokenizer):
    """A model's folder, a run made of it and a bundle of that run; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("stock")
    saved(folder / "model", tiny_llama(), tiny_tokenizer)
    model, _ = bl.load_model(folder / "model", dtype="fp32", device="cpu")
    recorded_run(folder / "run", model, AdapterConfig(n_tie=7, u=3), rounds=2)
    bl.export_bundle(folder / "run", folder / "run.bundle")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, stock):
    """An empty working directory without network or data; `contents` tells what lies in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BOOSTLIB_DATA", raising=False)
    monkeypatch.setenv("BOOSTLIB_CACHE", str(stock / "cache"))

    def load_dataset(*_args, **_kwargs):
        raise ConnectionError("could not reach the hub")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refused(folder: Path, call, *words: str) -> str:
    """The message of the BoostError that `call` raises, with all `words` in it; `folder` is as it was."""
    before = contents(folder)
    with pytest.raises(BoostError) as caught:
        call()
    message = str(caught.value)
    assert len(message.strip()) > 10 and "Traceback" not in message
    assert all(word in message for word in words), message
    assert contents(folder) == before
    return message


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[f"{i}-{ascii(case)[:40]}" for i, case in enumerate(cases)])


def deep(levels: int = 100_000) -> str:
    return "[" * levels + "]" * levels


# ---- rows of an error log

BAD_ROWS = [
    *({**CASE, "id": value} for value in (None, "", " ", True, 1.5, [], {}, math.nan)),
    *({**CASE, "prompt": value} for value in (None, "", "\n", 3, [], True, CHAT)),
    *({**CASE, "expected": value} for value in (None, "", True, [], {}, math.nan, math.inf, -math.inf)),
    *({"id": "b", "messages": value, "expected": "4"} for value in (
        [], {}, "hello", 3, [{}], ["hello"], [{"role": "user"}], [{"role": "user", "content": ""}],
        [{"role": "user", "content": 3}], [{"role": "assistant", "content": "x"}], [{"role": "usr", "content": "x"}],
        [{"role": "sytem", "content": "x"}, *CHAT], [{"role": "user", "content": "x", "name": "y"}])),
    {**CASE, "messages": CHAT},
    *({**CASE, "score": value} for value in ("", "Exact", "vibes", 3, True, [], {}, "code")),
    *({**CASE, "score": "number", "expected": value} for value in ("many", "nan", "NaN", "None", "inf", "n/a")),
    *({**CASE, "score": "regex", "expected": value} for value in ("(", "[", "*", "(?P<a", "a{2,1}")),
    *({**CASE, "cost": value} for value in (0, -1, "3", True, [], {}, math.nan, math.inf, 10**400, -(10**400))),
    *({**CASE, "class": value} for value in (3, True, [], {}, ["sums"])),
    *({**CASE, "kind": value} for value in ("", "gaurd", "Guard", 3, True, [], {})),
    *({**CASE, "split": value} for value in ("", "dev", "Train", 3, True, [], {})),
    *({**CASE, "kind": "guard", "split": value} for value in ("train", "test")),
    *({"id": "b", "prompt": "x", "tests": value} for value in (None, "", [], [""], 3, {}, [3], "assert f( == 1",
                                                             "def g(): pass", ["assert f(2) =="])),
    {**CODE, "expected": "4"},
    *({**CODE, "score": value} for value in ("exact", "number", "regex", "label")),
    *({**CODE, "reference": value} for value in (3, [], True, {}, "def f(n) return", "def f(n):\nreturn 1")),
    *({**CASE, name: 3} for name in ("costs", "cots", "Cost", " cost", "cost ", "COST", "classs", "clas", "Class",
                                     "kinds", "knid", "scores", "scroe", "Score", "splits", "spilt", "Split")),
    *({**{key: value for key, value in CASE.items() if key != gone}, name: "4"} for gone, name in (
        ("expected", "expect"), ("expected", "exepcted"), ("prompt", "promt"), ("prompt", "Prompt"), ("id", "ID"))),
    {**CASE, "referance": "def f(n): return n"},
    {**CASE, "id": "a"},
]  # fmt: skip
BAD_LINES = [
    "nonsense", "[1, 2]", "3", '"text"', "null", "true", "{", '{"id": "b"', '{"id": "b",}', "{'id': 'b'}", "NaN",
    deep(), '{"id": ' + deep() + "}", '{"x": ' * 50_000 + "1" + "}" * 50_000, "9" * 5000,
    '{"id": "b", "prompt": "x", "expected": "4", "cost": ' + "1" * 5000 + "}",
    '{"id": "b", "prompt": "x", "expected": "4", "expected": "5"}',
    '{"id": "b", "id": "c", "prompt": "x", "expected": "4"}',
    '{"id": "b", "messages": [{"role": "user", "role": "user", "content": "x"}], "expected": "4"}',
    '{"id": "b", "prompt": "\\ud800", "expected": "4"}', '{"id": "b", "prompt": "x", "expected": "\\udfff!"}',
    '{"id": "b", "prompt": "x", "expected": "4", "own": ["\\ud83d"]}', '{"\\ud800": 1}',
    '{"id": "b", "prompt": "a\tb", "expected": "4"}', '{"id": "b", "prompt": "x", "expected": 1e999}',
]  # fmt: skip


@named([*BAD_ROWS, *BAD_LINES])
def test_a_bad_row_of_an_error_log_is_named_by_its_line(place, case):
    path = place / "log.jsonl"
    line = case if isinstance(case, str) else json.dumps(case)
    path.write_text(json.dumps({**CASE, "id": "a"}) + "\n" + line + "\n")
    message = refused(place, lambda: load_task("error_log", path=path), "log.jsonl has ")
    assert len(message) < 600 and all(line.startswith("  line 2: ") for line in message.splitlines()[1:])


# ---- files of rows


def packed(rows: list, cut: int | None = None, broken: int | None = None) -> bytes:
    data = bytearray(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0))
    if broken is not None:
        data[broken : broken + 4] = b"\xff\xff\xff\xff"
    return bytes(data[:cut])


def lines(*rows) -> bytes:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


ALL_MBPP = [{**MBPP, "task_id": number} for number in range(11, 975)]
BAD_FILES = [
    *(("error_log", "log.jsonl", data) for data in (
        b"", b"\n \n", b"\xff\xfe{}", b"\x00", "{}".encode("utf-16"), lines({**CASE, "kind": "guard"}),
        lines({**CASE, "split": "test"}))),
    *(("error_log", "log.jsonl.gz", data) for data in (b"", b"nonsense", packed([CASE] * 50, cut=30),
                                                       packed([CASE] * 50, broken=12), packed([CASE] * 50, cut=-4))),
    *(("gsm8k", "gsm8k/test.jsonl", lines(GSM, row)) for row in (
        "", "x", [], {}, {"question": "a"}, {"answer": "#### 4"}, {**GSM, "question": ""}, {**GSM, "answer": 4},
        {**GSM, "answer": None}, {**GSM, "answer": "4"}, {**GSM, "answer": "#### four"}, {**GSM, "answer": "#### 4.5"},
        {**GSM, "answer": "#### "}, {**GSM, "question": ["a"]}, deep(), '{"question": "\\ud800", "answer": "#### 4"}',
        '{"question": "a", "question": "b", "answer": "#### 4"}') if row != ""),
    ("gsm8k", "gsm8k/test.jsonl", b""),
    ("gsm8k", "gsm8k/test.jsonl", b"\xff\xfe"),
    ("gsm8k", "gsm8k/test.jsonl", lines(GSM)[:-9]),
    *(("math500", "math500/test.jsonl", lines(MATH, row)) for row in (
        MATH, {**MATH, "unique_id": 3}, {**MATH, "problem": ""}, {**MATH, "answer": 2}, {"problem": "p"}, "[]")),
    *(("humaneval", "humaneval/HumanEval.jsonl.gz", data) for data in (
        packed([HUMAN, HUMAN]), packed([{**HUMAN, "test": "def check("}]), packed([{**HUMAN, "entry_point": ""}]),
        packed([{**HUMAN, "prompt": 3}]), packed([HUMAN] * 50, cut=40), packed([HUMAN] * 50, broken=12), b"x")),
    *(("mbpp", "mbpp/mbpp.jsonl", lines(*ALL_MBPP[:row], *change, *ALL_MBPP[row + 1 :])) for row, change in (
        (3, []), (3, [ALL_MBPP[3], ALL_MBPP[3]]), (3, [ALL_MBPP[3], {**ALL_MBPP[3], "text": "Another."}]),
        (3, [{**ALL_MBPP[3], "task_id": "14"}]), (3, [{**ALL_MBPP[3], "task_id": 14.0}]),
        (3, [{**ALL_MBPP[3], "task_id": True}]), (3, [{**ALL_MBPP[3], "test_list": []}]),
        (3, [{**ALL_MBPP[3], "test_list": "assert f(2) == 4"}]), (3, [{**ALL_MBPP[3], "test_list": [3]}]),
        (3, [{**ALL_MBPP[3], "code": "def f("}]), (3, [{**ALL_MBPP[3], "test_list": ["assert f("]}]),
        (3, [{**ALL_MBPP[3], "text": None}]))),
]  # fmt: skip


@named(BAD_FILES)
def test_a_bad_file_of_rows_is_refused_as_it_is_read(place, case):
    name, file, data = case
    path = place / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    where = {"path": path} if name == "error_log" else {"data_dir": place}
    refused(place, lambda: load_task(name, **where).split("train" if name == "error_log" else "test"))


# ---- tables of chains

HEADER = "PDB,Ligand Sequences,Receptor Sequences,KD(M),split"
GOOD = [f"{k}{split},ACD{'KL'[k]}EF,GHI,{kd},{split}"
        for split in ("train", "val", "test") for k, kd in enumerate(("1e-7", "1.1e-7"))]  # fmt: skip
MISSING = ["nan", "NaN", "NAN", "None", "NONE", "null", "NULL", "NA", "na", "N A", "n/a", "#N/A", "<NA>", "-", "--",
           "?", ".", "nil", "missing", "unknown", "undefined", "empty", "blank", "TBD", "True", "False", "inf", "NaT",
           "X", "XXX", "", " ", '"ACD,nan"', '"nan,ACD"', '"ACD,"', '",ACD"', '"ACD,,EF"']  # fmt: skip
BAD_CHAINS = [*MISSING, "ACJD", "AC1", "AC*", "AC-D", "A.C", "ＡＣＤ", "ACſ", "ACßD", "ﬁ", "АСD", "é"]
BAD_KD = ["", "nan", "None", "inf", "0", "-1e-9", ">1e-5", "1e-9 M", "1_0e-9", "1,0", "strong", "1e400", "0x1"]


@named([("Ligand Sequences", text) for text in BAD_CHAINS] + [("Receptor Sequences", text) for text in BAD_CHAINS])
def test_what_is_no_chain_is_named_with_its_row(place, case):
    column, text = case
    ligand, receptor = (text, "GHI") if column.startswith("Ligand") else ("ACD", text)
    path = place / "own.csv"
    path.write_text("\n".join([HEADER, *GOOD, f"x,{ligand},{receptor},1e-9,train"]) + "\n")
    refused(place, lambda: load_task("binding", file=path).split("train"), "row 7", column)


BAD_TABLES = [
    *(("own.csv", [HEADER, *GOOD, f'x,ACD,GH,"{kd}",train'], {}) for kd in BAD_KD),
    *(("own.csv", [HEADER, *GOOD, f"x,ACD,GH,1e-9,{split}"], {}) for split in ("", "holdout", "nan", "train test")),
    ("own.csv", [], {}), ("own.csv", [HEADER], {}), ("own.csv", ["nonsense"], {}), ("own.csv", GOOD, {}),
    ("own.csv", [HEADER + ",split", *(row + ",test" for row in GOOD)], {}),
    ("own.csv", [HEADER + ",KD(M)", *(row + ",1" for row in GOOD)], {}),
    ("own.csv", [HEADER, *GOOD, "x,ACD,EFG,GH,1e-9,train"], {}),
    ("own.csv", [HEADER, *GOOD, 'x,"ACD,GH,1e-9,train'], {}),
    ("own.csv", [HEADER, *GOOD, 'x,"ACD"E,GH,1e-9,train'], {}),
    ("own.tsv", [HEADER, *GOOD], {}),
    ("own.csv.gz", [HEADER, *GOOD], {}),
    ("own.jsonl", [HEADER, *GOOD], {}),
    *(("own.csv", [HEADER, *GOOD], settings) for settings in (
        {"ligand": "heavy"}, {"receptor": "heavy"}, {"kd": "affinity"}, {"label": "binder"}, {"label": "split"},
        {"split_column": "fold"}, {"complex_id": "complex"}, {"label": "KD(M)"}, {"threshold": 1e-9},
        {"threshold": 1e9})),
]  # fmt: skip


@named(BAD_TABLES)
def test_a_bad_table_is_refused(place, case):
    name, rows, settings = case
    (place / name).write_text("".join(row + "\n" for row in rows))
    refused(place, lambda: load_task("binding", file=place / name, **settings).split("train"))


# ---- settings of tasks

NO_COUNT = (0, -1, 1.5, True, "3", None, math.nan, [2], 10**12)
NO_PATH = (3, True, b"data", ["data"], 1.5)
NO_TEXT = (3, None, True, b"x", ["x"])
BAD_SETTINGS = [
    *((name, {"max_new_tokens": value}) for name in ("arithmetic", "gsm8k", "mbpp") for value in NO_COUNT),
    *(("arithmetic", {"train": value}) for value in NO_COUNT[1:]),
    *(("word_problems", {"seed": value}) for value in (-1, 1.5, True, "0", None, 2**63, [0])),
    *(("gsm8k", {"dev": value}) for value in NO_COUNT[1:]),
    *(("gsm8k", {"instruction": value}) for value in NO_TEXT),
    *((name, {"data_dir": value}) for name in ("gsm8k", "arithmetic", "binding") for value in NO_PATH),
    *(("gsm8k", {"limits": value}) for value in ({"train": 0}, {"train": "5"}, {"train": True}, {"val": 3}, {3: 3}, 3,
                                                 "train", [3], ["train"], {"train": math.nan}, {"train": None})),
    *(("math500", {"train_configs": value}) for value in ("algebra", 3, None, ("",), (1,))),
    *(("math500", {"train_hub_id": value}) for value in ("", 3, None)),
    *(("mbpp", {name: value}) for name in ("partial", "unsafe") for value in (0, 1, "yes", None)),
    *(("humaneval", {"workers": value}) for value in (0, -1, 1.5, True, "2")),
    *(("order_binding", {"test": value}) for value in (0, 1, -2, 2.0, True, "8", None, 10**9)),
    *(("synthetic_binding", {"test": value}) for value in (0, 1, -2, 2.0, True, "8", None, 10**9)),
    *(("synthetic_binding", {"max_length": value}) for value in (0, 7, -1, 8.0, True, "64")),
    *(("binding", {"threshold": value}) for value in (0, -1, "high", True, None, math.nan, math.inf)),
    *(("binding", {"similarity": value}) for value in (0, 2, 1.01, -0.5, True, "0.5", None, math.nan)),
    *(("binding", {name: value}) for name in ("ligand", "kd", "split_column", "complex_id") for value in ("", 3, None)),
    *(("binding", {"receptor": value}) for value in ("", 3, True, "Ligand Sequences", "KD(M)", "split")),
    *(("binding", {"label": value}) for value in ("", 3, "Ligand Sequences")),
    *(("binding", {"file": value}) for value in NO_PATH),
    *(("error_log", {"path": value}) for value in (*NO_PATH, None)),
    *(("error_log", {"path": "log.jsonl", "costs": value}) for value in (
        {"sums": 0}, {"sums": "5"}, {"sums": True}, {"sums": math.nan}, {"sums": math.inf}, {"sum": 5}, {3: 5}, 3, [],
        "sums", None, {"sums": 10**400})),
    *(("error_log", {"path": "log.jsonl", "stop": value}) for value in ("(", 3, True, b"x", "[a")),
    *((name, {"nonsense": 3}) for name in TASKS),
]  # fmt: skip


@named(BAD_SETTINGS)
def test_a_bad_setting_of_a_task_is_named(place, case):
    name, settings = case
    (place / "log.jsonl").write_bytes(lines({**CASE, "class": "sums"}))
    message = refused(place, lambda: load_task(name, **settings), name)
    assert len(message) < 400


@named(["", "gsm9k", "GSM8K", None, 3, True, [], {}, ["gsm8k"], b"gsm8k"])
def test_an_unknown_task_is_refused_with_the_known_ones(place, case):
    refused(place, lambda: load_task(case), "known: arithmetic")


@named(["", "none", "log.jsonl/x", "log\0"])
def test_a_folder_of_data_that_is_none_is_named(place, case):
    (place / "log.jsonl").write_bytes(lines(CASE))
    refused(place, lambda: load_task("gsm8k", data_dir=case).split("test"), "data_dir")
    refused(place, lambda: load_task("error_log", path=case or "none"))


# ---- public functions

I2, NAN2 = torch.eye(2), torch.full((2, 2), math.nan)
BAD_FACTORS = [(torch.ones(2), I2), (I2, torch.ones(2)), (None, I2), (I2, [[1.0]]), (3, I2), (np.eye(2), I2),
               (torch.ones(2, 2, 2), I2), (NAN2, I2), (I2, NAN2), (torch.tensor(1.0), I2)]  # fmt: skip
BAD_PAIRS = [([1, 0], [1]), ([], []), (1, 1), ([[1, 0]], [1, 0]), ([math.nan], [1]), (["a"], ["b"]), (None, None),
             ([[1], [1, 0]], [[1], [1, 0]]), (np.ones((1, 1, 1)), np.ones((1, 1, 1)))]  # fmt: skip
CALLS = {
    **{f"epsilon_rank {i}": lambda _, pair=pair: bl.epsilon_rank(*pair) for i, pair in enumerate(BAD_FACTORS)},
    **{f"effective_rank {i}": lambda _, pair=pair: bl.effective_rank(*pair) for i, pair in enumerate(BAD_FACTORS)},
    **{f"overlap {i}": lambda _, pair=pair: bl.subspace_overlap(*pair) for i, pair in enumerate(BAD_FACTORS)},
    "epsilon_rank shapes": lambda _: bl.epsilon_rank(torch.ones(4, 2), torch.ones(3, 4)),
    "overlap shapes": lambda _: bl.subspace_overlap(torch.ones(2, 4), torch.ones(2, 5)),
    "overlap empty": lambda _: bl.subspace_overlap(torch.ones(0, 4), torch.ones(2, 4)),
    **{f"eps {eps}": lambda _, eps=eps: bl.epsilon_rank(I2, I2, eps) for eps in (0, 1, -1, "x", None, math.nan, True)},
    **{f"bootstrap {i}": lambda _, pair=pair: bl.paired_bootstrap(*pair) for i, pair in enumerate(BAD_PAIRS)},
    **{f"resamples {n}": lambda _, n=n: bl.paired_bootstrap([1], [0], resamples=n) for n in (0, -1, 1.5, "9", None)},
    **{f"level {x}": lambda _, x=x: bl.paired_bootstrap([1], [0], level=x) for x in (0, 1, 2, "x", None, math.nan)},
    **{f"rank {r}": lambda s, r=r: SVDBasis.from_model(s.model, rank=r) for r in (0, -1, 1.5, "2", None, True, 999)},
    **{f"targets {t}": lambda s, t=t: SVDBasis.from_model(s.model, 2, t) for t in ("q_proj", ["x"], (), 3, [1], [""])},
    **{f"only {t}": lambda s, t=t: bl.target_modules(s.model, t) for t in ("q_proj", ["x"], (), 3, [None], [""])},
    **{f"modules of {m}": lambda _, m=m: bl.target_modules(m) for m in (None, "smollm2", 3)},
    **{f"round {r}": lambda s, r=r: TinyLoRA(s.basis, AdapterConfig(), round=r) for r in (-1, 2, 1.5, "0", None, True)},
    **{f"adapter {c}": lambda s, c=c: TinyLoRA(s.basis, c) for c in (None, {}, 3)},
    **{f"basis {b}": lambda _, b=b: TinyLoRA(b, AdapterConfig()) for b in (None, {}, "basis")},
    **{f"load_model {ascii(n)}": lambda _, n=n: bl.load_model(n, device="cpu")
       for n in ("", " ", None, 3, True, b"x", [], "none/such", "../a/b/c", "a b", "antiberty", "x\0", ".", "empty")},
    **{f"load_classifier {ascii(n)}": lambda _, n=n: bl.load_classifier(n, device="cpu")
       for n in ("", None, 3, [], "none/such", "smollm2", ".", "empty")},
    **{f"{load} dtype {d}": lambda s, d=d, load=load: getattr(bl, load)(s.folder / "model", dtype=d)
       for load in ("load_model", "load_classifier") for d in ("int8", "", None, 3, [], torch.int8, "fp64")},
    **{f"{load} device {d}": lambda s, d=d, load=load: getattr(bl, load)(s.folder / "model", device=d)
       for load in ("load_model", "load_classifier") for d in ("gpu", "", None, 3, [], "cpu:x", "cuda:x", "mps")},
    **{f"preset {n}": lambda _, n=n: bl.preset(n) for n in ("", "huge", "Demo", None)},
    **{f"report of {x}": lambda _, x=x: bl.class_report(x, ParityTask()) for x in (None, "run", 3)},
    "report of another task": lambda s: bl.class_report(bl.Ledger(s.run), load_task("arithmetic")),
    **{f"report with {x}": lambda s, x=x: bl.class_report(bl.Ledger(s.run), x) for x in (None, "arithmetic", 3)},
    **{f"page of {x}": lambda _, x=x: bl.write_html(x, None, "page.html") for x in (None, "run", 3)},
    "page with a task's name": lambda s: bl.write_html(bl.Ledger(s.run), "arithmetic", "page.html"),
    "bundle of a folder": lambda s: bl.Bundle(s.run),
    **{f"{e} to {ascii(p)}": lambda s, p=p, e=e: getattr(bl, e)(s.run, p)
       for e in ("export_merged", "export_peft", "export_bundle") for p in (3, None, [], "", True, b"x")},
    **{f"page to {ascii(p)}": lambda s, p=p: bl.write_html(bl.Ledger(s.run), None, p) for p in (3, None, [], "", ".")},
    "a classifier for texts": lambda s: bl.train_head(s.parts[0], s.parts[1], load_task("arithmetic")),
    **{f"replay round {r}": lambda s, r=r: bl.replay(s.run, round=r) for r in (2, 99, -2, 1.5, "1", True)},
    **{f"replay of {ascii(p)}": lambda _, p=p: bl.replay(p) for p in ("", "none", "empty", 3, None, [])},
    **{f"{e} round {r}": lambda s, r=r, e=e: getattr(bl, e)(s.run, "out/x", round=r)
       for e in ("export_merged", "export_peft", "export_bundle") for r in (2, -2, 1.5, "1")},
    **{f"{e} onto {p}": lambda s, p=p, e=e: getattr(bl, e)(s.run, p)
       for e in ("export_merged", "export_peft", "export_bundle") for p in ("empty", "file", "file/x")},
    **{f"{e} of {p}": lambda _, p=p, e=e: getattr(bl, e)(p, "out/x")
       for e in ("export_merged", "export_peft", "export_bundle") for p in ("none", "empty", "file", 3, None)},
    "export_peft of the untrained model": lambda s: bl.export_peft(s.run, "out/x", round=-1),
    **{f"page at {p}": lambda s, p=p: bl.write_html(bl.Ledger(s.run), None, p) for p in ("empty", "none/x", "file/x")},
    **{f"boost into {p}": lambda s, p=p: bl.boost(*s.parts, ParityTask(), FakeTrainer(), config(1), p, progress=False)
       for p in ("file", "file/x")},
    "boost without a test split": lambda s: bl.boost(*s.parts, load_task("python_basics"), FakeTrainer(),
                                                     config(1, held_out=("none",)), "new", progress=False),
}  # fmt: skip


class Stock:
    """What a call may need, read when it is asked for."""

    def __init__(self, folder: Path, run: Path, parts: tuple):
        self.folder, self.run, self.parts, self.model = folder, run, parts, parts[0]

    @property
    def basis(self) -> SVDBasis:
        return SVDBasis.from_model(self.model, 4)


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_argument_is_named(place, stock, tiny_llama, tiny_tokenizer, name):
    shutil.copytree(stock / "run", place / "run")
    (place / "empty").mkdir()
    (place / "file").write_text("mine")
    given = Stock(stock, place / "run", (tiny_llama(), tiny_tokenizer))
    refused(place, lambda: CALLS[name](given))


# ---- runs and bundles that were damaged


def edited(file: str, change):
    def damage(run: Path) -> None:
        path = run / file
        path.write_bytes(change(path.read_bytes()))

    return damage


def header(change):
    def damage(data: bytes) -> bytes:
        row = json.loads(data)
        change(row)
        return json.dumps(row).encode()

    return edited("run.json", damage)


LEDGER, RUN, FIRST = "ledger.jsonl", "run.json", "rounds/0000.safetensors"
DAMAGES = {
    "no run.json": lambda run: (run / RUN).unlink(),
    "run.json is empty": edited(RUN, lambda _: b""),
    "run.json is cut": edited(RUN, lambda data: data[:50]),
    "run.json is a list": edited(RUN, lambda _: b"[]"),
    "run.json is a number": edited(RUN, lambda _: b"3"),
    "run.json is no text": edited(RUN, lambda _: b"\xff\xfe\x00"),
    "run.json is deep": edited(RUN, lambda _: deep().encode()),
    "no identity": header(lambda row: row.pop("identity")),
    "identity is a text": header(lambda row: row.update(identity="x")),
    "another seed": header(lambda row: row["identity"].update(seed=1)),
    "ledger is empty": edited(LEDGER, lambda _: b""),
    "ledger is gone": lambda run: (run / LEDGER).unlink(),
    "first line gone": edited(LEDGER, lambda data: data[data.index(b"\n") + 1 :]),
    "last lines gone": edited(LEDGER, lambda data: b"".join(data.splitlines(keepends=True)[:-2])),
    "line twice": edited(LEDGER, lambda data: data + data.splitlines(keepends=True)[-1]),
    "a digit": edited(LEDGER, lambda data: data.replace(b'"train_accuracy":0.5', b'"train_accuracy":0.6', 1)),
    "no JSON": edited(LEDGER, lambda data: b"x" + data),
    "a blank line": edited(LEDGER, lambda data: b"\n" + data),
    "deep": edited(LEDGER, lambda data: deep().encode() + b"\n" + data),
    "bytes": edited(LEDGER, lambda data: b"\xff\xfe\n" + data),
    "no round": lambda run: (run / FIRST).unlink(),
    "round is empty": edited(FIRST, lambda _: b""),
    "round is cut": edited(FIRST, lambda data: data[:-3]),
    "round is noise": edited(FIRST, lambda _: b"\x07" * 99),
    "round is another": lambda run: shutil.copy(run / "rounds/0001.safetensors", run / FIRST),
}
COMMANDS = (["verify"], ["replay"], ["report"])


@pytest.mark.parametrize("command", COMMANDS[:1], ids=" ".join)
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_refused_and_left_as_it_is(place, stock, capsys, name, command):
    shutil.copytree(stock / "run", place / "run")
    DAMAGES[name](place / "run")
    ends(place, capsys, [*command, "run"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"nonsense",
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:200] + b"\x00" + data[201:],
        lambda data: MAGIC,
        lambda data: MAGIC + b"0" * 64 + b"\nx",
        lambda data: data.replace(b"bundle 1", b"bundle 2", 1),
        lambda data: b"PK\x03\x04" + data,
    ],
)
def test_a_damaged_bundle_is_refused(place, stock, capsys, damage, command):
    (place / "b").write_bytes(damage((stock / "run.bundle").read_bytes()))
    ends(place, capsys, [*command, "b"])


# ---- command lines


def ends(folder: Path, capsys, argv: list[str]) -> None:
    """`argv` ends with one error, explained (status 1) or of argparse's (status 2), and nothing is changed."""
    before = contents(folder)
    try:
        status = main(argv)
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    last = [line for line in error.splitlines() if "error: " in line]
    assert status in (1, 2) and len(last) == 1 and "Traceback" not in error, (status, error)
    assert contents(folder) == before


BOOST = ["boost", "--run-dir", "new", "--preset", "smoke", "--model", "none/such"]
COMMAND_LINES = [
    [], ["nonsense"], ["--preset", "demo"], ["boost", "nonsense"], ["boost", "--nonsense"],
    *([*BOOST, option, value] for option, values in (
        ("--rounds", ("0", "-1", "1.5", "x", "nan", "", "1000000000000")),
        ("--seed", ("-1", "1.5", "x", "", "99999999999999999999")),
        ("--learning-rate", ("nan", "inf", "-inf", "0", "-1", "x", "")),
        ("--numbers", ("0", "-1", "7", "x", "")),
        ("--rank", ("0", "-1", "x")), ("--u", ("0", "-1", "1000000", "x")), ("--n-tie", ("0", "-1", "x")),
        ("--max-steps", ("0", "-1", "x", "1.5")), ("--blocks", ("0", "5")), ("--candidates", ("0", "5")),
        ("--probe-batches", ("0", "5")), ("--choose", ("all", "", "both")), ("--method", ("nonsense", "")),
        ("--scaling", ("none", "")), ("--dtype", ("int8", "fp64", "")), ("--section", ("none", "")),
        ("--preset", ("huge", "")), ("--task", ("nonsense", "", "error_log", "gsm8k")),
        ("--w0-device", ("gpu", "", *(() if torch.cuda.is_available() else ("cuda",)))),
        ("--data-dir", ("", "none", "file")), ("--run-dir", ("", " ", "a\0b")), ("--model", ("", " ", "none", ".")),
        ("--vllm", ("gpu2:8000", "ftp://x", "")),
    ) for value in values),
    [*BOOST, "--method", "greedy", "--rounds", "9", "--blocks", "3"], [*BOOST, "--method", "greedy", "--blocks", "0"],
    [*BOOST, "--method", "greedy", "--candidates", "0"], [*BOOST, "--method", "greedy", "--probe-batches", "-1"],
    [*BOOST, "--method", "full", "--drafts"], [*BOOST, "--section", "protein", "--drafts"],
    [*BOOST, "--section", "protein", "--vllm"], [*BOOST, "--section", "protein", "--task", "arithmetic"],
    [*BOOST, "--task", "synthetic_binding"], [*BOOST, "--method", "lora", "--task", "synthetic_binding"],
    [*BOOST, "--section", "binding"], [*BOOST, "--method", "lora"],
    *(["report", *rest] for rest in ([], [""], ["none"], ["empty"], ["file"], ["run", "none"], ["run", "other"],
                                     ["other", "run"], ["run", "--html", ""], ["run", "--html", "empty"],
                                     ["run", "--html", "none/x"], ["run", "other", "--html", "x"],
                                     ["run", "--html", "file/x"], ["run", "--data-dir", ""])),
    *(["doctor", "--model", name] for name in ("", "none", "empty", "file", "run", "a/b/c", "\0")),
    *(["replay", *rest] for rest in ([], [""], ["none"], ["empty"], ["file"], ["run", "--round", "99"],
                                     ["run", "--round", "-2"], ["run", "--round", "x"], ["run", "--round", "1.5"],
                                     ["run", "--save", "empty"], ["run", "--save", "file"], ["run", "--save", ""],
                                     ["run", "--save", "file/x"], ["run", "--save", "out", "--round", "99"])),
    *(["verify", *rest] for rest in ([], [""], ["none"], ["empty"], ["file"], ["none", "--repair"],
                                     ["empty", "--repair"], ["bundle", "--repair"], ["run", "--data-dir", ""])),
    *(["export", *rest] for rest in (
        [], [""], ["run"], ["none", "--merged", "out"], ["empty", "--peft", "out"], ["file", "--bundle", "out"],
        *(["run", kind, target] for kind in ("--merged", "--peft", "--bundle")
          for target in ("", "empty", "file", "file/x", "run")),
        *(["run", kind, "out", "--round", round] for kind in ("--merged", "--peft", "--bundle")
          for round in ("99", "-2", "x", "")),
        ["run", "--peft", "out", "--round", "-1"], ["run", "--merged", "out", "--bundle", "file"],
        ["run", "--merged", "out", "--peft", "empty"])),
    *(["reproduce", *rest] for rest in (["--only", "99"], ["--only", ""], ["--only", "01,"], ["--only", ",01"],
                                        ["--only", "01,99"], ["--only", "x"], ["--preset", "huge"], ["--out", ""],
                                        ["--only", "99", "--out", "new"], ["--only", "00", "--out", "file"],
                                        ["--only", "00", "--out", "file/x"])),
    *(["bench", *rest] for rest in (["nonsense"], [""], ["fold", "--json", ""], ["fold", "--steps", "x"],
                                    ["round", "--steps", "0"], ["round", "--steps", "-1"])),
    ["fetch", "x"], ["doctor", "x"], ["doctor", "--x"],
]  # fmt: skip


@named(COMMAND_LINES)
def test_a_bad_command_line_ends_with_one_error(place, stock, capsys, case):
    shutil.copytree(stock / "run", place / "run")
    shutil.copytree(stock / "run", place / "other")
    header(lambda row: row["identity"].update(data={"test": "another"}))(place / "other")
    shutil.copy(stock / "run.bundle", place / "bundle")
    (place / "empty").mkdir()
    (place / "file").write_text("mine")
    ends(place, capsys, case)


# ---- what is right, though it may look wrong


def test_what_looks_odd_and_is_right_is_read(place):
    empty = dict.fromkeys(("class", "cost", "kind", "split", "score", "tests", "reference", "messages"))
    rows = [
        {**CASE, **empty, "time": math.nan, "own": {"costs": 3}},
        {**CASE, **empty, "id": 2, "prompt": None, "messages": CHAT, "expected": 0.00001, "score": "number"},
        {**CASE, "id": "c", "prompt": "one\u2028line\x85of\x0btext\x1c", "class": "", "cost": 1e300},
        {**CODE, "id": "d", "expected": None, "reference": None},
    ]
    text = "".join("\ufeff" + json.dumps(row, ensure_ascii=False).replace("\\u000b", "\\u000B") + "\n" for row in rows)
    for name in ("log.jsonl", "LOG.JSONL"):
        (place / name).write_text(text, encoding="utf-8")
        cases = load_task("error_log", path=place / name).cases
        assert [case.id for case in cases] == ["b", "2", "c", "d"]
        assert cases[1].answer == "0.00001" and cases[2].prompt == rows[2]["prompt"]


@pytest.mark.parametrize("name", ["own.csv", "OWN.CSV", "own.tsv", "own.TSV"])
def test_tables_by_any_ending_with_and_without_a_mark_at_the_beginning(place, name):
    text = "\n".join([HEADER, *GOOD, 'x,"ACD,EF",GH,1e-9,train']) + "\n"
    if name.lower().endswith("tsv"):
        text = text.replace('"ACD,EF"', "ACD;EF").replace(",", "\t").replace(";", ",")
    for mark in ("", "\ufeff"):
        (place / name).write_text(mark + text, encoding="utf-8")
        rows = load_task("binding", file=place / name).split("train")
        assert [row.prompt for row in rows] == ["ACDKEF|GHI", "ACDLEF|GHI", "ACD,EF|GH"]


def test_a_mark_at_the_beginning_of_a_published_file(place):
    (place / "gsm8k").mkdir()
    (place / "gsm8k/test.jsonl").write_text("\ufeff" + json.dumps(GSM) + "\n", encoding="utf-8")
    assert load_task("gsm8k", data_dir=place).split("test")[0].answer == "4"


def test_everything_that_is_wrong_with_a_log_is_one_error(place):
    (place / "log.jsonl").write_bytes(lines(*(row for row in BAD_ROWS[:12]), *BAD_LINES[:6]))
    with pytest.raises(DataError, match=r"has 2\d problems"):
        load_task("error_log", path="log.jsonl")
