"""The loop: what it records is true, and a run that was stopped anywhere ends as if it had not been."""

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import helpers
import pytest
import torch
from helpers import CoinTask, FakeTrainer, Killed, ParityTask, config, ends_as_undisturbed, prints, same_runs
from transformers import MixtralConfig, MixtralForCausalLM

from boostlib import (
    BoostConfig,
    BoostError,
    Ledger,
    LowRankUpdate,
    boost,
    effective_rank,
    epsilon_rank,
    evaluate,
    replay,
)
from boostlib.common.errors import DataError, LedgerError, ModelError, RunError
from boostlib.models.language import default_device


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@dataclass
class Kit:
    """One kind of model and task that the loop must treat alike."""

    build: Callable
    tokenizer: object
    make_task: Callable
    files: int  # written before the first line of the ledger

    def model(self, seed=0, dtype=torch.float32, tied=True):
        model = self.build(seed, dtype)
        if not tied and self.make_task is ParityTask:
            model.lm_head.weight = torch.nn.Parameter(0.5 * model.lm_head.weight.detach())
            model.config.tie_word_embeddings = False
        return model

    def task(self, **sizes):
        return self.make_task(**sizes)


@pytest.fixture
def kit(request, tiny_llama, tiny_tokenizer, tiny_classifier, tiny_protein_tokenizer):
    """A language model with completions to score, or, where a test asks for both, a classifier with labels too."""
    if getattr(request, "param", "texts") == "labels":
        return Kit(tiny_classifier, tiny_protein_tokenizer, CoinTask, files=2)  # its head is a file of its own
    return Kit(tiny_llama, tiny_tokenizer, ParityTask, files=1)


both = pytest.mark.parametrize("kit", ["texts", "labels"], indirect=True)


@pytest.fixture
def start(kit, tmp_path):
    """start(name="run", rounds=3, ...): one call of boost on a fresh model."""

    def run(name="run", rounds=3, task=None, trainer=None, dtype=torch.float32, tied=True, model=None, seed=0, **more):
        model = kit.model(seed, dtype, tied) if model is None else model
        arguments = task or kit.task(), trainer or FakeTrainer(), config(rounds, **more)
        return boost(model, kit.tokenizer, *arguments, tmp_path / name, progress=False)

    return run


# --- what is recorded


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_agree_with_the_evaluations(start, kit, dtype, tmp_path):
    run, task = start(dtype=dtype), kit.task()
    assert [row.index for row in run.rounds] == [0, 1, 2]
    before = None
    for k in range(-1, 3):
        model = replay(tmp_path / "run", k, model=kit.model(dtype=dtype))
        train, test = (evaluate(model, kit.tokenizer, task, split, progress=False) for split in ("train", "test"))
        row = run.base if k < 0 else run.rounds[k]
        assert row.train_accuracy == train.accuracy and row.train_strict == train.strict_accuracy
        assert row.metrics["test"].bits() == test.correct.tolist()
        assert (row.metrics["test"].accuracy, row.metrics["test"].strict) == (test.accuracy, test.strict_accuracy)
        assert sorted(run.ledger.failures_after(k + 1)) == sorted(train.failures)
        if k >= 0:
            assert sorted(row.failures) == sorted(before)
            assert set(row.fixed) == set(before) - set(train.failures)
            assert set(row.broken) == set(train.failures) - set(before)
            assert (row.steps, row.tokens, row.samples, row.num_parameters) == (1, len(before), 2, 6)
            assert row.degrees_of_freedom == 6 and row.plan == [(k, 0)] * 2
        before = train.failures
    assert any(row.fixed for row in run.rounds) and any(row.broken for row in run.rounds)  # else nothing was tested
    assert len({row.weights_fingerprint for row in [run.base, *run.rounds]}) == 4
    assert len({row.seed for row in run.rounds}) == 3


