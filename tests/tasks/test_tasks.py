"""Tasks: loading, splits, settings and errors. What scorers accept and refuse is in test_scorers.py."""

import gzip
import json
import sys
import types
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from boostlib.common.errors import BoostError, DataError
from boostlib.common.stable import fingerprint_json
from boostlib.tasks import TASKS, Example, LabelTask, load_task
from boostlib.tasks.base import cut, held_out, require_unique_ids
from boostlib.tasks.rows import Source, load_rows, read_jsonl

GENERATED = ("arithmetic", "word_problems")
GSM_ROW = {"question": "Two and two?", "answer": "2+2=<<2+2=4>>4\n#### 4"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test reaches the hub: `datasets` answers as it does without network."""
    monkeypatch.delenv("BOOSTLIB_DATA", raising=False)

    def load_dataset(*_args, **_kwargs):
        raise ConnectionError("could not reach the hub")

    fake_hub(monkeypatch, load_dataset)


def fake_hub(monkeypatch, load_dataset):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


def write_jsonl(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def gsm_rows(n: int) -> list[dict[str, str]]:
    return [{"question": f"What is {i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(n)]


# ---- reading files


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"question": "a", "answer": ', r"train\.jsonl, line 2: not JSON"),
        ("[1, 2]", "line 2: a JSON object is expected, not a list"),
        ('{"question": "a", "gold": "b"}', "line 2: the field 'answer' is missing; fields found: question, gold"),
        ('{"question": "a", "answer": 4}', "line 2: the field 'answer' should be a non-empty text, not 4"),
        ('{"question": " ", "answer": "b"}', "line 2: the field 'question' should be a non-empty text, not ' '"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, complaint):
    path = write_jsonl(tmp_path / "train.jsonl", [GSM_ROW, line])
    with pytest.raises(DataError, match=complaint):
        read_jsonl(path, ("question", "answer"))


def test_line_numbers_count_blank_lines(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", [GSM_ROW, "", "", "nonsense"])
    with pytest.raises(DataError, match="line 4"):
        read_jsonl(path)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.jsonl is empty"):
        read_jsonl(path)


def test_bytes_that_are_no_text_are_an_error(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"question": "\xff\xfe"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl cannot be read"):
        read_jsonl(path)


def test_gzipped_files_are_read_and_cut_off_ones_refused(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    packed = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in gsm_rows(200)))
    path.write_bytes(packed)
    assert read_jsonl(path, ("question",)) == gsm_rows(200)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        read_jsonl(path)


# ---- finding data


def test_data_dir_goes_before_the_environment(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "a/gsm8k/test.jsonl", gsm_rows(1))
    write_jsonl(tmp_path / "b/gsm8k/test.jsonl", gsm_rows(2))
    monkeypatch.setenv("BOOSTLIB_DATA", str(tmp_path / "b"))
    assert len(load_task("gsm8k").split("test")) == 2
    assert len(load_task("gsm8k", data_dir=tmp_path / "a").split("test")) == 1


def test_the_hub_is_asked_when_the_folder_lacks_the_file(tmp_path, monkeypatch):
    asked = []

    def load_dataset(hub_id, config, split):
        asked.append((hub_id, config, split))
        return gsm_rows(3)

    fake_hub(monkeypatch, load_dataset)
    assert len(load_task("gsm8k", data_dir=tmp_path).split("test")) == 3
    assert asked == [("openai/gsm8k", "main", "test")]


def test_without_folder_and_hub_one_error_names_both_remedies(tmp_path):
    with pytest.raises(DataError) as caught:
        load_task("gsm8k", data_dir=tmp_path).split("test")
    message = str(caught.value)
    for part in (str(tmp_path / "gsm8k/test.jsonl"), "openai/gsm8k", "could not reach the hub", "BOOSTLIB_DATA"):
        assert part in message
    with pytest.raises(DataError, match="BOOSTLIB_DATA is not set"):
        load_task("math500").split("test")


def test_a_folder_that_is_none_is_an_error_even_where_the_hub_would_answer(tmp_path, monkeypatch):
    fake_hub(monkeypatch, lambda *_args, **_kwargs: gsm_rows(3))
    with pytest.raises(DataError, match="data_dir is '.*typo', which is not a folder"):
        load_task("gsm8k", data_dir=tmp_path / "typo").split("test")
    monkeypatch.setenv("BOOSTLIB_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match="BOOSTLIB_DATA is '.*typo', which is not a folder"):
        load_task("gsm8k").split("test")


def test_rows_of_the_hub_are_checked_too(monkeypatch):
    fake_hub(monkeypatch, lambda *_args, **_kwargs: [GSM_ROW, {"question": "a"}])
    with pytest.raises(DataError, match="openai/gsm8k, split 'test', row 2: the field 'answer' is missing"):
        load_task("gsm8k").split("test")


def test_the_parts_of_a_hub_data_set_are_joined(monkeypatch):
    fake_hub(monkeypatch, lambda _hub_id, config, split: [{"text": f"{config} {split}"}])
    rows = load_rows(Source("x/train.jsonl", "some/set", "train", ("one", "two")), ("text",))
    assert [row["text"] for row in rows] == ["one train", "two train"]
    assert load_rows(Source("x/train.jsonl", "some/set", "train"), ()) == [{"text": "None train"}]


# ---- tasks by name, settings, limits


def test_unknown_names_list_the_known_ones():
    with pytest.raises(BoostError, match="unknown task 'gsm9k'; known: .*gsm8k"):
        load_task("gsm9k")
    with pytest.raises(BoostError, match="arithmetic has no setting 'sizes'; its settings: dev, .*seed, test, train"):
        load_task("arithmetic", sizes=3)
    with pytest.raises(DataError, match="arithmetic has no split 'validation'; its splits: train, dev, test"):
        load_task("arithmetic").split("validation")
    with pytest.raises(DataError, match="gsm8k has no split 'val'; its splits: train, dev, test"):
        load_task("gsm8k", limits={"val": 3})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("arithmetic", {"train": "256"}),
        ("arithmetic", {"train": -1}),
        ("arithmetic", {"seed": 1.5}),
        ("word_problems", {"max_new_tokens": 0}),
        ("gsm8k", {"dev": True}),
        ("math500", {"dev": -5}),
        ("math500", {"train_configs": "algebra"}),
        ("gsm8k", {"limits": {"train": 0}}),
    ],
)
def test_settings_out_of_range_are_refused(name, settings):
    with pytest.raises(BoostError, match=name):
        load_task(name, **settings)


NEED_A_FILE = ("error_log", "labelled_texts")  # test_error_log.py, test_texts.py


@pytest.mark.parametrize("name", [name for name in TASKS if name not in NEED_A_FILE])
def test_settings_are_plain_json_and_hold_every_setting_but_paths(name, tmp_path):
    own = {"max_length": 9} if issubclass(TASKS[name], LabelTask) else {"max_new_tokens": 7}
    task = load_task(name, data_dir=tmp_path, limits={"test": 3}, **own)
    settings = task.settings()
    assert settings == json.loads(json.dumps(settings))
    assert settings["name"] == name and own.items() <= settings.items() and settings["limits"] == {"test": 3}
    assert "data_dir" not in settings and str(tmp_path) not in json.dumps(settings)
    assert settings != load_task(name, limits={"test": 4}, **own).settings()
    assert settings == load_task(name, limits={"test": 3}, **own).settings()


def test_settings_differ_wherever_the_examples_do():
    assert load_task("arithmetic", seed=1).settings() != load_task("arithmetic").settings()
    assert load_task("gsm8k", instruction="Go.").settings() != load_task("gsm8k").settings()
    assert load_task("math500", train_configs=("algebra",)).settings()["train_configs"] == ["algebra"]


def test_limits_cut_a_nested_random_sample_in_order():
    full = load_task("arithmetic").split("train")
    small = load_task("arithmetic", limits={"train": 20}).split("train")
    more = load_task("arithmetic", limits={"train": 50}).split("train")
    places = [full.index(example) for example in more]
    assert len(small) == 20 and set(small_ids(small)) < set(small_ids(more))
    assert places == sorted(places) and max(places) > 200, "a sample of the whole, not its head"
    assert load_task("arithmetic", limits={"train": 20}).split("dev") == load_task("arithmetic").split("dev")
    assert load_task("arithmetic", limits={"train": 9999}).split("train") == full


def small_ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


def test_a_sample_depends_on_its_key():
    examples = [Example(str(i), "p", "a") for i in range(100)]
    assert cut(examples, 10, "a", "train") == cut(examples, 10, "a", "train")
    assert cut(examples, 10, "a", "train") != cut(examples, 10, "a", "test")


def test_a_split_cannot_be_changed_by_its_reader():
    task = load_task("arithmetic")
    task.split("train").clear()
    assert len(task.split("train")) == 256


def test_duplicate_ids_are_named(tmp_path):
    with pytest.raises(DataError, match="here: the id 'b' occurs twice"):
        require_unique_ids([Example(id, "p", "a") for id in "abcb"], "here")
    row = {"problem": "p", "answer": "a", "subject": "s", "unique_id": "test/1.json"}
    write_jsonl(tmp_path / "math500/test.jsonl", [row, row])
    with pytest.raises(DataError, match=r"math500, split 'test': the id 'test/1\.json' occurs twice"):
        load_task("math500", data_dir=tmp_path).split("test")


# ---- generated tasks


@pytest.mark.parametrize("name", GENERATED)
def test_splits_are_disjoint_and_have_their_sizes(name):
    task = load_task(name)
    ids = [small_ids(task.split(split)) for split in ("train", "dev", "test")]
    assert [len(part) for part in ids] == [256, 256, 256]
    assert len(set().union(*ids)) == 768


@pytest.mark.parametrize("name", GENERATED)
def test_problems_with_the_same_numbers_in_another_order_share_a_split(name):
    task = load_task(name)
    home = {}
    for split in task.splits:
        for example in task.split(split):
            words = example.id.split()
            key = tuple(sorted(words))
            assert home.setdefault(key, split) == split, example.id
    assert len(home) < 768, "there are such pairs at all"


@pytest.mark.parametrize("name", GENERATED)
def test_worked_problems_lie_in_no_split(name):
    task = load_task(name)
    ids = {tuple(sorted(example.id.split())) for split in task.splits for example in task.split(split)}
    worked = {
        "arithmetic": ("7 + 5", "9 - 3", "8 * 4", "12 + 6"),
        "word_problems": ("buys 7 5", "gives 9 3", "bags 4 3", "shares 10 2"),
    }
    assert not ids & {tuple(sorted(problem.split())) for problem in worked[name]}


@pytest.mark.parametrize("name", GENERATED)
def test_the_seed_alone_decides(name):
    first, again, other = (load_task(name, seed=seed).split("train") for seed in (3, 3, 4))
    assert first == again and set(small_ids(first)) != set(small_ids(other))


@pytest.mark.parametrize("name", GENERATED)
def test_dev_and_test_do_not_depend_on_the_size_of_train(name):
    small, large = load_task(name, train=8), load_task(name)
    assert small.split("test") == large.split("test") and small.split("dev") == large.split("dev")
    assert len(small.split("train")) == 8


@pytest.mark.parametrize("name", GENERATED)
def test_a_split_of_size_zero_does_not_exist(name):
    task = load_task(name, dev=0)
    assert task.splits == ("train", "test")
    with pytest.raises(DataError, match="no split 'dev'"):
        task.split("dev")


@pytest.mark.parametrize("name", GENERATED)
def test_sizes_that_the_ranges_cannot_fill_are_refused(name):
    with pytest.raises(BoostError, match=r"problems needed for test, dev, train together, but only \d+ exist"):
        load_task(name, train=3000).split("test")


@pytest.mark.parametrize(
    ("name", "fingerprint"), [("arithmetic", "1d84a67c65aaeed9"), ("word_problems", "3c061eb21ebd144f")]
)
def test_every_machine_generates_these_examples(name, fingerprint):
    """A change here is a change of every run on the task: rename the task, or say so, rather than edit the value."""
    task = load_task(name)
    examples = [[asdict(example) for example in task.split(split)] for split in task.splits]
    assert fingerprint_json(examples).startswith(fingerprint)


def test_arithmetic_prompts_kinds_and_answers():
    for split in ("train", "dev", "test"):
        examples = load_task("arithmetic").split(split)
        assert Counter(e.kind for e in examples) == {"addition": 150, "subtraction": 82, "multiplication": 24}
        for example in examples:
            a, sign, b = example.id.split()
            assert example.prompt == f"7 + 5 = 12\n9 - 3 = 6\n8 * 4 = 32\n12 + 6 = 18\n{a} {sign} {b} ="
            assert int(example.answer) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
            low, high = min(int(a), int(b)), max(int(a), int(b))
            assert low >= 2 and high <= (12 if sign == "*" else 30) and int(example.answer) >= 0


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 10, 33, 100])
def test_arithmetic_fills_any_size(size):
    task = load_task("arithmetic", train=size, dev=size, test=size)
    assert [len(task.split(split)) for split in task.splits] == [size] * 3


def test_arithmetic_mixes_kinds_in_order():
    kinds = [example.kind for example in load_task("arithmetic").split("train")]
    assert len(set(kinds[:20])) == 3 and len(set(kinds[-20:])) == 3


def test_word_problems_prompts_and_answers():
    solve = {
        "buys": lambda a, b: a + b,
        "boxes": lambda a, b: a + b,
        "gives": lambda a, b: a - b,
        "more": lambda a, b: a - b,
        "bags": lambda a, b: a * b,
        "hours": lambda a, b: a * b,
        "shares": lambda a, b: a / b,
        "packs": lambda a, b: a / b,
        "loses": lambda a, b, c: a + b - c,
        "keeps": lambda a, b, c: a * b - c,
    }
    examples = [example for split in ("train", "dev", "test") for example in load_task("word_problems").split(split)]
    for example in examples:
        template, *numbers = example.id.split()
        question = example.prompt.rpartition("\n\n")[2]
        assert question.startswith("Q: ") and question.endswith("?\nA:") and "{" not in question
        assert all(number in question for number in numbers)
        assert float(example.answer) == solve[template](*map(int, numbers)) >= 2
    assert Counter(example.id.split()[0] for example in examples).keys() == solve.keys()
    assert min(Counter(example.kind for example in examples).values()) >= 150
    assert examples[0].prompt.startswith("Q: ") and examples[0].prompt.count("\nA: ") == 4
    assert len({example.prompt.rpartition("\n\n")[2].split()[1] for example in examples}) > 8, "names vary"


def test_the_worked_word_problems_are_right():
    from boostlib.tasks.word_problems import SHOTS

    prompt = load_task("word_problems").split("test")[0].prompt
    blocks = prompt.split("\n\n")[:-1]
    assert [block.rpartition("A: ")[2] for block in blocks] == ["12", "6", "12", "5"]
    assert len(blocks) == len(SHOTS)


# ---- GSM8K and MATH from small files


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "gsm8k/train.jsonl", gsm_rows(60))
    write_jsonl(tmp_path / "gsm8k/test.jsonl", gsm_rows(5))
    tests = [{"problem": f"T{i}", "answer": str(i), "subject": "Algebra", "unique_id": f"test/{i}"} for i in range(4)]
    write_jsonl(tmp_path / "math500/test.jsonl", tests)
    train = [{"problem": f"P{i}", "solution": rf"It is $\boxed{{{i}}}$.", "type": "Geometry"} for i in range(30)]
    leak = {"problem": "T2 ", "solution": r"$\boxed{2}$", "type": "Algebra"}
    write_jsonl(tmp_path / "math/train.jsonl", [*train[:10], leak, *train[10:]])
    return tmp_path


@pytest.mark.parametrize(("name", "total"), [("gsm8k", 60), ("math500", 30)])
def test_dev_is_held_out_of_train(name, total, folder):
    task = load_task(name, data_dir=folder, dev=12)
    train, dev = task.split("train"), task.split("dev")
    everything = load_task(name, data_dir=folder, dev=0)
    assert (len(train), len(dev)) == (total - 12, 12)
    assert sorted(small_ids(train + dev)) == sorted(small_ids(everything.split("train")))
    assert everything.splits == ("train", "test")
    assert dev != everything.split("train")[:12], "by a hash, not the head"
    with pytest.raises(DataError, match=f"dev={total} leaves nothing to train on: .* {total} examples"):
        load_task(name, data_dir=folder, dev=total).split("train")


def test_held_out_does_not_depend_on_the_order():
    examples = [Example(str(i), f"question {i}", "a") for i in range(50)]
    _, dev = held_out(examples, 10)
    _, again = held_out(examples[::-1], 10)
    assert set(dev) == set(again) and len(dev) == 10
    assert held_out(examples, 0) == (examples, [])


def test_gsm8k_prompt_and_gold(folder):
    example = load_task("gsm8k", data_dir=folder).split("test")[3]
    assert example.id == "test-4" and example.answer == "4"
    assert [message["role"] for message in example.prompt] == ["user"]
    assert example.prompt[0]["content"].startswith("What is 3 + 1?\n\n") and "####" in example.prompt[0]["content"]
    own = load_task("gsm8k", data_dir=folder, instruction="Be brief.").split("test")[3]
    assert own.prompt[0]["content"] == "What is 3 + 1?\n\nBe brief."


@pytest.mark.parametrize("answer", ["It is 4.", "#### four", "#### 4.5"])
def test_gsm8k_without_a_gold_number_is_an_error(tmp_path, answer):
    write_jsonl(tmp_path / "gsm8k/test.jsonl", [GSM_ROW, {"question": "a", "answer": answer}])
    with pytest.raises(DataError, match="gsm8k, test-2: the field 'answer' should end in '#### n'"):
        load_task("gsm8k", data_dir=tmp_path).split("test")


def test_math_train_and_test(folder):
    task = load_task("math500", data_dir=folder, dev=0)
    train, test = task.split("train"), task.split("test")
    assert [example.answer for example in train] == [str(i) for i in range(30)]
    assert {example.kind for example in train} == {"Geometry"} and {example.kind for example in test} == {"Algebra"}
    assert test[1].id == "test/1" and r"\boxed{}" in test[1].prompt[0]["content"]


def test_math_drops_training_problems_of_math500(folder):
    train = load_task("math500", data_dir=folder, dev=0).split("train")
    assert len(train) == 30 and not any(example.prompt[0]["content"].startswith("T2") for example in train)


def test_math_solutions_need_a_box(folder):
    write_jsonl(folder / "math/train.jsonl", [{"problem": "p", "solution": "It is 4.", "type": "Algebra"}])
    with pytest.raises(DataError, match=r"math/train\.jsonl, row 1: the field 'solution' holds no \\boxed"):
        load_task("math500", data_dir=folder).split("train")


def test_the_hub_id_of_math_is_a_setting(folder, monkeypatch):
    (folder / "math/train.jsonl").unlink()
    asked = []

    def load_dataset(hub_id, config, split):
        asked.append((hub_id, config, split))
        return [{"problem": f"{config}?", "solution": r"\boxed 7", "type": "Algebra", "level": "Level 1"}]

    fake_hub(monkeypatch, load_dataset)
    load_task("math500", data_dir=folder, dev=0).split("train")
    assert len(asked) == 7 and asked[0] == ("EleutherAI/hendrycks_math", "algebra", "train")
    asked.clear()
    task = load_task("math500", data_dir=folder, dev=0, train_hub_id="my/math", train_configs=())
    assert task.split("train")[0].answer == "7" and asked == [("my/math", None, "train")]
