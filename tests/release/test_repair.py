"""From a log to a released repair: the same path as `boostlib repair`, on a tiny model with a trainer that is a fake.

The gate's rates are measured end to end: scores of rounds are drawn by lot, and all else is what a user calls.
"""

import json
from collections import Counter

import numpy as np
import pytest
from helpers import FakeTrainer, saved
from log_forms import CASES, FORMS, write
from transformers import AutoModelForCausalLM

import boostlib as bl
from boostlib.__main__ import main
from boostlib.common.errors import BoostError, DataError, RunError
from boostlib.common.stable import philox, stable_seed
from boostlib.evaluation.evaluate import Result
from boostlib.release.cases import DISAGREES, choose, sound_rows
from boostlib.release.repair import NOTHING, PROMOTED, Repair, repair
from boostlib.strategies.paired import promotion_rate
from boostlib.tasks.logs.reading import read_cases
from boostlib.training.grpo import GRPO

MANY = [(f"{i} + 1 =", i + 1, i + (i % 2), bool(i % 2), "odd" if i % 2 else "even") for i in range(1, 121)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def outcomes(monkeypatch):
    """outcomes(rule): every evaluation is decided by rule(pass over this split, its examples) -> right."""

    def use(rule):
        passes: Counter[str] = Counter()

        def evaluate(model, tokenizer, task, split="train", *_, **__):
            examples = task.split(split)
            right = np.array(rule(passes[split], examples), dtype=bool)
            passes[split] += 1
            return Result([e.id for e in examples], right, right, [""] * len(examples), 1, 0.0)

        monkeypatch.setattr("boostlib.evaluation.scoring.evaluate", evaluate)

    return use


def as_logged(number, examples):
    """The untrained model as the log has it; every round then gets all right."""
    return [bool(number) or example.split == "guard" for example in examples]


@pytest.fixture
def call(tiny_llama, tiny_tokenizer, tmp_path):
    """call(log, ...): repair a fresh tiny model into tmp_path/out; what it says is in `call.said`."""

    def run(log, trainer=None, dry_run=False, **settings):
        call_said.clear()
        model = tiny_llama(), tiny_tokenizer
        kwargs = {"trainer": trainer or FakeTrainer(), "dry_run": dry_run, "say": call_said.append}
        return repair(log, model, tmp_path / "out", Repair(**{"rounds": 2, "dtype": "fp32", **settings}), **kwargs)

    call_said: list[str] = []
    run.said = call_said
    return run


# --- a log of each form


@pytest.mark.parametrize("form", FORMS)
def test_a_log_of_each_form_becomes_a_plain_model(form, call, outcomes, tmp_path, monkeypatch):
    outcomes(as_logged)
    if form != "own":
        monkeypatch.setattr("boostlib.release.repair.write_html", lambda *_: None)  # figures take seconds
    done = call(write(form, tmp_path, MANY))
    assert done.status == PROMOTED and "1 of 1 rounds promoted" in done.reason
    out, page = tmp_path / "out", {"report.html"} if form == "own" else set()
    assert {path.name for path in out.iterdir()} == {"cases.jsonl", "run", "model", "README.md"} | page
    plain = AutoModelForCausalLM.from_pretrained(out / "model")
    assert all(p.equal(q) for p, q in zip(plain.parameters(), done.run.model.parameters(), strict=True))
    assert (out / "README.md").read_text() == (out / "model" / "README.md").read_text()
    table = done.table.loc["trained on"]
    assert table["logged failures"] == table["reproduced"] == table["wrong before"] == table["fixed"] > 30
    assert bl.Ledger(out / "run").verify()


@pytest.mark.parametrize(("form", "name"), [("peft", "lora"), ("bundle", "repair.bundle")])
def test_other_releases(form, name, call, outcomes, tmp_path):
    outcomes(as_logged)
    done = call(write("own", tmp_path, MANY), release=form)
    assert done.status == PROMOTED and (tmp_path / "out" / name).exists()
    assert done.run.fingerprint() in (tmp_path / "out" / "README.md").read_text()
    if form == "bundle":
        assert bl.Ledger(tmp_path / "out/run").rounds


# --- what is taken


def test_the_hold_out_is_by_a_hash_of_the_id_and_takes_failures_and_passes_alike(tmp_path):
    reading = read_cases(write("csv", tmp_path, MANY))
    chosen = choose(reading, sound_rows(reading, False)[0], 0.25, 200)
    held = {row["id"] for row in chosen.rows if row["split"] == "test"}
    assert held == {row["id"] for row in chosen.rows if stable_seed("held out", row["id"]) / 2**32 < 0.25}
    assert {row["logged"] for row in chosen.rows if row["id"] in held} == {"failed", "passed"}
    assert {row["logged"] for row in chosen.rows if row["split"] == "guard"} == {"passed"}
    turned = read_cases(write("csv", tmp_path, MANY))
    turned.rows.reverse()
    again = choose(turned, turned.rows, 0.25, 200)
    assert {row["id"]: row["split"] for row in again.rows} == {row["id"]: row["split"] for row in chosen.rows}


def test_at_most_so_many_of_each_split_are_taken_and_the_rest_counted(tmp_path):
    reading = read_cases(write("csv", tmp_path, MANY))
    chosen = choose(reading, reading.rows, 0.25, 10)
    assert [chosen.count(split) for split in ("train", "guard", "test")] == [10, 10, 10]
    assert len(chosen.rows) + sum(chosen.left.values()) == len(MANY)


def test_the_logs_own_splits_stand(tmp_path):
    rows = [{"id": i, "prompt": "x", "expected": "y"} for i in range(60)]
    kinds = [{"kind": "guard"}, {"split": "test"}, {}]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row | kinds[row["id"] % 3]) + "\n" for row in rows))
    reading = read_cases(path)
    chosen = choose(reading, reading.rows, 0.5, 200)
    assert [row["split"] for row in chosen.rows] == ["guard", "test", "train"] * 20
    assert {row.get("logged") for row in chosen.rows if row["split"] == "test"} == {None}