@both
def test_norms_and_ranks_are_those_of_the_update(start):
    run = start()
    squares = sum(float((b.double() @ a.double()).square().sum()) for b, a in run.update.values())
    assert run.rounds[-1].update_norm == pytest.approx(squares**0.5, rel=1e-6)
    assert run.update.norm() == run.rounds[-1].update_norm
    assert run.rounds[0].update_norm == pytest.approx(run.rounds[0].adapter_norm)
    assert all(row.fold_retention == pytest.approx(1, abs=1e-3) for row in run.rounds)


@both
@pytest.mark.parametrize(("strategy", "rank"), [("rotate", 6), ("top", 2), ("greedy", 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rank_grows_with_rotate_and_greedy_and_stays_with_top(start, strategy, rank, dtype):
    run = start(strategy=strategy, dtype=dtype, tied=dtype == torch.float32)
    for name, factors in run.update.items():
        assert epsilon_rank(*factors, eps=1e-6) == rank, name
        assert effective_rank(*factors) <= rank + 1e-6


@both
def test_the_model_ends_at_the_last_round_without_a_trace(start, kit, tmp_path):
    run = start()
    assert run.fingerprint() == run.rounds[-1].weights_fingerprint
    assert prints(run.model) == prints(replay(tmp_path / "run", model=kit.model()))
    assert not hasattr(run.model, "boost_adapter") and all(p.requires_grad for p in run.model.parameters())
    assert list(run.model.state_dict()) == list(kit.model().state_dict())


@both
def test_only_target_weights_change(start, kit):
    run, plain = start(), kit.model().state_dict()
    changed = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, plain[name])}
    assert changed == {f"{name}.weight" for name in run.basis}


@both
def test_training_sees_the_failures_in_the_order_of_the_task(start, kit):
    seen = []

    class Watching(FakeTrainer):
        def train(self, subject, examples, adapter, seed=0):
            seen.append([e.id for e in examples])
            return super().train(subject, examples, adapter, seed)

    run = start(trainer=Watching())
    order = [e.id for e in kit.task().split("train")]
    assert seen == [[id for id in order if id in row.failures] for row in run.rounds]


# --- going on


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dtype": torch.bfloat16},
        {"strategy": "top", "tied": False},
        {"scaling": "normalized", "n_tie": 14, "u": 1},
        {"strategy": "greedy", "tied": False, "n_tie": 5},
        {"strategy": "greedy", "n_tie": 1, "u": 1},
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(start, settings):
    whole = start("whole", 3, **settings)
    for rounds in (1, 2, 3):  # each call a fresh model, and more rounds than the one before
        parts = start("parts", rounds, **settings)
    assert same_runs(whole.ledger, parts.ledger)
    assert prints(whole.model) == prints(parts.model)


@both
def test_a_finished_run_trains_nothing_more(start):
    first, trainer = start(), FakeTrainer()
    text = first.ledger.path.read_bytes()
    again = start(trainer=trainer)
    assert trainer.trained == [] and again.ledger.path.read_bytes() == text
    assert prints(again.model) == prints(first.model)


@both
def test_fewer_rounds_than_there_are_leave_the_run_as_it_is(start):
    whole = start()
    again = start(rounds=1)
    assert len(again.rounds) == 3
    assert prints(again.model) == prints(whole.model)


def test_nothing_answered_wrongly_ends_the_run(start):
    class Solved(ParityTask):
        def score(self, completion, example):
            return helpers.Score(True, True)

    trainer = FakeTrainer()
    run = start(task=Solved(), trainer=trainer)
    assert (run.rounds, run.base.failures, trainer.trained) == ([], [], [])
    assert len(start(task=Solved(), trainer=trainer).rounds) == 0


@both
@pytest.mark.parametrize("strategy", ["rotate", "greedy"])
def test_a_skipped_round_is_recorded_and_merges_nothing(start, kit, tmp_path, strategy):
    run = start(trainer=FakeTrainer(skip=(1,)), strategy=strategy)
    first, skipped, last = run.rounds
    assert skipped.skipped == "nothing to learn" and not skipped.merged
    assert skipped.weights_fingerprint == first.weights_fingerprint != last.weights_fingerprint
    assert (skipped.fixed, skipped.broken, skipped.metrics) == ([], [], first.metrics)
    assert skipped.train_accuracy == first.train_accuracy and skipped.update_norm == first.update_norm
    assert skipped.failures == last.failures
    assert {epsilon_rank(*factors, eps=1e-6) for factors in run.update.values()} == {4}
    assert prints(replay(tmp_path / "run", 1, kit.model())) == prints(replay(tmp_path / "run", 0, kit.model()))
    again = start("again", trainer=FakeTrainer(skip=(1,)), rounds=2, strategy=strategy)
    again = start("again", trainer=FakeTrainer(skip=(1,)), strategy=strategy)
    assert same_runs(run.ledger, again.ledger)


# --- another identity


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "model.fingerprint was"),
        ({"dtype": torch.bfloat16}, "model.dtype was 'float32', is 'bfloat16'"),
        ({"u": 2}, "adapter.u was 3, is 2"),
        ({"strategy": "top"}, "adapter.strategy was 'rotate', is 'top'"),
        ({"held_out": ()}, "held_out was"),
        ({"targets": ("q_proj",)}, "targets was None"),
        ({"batch_size": 3}, "batch_size was 64, is 3"),
        ({"trainer": FakeTrainer(scale=1.0)}, "trainer.scale was 3.0, is 1.0"),
        ({"task": ParityTask(train=11)}, "data.train was"),
        ({"task": ParityTask(test=5)}, "data.test was"),
        ({"task": ParityTask(max_new_tokens=1)}, "task.max_new_tokens was 2, is 1"),
    ],
)
def test_another_identity_is_refused_and_the_difference_named(start, change, named):
    text = start(rounds=1).ledger.path.read_bytes()
    with pytest.raises(RunError, match="another identity") as caught:
        start(rounds=1, **change)
    assert named in str(caught.value)
    assert Ledger(_dir(caught)).path.read_bytes() == text


def _dir(caught) -> str:
    return str(caught.value).split(" holds a run")[0]


def test_another_seed_is_refused(kit, tmp_path):
    def call(seed):
        return boost(
            kit.model(), kit.tokenizer, ParityTask(), FakeTrainer(), config(1, seed=seed), tmp_path, progress=False
        )

    call(0)
    with pytest.raises(RunError, match="seed was 0, is 1"):
        call(1)


def test_settings_that_json_changes_are_still_the_same_run(start):
    class Tuples(FakeTrainer):
        def settings(self):
            return {"betas": (0.9, 0.999), "steps": {1: 2}}

    start(rounds=1, trainer=Tuples())
    assert len(start(rounds=2, trainer=Tuples()).rounds) == 2


@both
def test_the_same_call_on_the_boosted_model_goes_on_while_its_run_is_at_hand(start):
    """Running a notebook's cell again: the model holds the rounds already, and the run still knows W0."""
    run = start("cut", rounds=1)
    resumed = start("cut", rounds=2, model=run.model)
    assert same_runs(start("whole", rounds=2).ledger, resumed.ledger)


@both
def test_a_boosted_model_whose_run_is_gone_is_refused_and_stays_as_it_is(start, kit):
    model = kit.model()
    start("cut", rounds=1, model=model)
    before = prints(model)
    with pytest.raises(RunError, match="load it again"):
        start("cut", rounds=2, model=model)
    assert prints(model) == before


@both
def test_another_run_may_start_from_a_boosted_model(start, kit):
    run = start("first", rounds=1)
    boosted = prints(run.model)
    second = start("second", rounds=1, model=run.model)
    assert second.base.weights_fingerprint == run.rounds[-1].weights_fingerprint
    assert prints(second.model) != boosted


def test_a_header_that_is_gone_does_not_start_another_run(start):
    run = start(rounds=1)
    (run.dir / "run.json").unlink()
    with pytest.raises(RunError, match="run.json"):
        start(rounds=2, seed=1)