def test_a_case_whose_logged_verdict_is_not_its_score_is_left_out(tmp_path):
    wrong = [(prompt, right, right, False, "odd") for prompt, right, *_ in MANY[:5]]
    reading = read_cases(write("csv", tmp_path, [*wrong, *MANY[5:]]))
    chosen = choose(reading, reading.rows, 0.0, 200)
    assert {where for where, why in chosen.left_out if why == DISAGREES} == {f"line {n}" for n in range(2, 7)}


# --- what ends without a model


def test_a_log_in_which_nothing_is_learned_ends_with_status_3_and_no_model(call, outcomes, tmp_path):
    outcomes(lambda number, examples: [example.split == "guard" for example in examples])
    done = call(write("own", tmp_path, MANY), rounds=4)
    assert done.status == NOTHING and "nothing worth promoting" in done.reason
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cases.jsonl", "run", "report.html"}
    assert len(done.run.rounds) == 3  # the gate's patience
    assert done.table.loc["trained on", "wrong after"] == done.table.loc["trained on", "wrong before"]


def test_failures_of_another_model_that_this_one_does_not_make_are_said(call, outcomes, tmp_path):
    outcomes(lambda number, examples: [True] * len(examples))
    done = call(write("own", tmp_path, MANY))
    assert done.status == NOTHING and "gets every failure right" in done.reason
    assert done.table.loc["trained on", ["logged failures", "reproduced"]].tolist()[1] == 0


def test_too_few_failures_to_pass_the_gate_are_found_before_a_model_is_loaded(call, tmp_path):
    done = call(write("own", tmp_path, CASES[:9]), held_out=0.0)
    assert done.status == NOTHING and "3 failures to train on, and a gain of fewer than 5 never passes" in done.reason
    assert not (tmp_path / "out").exists()


def test_everything_malformed_is_listed_at_once_or_skipped(call, outcomes, tmp_path):
    path = write("own", tmp_path, MANY)
    code = {"id": "c", "prompt": "f", "tests": "assert f() == 1", "reference": "def f(): return 2"}
    path.write_text(path.read_text() + "nonsense\n" * 30 + json.dumps(code) + "\n" + json.dumps({"id": "x"}) + "\n")
    with pytest.raises(DataError) as caught:
        call(path)
    message = str(caught.value)
    assert "line 121-150: not JSON" in message and "line 151: the reference does not pass" in message
    assert message.count("line 152") == 2
    outcomes(as_logged)
    assert call(path, skip_malformed=True).status == PROMOTED
    assert any("malformed, skipped: 32" in text and "line 121-150" in text for text in call.said)


# --- going on


def test_the_same_call_continues_and_a_finished_repair_is_reported_again(call, outcomes, tmp_path):
    outcomes(as_logged)
    log = write("own", tmp_path, MANY)

    def stop(index):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(log, FakeTrainer(on_round=stop))
    assert not (tmp_path / "out/model").exists()
    outcomes(lambda number, examples: as_logged(1, examples))  # the base is on record already
    first = call(log)
    assert first.status == PROMOTED
    again = call(log)
    assert again.status == PROMOTED and again.table.equals(first.table) and again.reason == first.reason
    with pytest.raises(RunError, match="repair of other cases"):
        call(log, held_out=0.5)