# --- bad input


def test_duplicate_ids_are_named(start):
    class Twice(ParityTask):
        def split(self, name):
            return [*super().split(name), super().split(name)[0]]

    with pytest.raises(DataError, match="id 'train-0' occurs twice"):
        start(task=Twice())


def test_rounds_beyond_the_smallest_weight_are_refused_before_anything_is_written(start, tmp_path):
    with pytest.raises(BoostError, match="between 1 and 32"):
        start(rounds=17)
    assert not (tmp_path / "run" / "run.json").exists()
    start(rounds=17, strategy="top", trainer=FakeTrainer(skip=tuple(range(17))))


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda model: model.half(), "is in float16, in which `replay` cannot load it again: load it in bf16 or fp32"),
        (lambda model: model.double(), "is in float64"),
        (torch.compile, "OptimizedModule .* is not the plain model: it was compiled"),
        (torch.nn.DataParallel, "DataParallel .* is not the plain model"),
        (lambda model: model.to("meta"), r"q_proj is not in memory \(device meta\)"),
    ],
)
def test_a_model_that_no_run_can_be_made_of_is_refused_before_anything_is_written(
    start, tiny_llama, tmp_path, change, remedy
):
    with pytest.raises(ModelError, match=remedy):
        start("refused", model=change(tiny_llama()))
    assert not (tmp_path / "refused").exists()


def test_a_model_of_its_own_code_is_another_run_and_is_not_loaded_by_a_record(start, tiny_llama, monkeypatch):
    plain = start("plain", rounds=1)
    model = tiny_llama()
    monkeypatch.setattr(type(model), "_auto_class", "AutoModelForCausalLM")
    with pytest.raises(RunError, match="model.own_code was None, is True"):
        start("plain", rounds=2, model=model)
    run = start("own", rounds=1, model=model)
    assert "own_code" not in plain.ledger.header["identity"]["model"]
    with pytest.raises(RunError, match="trust_remote_code=True, and pass it as model="):
        replay(run.dir)
    assert prints(replay(run.dir, model=run.model)) == prints(run.model)


def test_a_run_says_how_much_of_the_blocks_it_leaves_as_it_is(tiny_tokenizer, tmp_path, caplog):
    sizes = dict(vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=4, num_key_value_heads=2)).eval()
    settings = dict(model=model, tokenizer=tiny_tokenizer, task=ParityTask(), trainer=FakeTrainer())
    run = boost(**settings, config=config(rounds=1, n_tie=8), run_dir=tmp_path / "run")
    lines = [r.getMessage() for r in caplog.records if "of the numbers in the matrices of the blocks" in r.getMessage()]
    assert len(lines) == 1 and lines[0].startswith("MixtralForCausalLM: only 14.2% of the numbers")
    assert "model.layers.*.mlp.experts.gate_up_proj (56.8%), model.layers.*.mlp.experts.down_proj (28.4%)" in lines[0]
    caplog.clear()
    run.weights.set(LowRankUpdate())
    boost(**settings, config=config(rounds=1, n_tie=8, targets=("q_proj", "k_proj")), run_dir=tmp_path / "named")
    assert "of the numbers in the matrices" not in caplog.text


@pytest.mark.parametrize("rounds", [0, -1])
def test_no_rounds_is_an_error(rounds):
    with pytest.raises(BoostError, match=f"rounds={rounds}"):
        BoostConfig(rounds=rounds)


@both
def test_an_edited_ledger_stops_the_run_before_the_model_changes(start, kit):
    run = start(rounds=2)
    text = run.ledger.path.read_bytes()
    run.ledger.path.write_bytes(text.replace(b'"index":1', b'"index":7'))
    model = kit.model()
    with pytest.raises(LedgerError, match="line 3: .*last good round: 0"):
        start(model=model)
    assert prints(model) == prints(kit.model())


@both
def test_a_second_call_on_the_same_run_is_refused(start):
    def meddle(index):
        with pytest.raises(RunError, match="in use by another process"):
            start()

    assert len(start(rounds=1, trainer=FakeTrainer(on_round=meddle)).rounds) == 1


# --- replay


@both
@pytest.mark.parametrize("strategy", ["rotate", "greedy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replay_gives_every_round_bit_for_bit(start, kit, tmp_path, dtype, strategy):
    seen = {}
    run = start(rounds=1, dtype=dtype, strategy=strategy)
    seen[0] = prints(run.model)
    for k in (1, 2):
        seen[k] = prints(start(rounds=k + 1, dtype=dtype, strategy=strategy).model)
    seen[-1] = prints(kit.model(dtype=dtype))
    for k, expected in seen.items():
        assert prints(replay(tmp_path / "run", k, model=kit.model(dtype=dtype))) == expected
    assert prints(replay(str(tmp_path / "run"), model=kit.model(dtype=dtype))) == seen[2]
    assert len(set(seen.values())) == 4


@both
def test_replay_refuses_another_model_and_an_unknown_round(start, kit, tmp_path):
    start(rounds=1)
    with pytest.raises(RunError, match="not the model"):
        replay(tmp_path / "run", model=kit.model(1))
    for k in (1, -2):
        with pytest.raises(RunError, match=f"rounds 0 to 0 .*not {k}"):
            replay(tmp_path / "run", k, model=kit.model())
    with pytest.raises(RunError, match="holds no run"):
        replay(tmp_path / "other", model=kit.model())


# --- stopped anywhere


@both
@pytest.mark.parametrize("strategy", ["rotate", "greedy"])
def test_after_an_interrupt_while_training_the_same_call_on_the_same_model_continues(start, kit, tmp_path, strategy):
    whole = start("whole", strategy=strategy)

    def interrupt(index):
        if index == 2:
            raise KeyboardInterrupt

    model = kit.model()
    with pytest.raises(KeyboardInterrupt):
        start("cut", model=model, trainer=FakeTrainer(on_round=interrupt), strategy=strategy)
    assert len(Ledger(tmp_path / "cut").rounds) == 2
    assert prints(model) == prints(kit.model()) != prints(whole.model)
    assert not hasattr(model, "boost_adapter") and all(p.requires_grad for p in model.parameters())
    resumed = start("cut", model=model, strategy=strategy)
    assert same_runs(whole.ledger, resumed.ledger) and prints(resumed.model) == prints(whole.model)


@both
def test_an_error_while_evaluating_leaves_the_model_as_given_and_the_last_round_recorded(
    start, kit, tmp_path, monkeypatch
):
    whole, model, calls = start("whole"), kit.model(), itertools.count()

    def fail(*arguments, **more):
        if next(calls) == 5:  # the second split of the second round: merged, but not recorded
            raise RuntimeError("evaluation failed")
        return evaluate(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["boostlib.evaluation.scoring"], "evaluate", fail)
        with pytest.raises(RuntimeError):
            start("cut", model=model)
    assert len(Ledger(tmp_path / "cut").rounds) == 1
    assert prints(model) == prints(kit.model())
    trainer = FakeTrainer()
    assert same_runs(whole.ledger, start("cut", trainer=trainer).ledger)
    assert trainer.trained == [2]  # round 1 was trained already


POINTS = 17  # base, and 5 in each of 3 rounds, and one after the base's line; and one for each file before it


@both
def test_every_file_has_points_before_and_after_it(start, kit, die_at):
    passed = die_at(None)
    start()
    assert len(passed) == POINTS + kit.files
    each = ["before the round file", "before renaming .safetensors", "after the round file"]
    lines = ["before the ledger line", "after the ledger line"]
    first = ["before renaming .safetensors"] * (kit.files - 1)
    assert passed == [*first, "before renaming .json", *lines, *3 * [*each, *lines]]


@both
@pytest.mark.parametrize(("skip", "strategy"), [((), "rotate"), ((1,), "rotate"), ((1,), "greedy")])
def test_killed_at_any_point_a_run_ends_as_if_undisturbed(start, kit, die_at, skip, strategy, tmp_path):
    def call(name):
        task = kit.task(train=8, test=3, **({"max_new_tokens": 1} if kit.make_task is ParityTask else {}))
        trainer = FakeTrainer(skip=skip)
        return start(name, task=task, trainer=trainer, dtype=torch.bfloat16, strategy=strategy)

    whole = call("whole")
    assert [bool(row.skipped) for row in whole.rounds] == [t in skip for t in range(3)]
    assert len(whole.rounds) == 3
    ends_as_undisturbed(call, whole, die_at, POINTS + kit.files)


@both
def test_killed_again_and_again_a_run_still_ends(start, die_at):
    whole = start("whole")
    for n in itertools.cycle((2, 4, 1, 3)):
        die_at(n)
        try:
            resumed = start("cut")
            break
        except Killed:
            pass
    assert same_runs(whole.ledger, resumed.ledger) and prints(whole.model) == prints(resumed.model)


@both
@pytest.mark.parametrize("cut", [0, 20, 200])
def test_torn_files_are_made_anew(start, tmp_path, cut):
    """A file that lost its end although it was flushed: the round is trained again."""
    whole, part = start("whole"), start("cut", rounds=2)
    ledger, lines = part.ledger, part.ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    path = ledger.v_path(1)
    path.write_bytes(path.read_bytes()[:cut])
    trainer = FakeTrainer()
    resumed = start("cut", trainer=trainer)
    assert trainer.trained == [1, 2]
    assert same_runs(whole.ledger, resumed.ledger) and prints(whole.model) == prints(resumed.model)


# --- processes of their own


@pytest.fixture
def saved(tiny_llama, tiny_tokenizer, tmp_path):
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def process(saved, run_dir, rounds=3, sleep=0.0, **environment) -> subprocess.Popen:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(here / "helpers.py"), saved, str(run_dir), str(rounds), str(sleep)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_another_process_gives_the_same_ledger(saved, start, tmp_path):
    other = process(saved, tmp_path / "other", PYTHONHASHSEED="7")
    here = start("here")
    output = other.communicate()[0].split()
    assert (output[0], output[-1]) == ("started", "done")
    there = Ledger(tmp_path / "other")
    assert same_runs(there, here.ledger)
    assert prints(replay(there.dir)) == prints(here.model)  # loaded by its recorded name


@pytest.mark.slow
def test_killed_twenty_times_at_random_a_run_ends_as_if_undisturbed(saved, start, tmp_path):
    rounds, draw, kills = 12, random.Random(0), 0
    whole = start("whole", rounds=rounds)
    while kills < 20:
        run_dir = tmp_path / f"killed{kills}"
        while True:
            one = process(saved, run_dir, rounds, sleep=0.1)
            one.stdout.readline()
            time.sleep(draw.uniform(0, 2.5))
            if one.poll() is not None:
                break
            one.kill()
            kills += 1
            one.wait()
        assert one.returncode == 0
        assert same_runs(whole.ledger, Ledger(run_dir))
        assert prints(replay(run_dir)) == prints(whole.model)


def test_w0_on_another_device_gives_the_same_run(tiny_llama, tiny_tokenizer, tmp_path):
    """On the CPU alone "cpu" is where W0 lies anyway; on a GPU this is the transfer there and back."""
    ledgers = []
    for name, place in (("here", None), ("cpu", "cpu")):
        model = tiny_llama(dtype=torch.bfloat16).to(default_device())
        made = boost(model, tiny_tokenizer, ParityTask(), FakeTrainer(), config(2, w0_device=place), tmp_path / name,
                     progress=False)  # fmt: skip
        assert place is None or {w0.device.type for w0 in made.weights.w0.values()} == {"cpu"}
        ledgers.append(made.ledger)
    assert same_runs(*ledgers)
    assert ledgers[0].header["identity"] == ledgers[1].header["identity"]  # either continues the other