def test_a_release_of_an_earlier_state_is_not_passed_off_as_the_present_one(call, outcomes, tmp_path):
    share = iter(np.linspace(0, 1, 4))

    def better(number, examples):
        level = next(share) if examples[0].split == "train" else 1.0
        return [i < level * len(examples) or e.split == "guard" for i, e in enumerate(examples)]

    outcomes(better)
    log = write("own", tmp_path, MANY)
    assert call(log, rounds=1).status == PROMOTED
    with pytest.raises(RunError, match="earlier state of this run: move model"):
        call(log, rounds=2)


# --- the command line


@pytest.fixture
def command(tiny_llama, tiny_tokenizer, tmp_path, monkeypatch):
    model = saved(tmp_path / "tiny", tiny_llama(), tiny_tokenizer)
    monkeypatch.setattr(GRPO, "train", lambda self, *args: FakeTrainer().train(*args))
    return lambda *words: main(["repair", *map(str, words), "--model", model, "--out", str(tmp_path / "out")])


def test_the_command_ends_with_a_table_and_a_status(command, outcomes, tmp_path, capsys):
    outcomes(as_logged)
    log = write("harness", tmp_path, MANY)
    assert command(log, "--cost", "even=5", "--allowed-guards", "0", "--value-on", "train,test") == 0
    last = capsys.readouterr().out.strip().splitlines()[-4:]
    assert last[0].split()[0] == "cases" and [line.split()[0] for line in last[1:]] == ["trained", "held", "guards"]
    gate = bl.Ledger(tmp_path / "out/run").header["identity"]["gate"]
    assert (gate["allowed_guards"], gate["value_on"], gate["adjacent"]) == (0, ["train", "test"], ["test"])
    task = bl.Ledger(tmp_path / "out/run").header["identity"]["task"]
    assert (task["stop"], task["max_new_tokens"], task["costs"]) == ("\\\n", 4, {"even": 5.0})


def test_errors_are_a_line_and_status_1(command, tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("when,what\n1,2\n")
    assert command(path) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert command(write("own", tmp_path, MANY), "--alpha", "7") == 1
    with pytest.raises(BoostError, match="most"):
        Repair(most=0)


def test_a_dry_run_measures_and_leaves_nothing(call, tmp_path):
    wrong = [(f"count {i}", 10**9 + i, 1, False, "x") for i in range(40)]
    done = call(write("own", tmp_path, wrong), GRPO(prompts=2, samples=2, max_steps=3), dry_run=True, max_new_tokens=2)
    assert done.status == PROMOTED and "minutes: 2 rounds, 6 steps" in done.reason
    assert not (tmp_path / "out").exists()


# --- the gate's rates, end to end


@pytest.mark.parametrize("fixed", [0.5, 0.3, 0.85])
def test_the_stated_error_rates_hold_for_simulated_rounds(
    fixed, tiny_llama, tiny_tokenizer, outcomes, tmp_path, monkeypatch
):
    """Each round changes 20 training cases, each fixed with chance `fixed`, else broken; held-out ones by a coin."""
    for slow in ("release.repair.write_html", "release.repair.release", "run.require_agreement"):
        monkeypatch.setattr(f"boostlib.{slow}", lambda *_, **__: None)
    log, verdicts = tmp_path / "log.jsonl", []
    rows = [
        {"id": i, "prompt": f"q{i}", "expected": "y"} | ({"split": "test"} if i % 3 == 0 else {}) for i in range(120)
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    repeats = 100
    for repeat in range(repeats):
        draw = philox("repair", str(fixed), repeat)

        def rule(number, examples, draw=draw):
            right = np.arange(len(examples)) % 2 == 0
            if number:
                wrong, sound = draw.permutation(np.flatnonzero(~right)), draw.permutation(np.flatnonzero(right))
                gained = int((draw.random(20) < (fixed if examples[0].split == "train" else 0.5)).sum())
                right[wrong[:gained]], right[sound[: 20 - gained]] = True, False
            return right

        outcomes(rule)
        settings, model = Repair(rounds=1, dtype="fp32"), (tiny_llama(layers=1), tiny_tokenizer)
        done = repair(log, model, tmp_path / f"out{repeat}", settings, FakeTrainer(), say=lambda text: None)
        assert (done.status == PROMOTED) == done.run.rounds[0].merged
        verdicts.append(done.run.rounds[0].extra["gate"])
    promoted = np.mean([verdict["decision"] == "promote" for verdict in verdicts])
    harmed = np.mean(["lost against" in verdict["reason"] for verdict in verdicts])
    allow = 3 * np.sqrt(0.05 * 0.95 / repeats)
    assert harmed <= 0.05 + allow
    if fixed <= 0.5:
        assert promoted <= 0.05 + allow
    else:
        stated = promotion_rate(20, fixed) * (1 - promotion_rate(20, 0.5))
        assert abs(promoted - stated) <= 3 * np.sqrt(stated * (1 - stated) / repeats)
