"""The gate: its error rates on streams whose truth is known, and runs through it that can be stopped and replayed."""

import itertools
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from helpers import FakeTrainer, ParityTask, config, ends_as_undisturbed, prints, same_runs
from scipy.stats import binomtest

from boostlib import BoostError, Gate, Ledger, boost, epsilon_rank, evaluate, load_task, replay
from boostlib.analysis.tables import rounds_table
from boostlib.common.errors import DataError, RunError
from boostlib.common.stable import fingerprint_tensors, philox
from boostlib.strategies.gate import decide, failing_guards
from boostlib.strategies.paired import promotion_rate, sign_flip_p
from boostlib.tasks.base import Example

ROUNDS = 1_000


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


# --- the test


@pytest.mark.parametrize(("fixed", "broken"), [(5, 0), (4, 0), (14, 2), (7, 7), (0, 3), (300, 240)])
def test_with_equal_costs_it_is_the_exact_sign_test(fixed, broken):
    gains = [2.5] * fixed + [-2.5] * broken + [0.0] * 9
    expected = binomtest(fixed, fixed + broken, alternative="greater").pvalue
    assert sign_flip_p(gains) == pytest.approx(expected, rel=1e-5)


def test_with_unequal_costs_it_is_the_share_of_sign_flips_that_do_as_well():
    gains = np.array([5, 3, 3, 1, 1, 1, -1, -3, 0.1, -0.1])
    sums = [np.dot(signs, np.abs(gains)) for signs in itertools.product((-1, 1), repeat=len(gains))]
    assert sign_flip_p(gains) == pytest.approx(np.mean(np.array(sums) >= gains.sum() - 1e-9), rel=1e-5)


def test_many_different_costs_are_sampled_close_to_the_truth_and_the_same_each_time():
    gains = philox("costs").random(40) - 0.4
    p = sign_flip_p(gains)
    flips = philox("flips").choice([-1, 1], (100_000, 40)) @ np.abs(gains)
    assert p == pytest.approx(np.mean(flips >= gains.sum()), abs=0.02) and p == sign_flip_p(gains)


def test_nothing_changed_is_no_evidence():
    assert sign_flip_p([]) == sign_flip_p([0.0, 0.0]) == 1.0
    assert decide(Gate(), np.zeros(4)).decision == "reject"


# --- error rates: 1,000 simulated rounds each


def stream(name: str, share_fixed: float, changed: int = 20, costs=(1.0,)) -> np.ndarray:
    """(ROUNDS, changed) gains: each changed case fixed with probability `share_fixed`, costs drawn by lot."""
    random = philox("stream", name)
    signs = np.where(random.random((ROUNDS, changed)) < share_fixed, 1.0, -1.0)
    return signs * random.choice(costs, (ROUNDS, changed))


def promoted(gate: Gate, gains: np.ndarray, **more) -> float:
    return float(np.mean([decide(gate, row, **more).decision == "promote" for row in gains]))


def within(rate: float, stated: float) -> bool:
    """Whether a rate over the simulated rounds is compatible with the stated one, at four standard deviations."""
    return abs(rate - stated) <= 4 * np.sqrt(stated * (1 - stated) / ROUNDS) + 1e-9


@pytest.mark.parametrize("costs", [(1.0,), (1.0, 3.0, 5.0)])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_noise_is_promoted_at_a_rate_of_at_most_alpha(alpha, costs):
    rate = promoted(Gate(alpha=alpha), stream(f"noise {costs}", 0.5, costs=costs))
    assert 0 < rate <= alpha + 4 * np.sqrt(alpha * (1 - alpha) / ROUNDS)
    if len(costs) == 1:
        assert within(rate, promotion_rate(20, 0.5, alpha))


@pytest.mark.parametrize("share", [0.4, 0.2])
def test_harm_is_rejected(share):
    rate = promoted(Gate(), stream(f"harm {share}", share))
    assert within(rate, promotion_rate(20, share)) and rate <= 0.05


@pytest.mark.parametrize(("changed", "share"), [(20, 0.75), (20, 0.8), (30, 0.75), (10, 1.0)])
def test_rounds_that_help_are_promoted_at_the_stated_rate(changed, share):
    rate = promoted(Gate(), stream(f"help {changed} {share}", share, changed))
    assert within(rate, promotion_rate(changed, share))


def test_the_rates_in_the_docstring_are_the_computed_ones():
    from boostlib.strategies import gate

    assert f"{promotion_rate(20, 0.75):.2f} for m = 20, q = 0.75; {promotion_rate(20, 0.8):.2f} for q" in gate.__doc__
    assert promotion_rate(5, 1.0) == 1.0 and promotion_rate(4, 1.0) == 0.0


def test_a_round_that_costs_more_than_it_fixes_is_rejected_however_many_it_fixes():
    gains = np.array([1.0] * 12 + [-20.0])
    verdict = decide(Gate(), gains)
    assert (verdict.decision, verdict.net, verdict.gained, verdict.lost) == ("reject", -8.0, 12.0, 20.0)
    assert decide(Gate(), np.sign(gains)).decision == "promote"  # at equal costs it would pass


def test_a_broken_guard_rejects_whatever_was_gained():
    gains = stream("guards", 0.9)[:200]
    assert promoted(Gate(), gains, guards_wrong=1) == 0.0
    assert promoted(Gate(allowed_guards=1), gains, guards_wrong=1) == promoted(Gate(), gains) > 0.9
    assert promoted(Gate(allowed_guards=1), gains, guards_wrong=2) == 0.0


def test_adjacent_splits_reject_harm_and_let_noise_pass_at_the_stated_rate():
    gate, good = Gate(harm=0.05), np.ones(20)

    def rejected(changes):
        return np.mean([decide(gate, good, adjacent={"near": row}).decision == "reject" for row in changes])

    noise, harm = stream("adjacent noise", 0.5, 40), stream("adjacent harm", 0.2, 40)
    assert 0 < rejected(noise) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / ROUNDS)
    assert within(rejected(harm), promotion_rate(40, 0.8))
    assert "near lost" in decide(gate, good, adjacent={"near": -np.ones(9)}).reason


# --- runs


@dataclass
class GuardedTask(ParityTask):
    """Parity with guards: texts whose answer under the untrained model is what they ask for, by `golds`."""

    golds: tuple[str, ...] = ("1",) * 6
    kinds: tuple[str, ...] = ("odd", "even")

    def split(self, name):
        if name == "guard":
            return [Example(f"guard-{i}", f"guard {i}", gold, self.kinds[i % 2]) for i, gold in enumerate(self.golds)]
        return super().split(name)


@pytest.fixture
def guarded(tiny_llama, tiny_tokenizer):
    """A task all of whose guards the untrained model gets right."""
    blank = GuardedTask()
    found = evaluate(tiny_llama(), tiny_tokenizer, blank, "guard", progress=False)
    return GuardedTask(golds=tuple("1" if right else "0" for right in found.correct))


@pytest.fixture
def start(tiny_llama, tiny_tokenizer, guarded, tmp_path):
    """start(name="run", rounds=3, gate=..., ...): one call of boost on a fresh model."""

    def run(name="run", rounds=4, gate=None, task=guarded, trainer=None, dtype=torch.float32, model=None, **more):
        model = model or tiny_llama(dtype=dtype)
        settings = config(rounds, **more)
        trainer = trainer or FakeTrainer()
        return boost(model, tiny_tokenizer, task, trainer, settings, tmp_path / name, progress=False, gate=gate)

    return run


# random updates: some rounds pass by luck, some do not
LENIENT = Gate(alpha=0.9, allowed_guards=6, patience=None, failing_guards="leave out")


def decisions(run) -> list[str]:
    return [row.decision for row in run.rounds]


def test_without_a_gate_a_run_is_as_it_always_was(start):
    run = start(held_out=("test",))
    assert "gate" not in run.ledger.header["identity"] and run.ledger.header["identity"]["held_out"] == ["test"]
    assert all(row.extra == {} and row.merged and row.decision == "" and not row.rejected for row in run.rounds)


def test_rejected_rounds_are_recorded_and_merge_nothing(start, tiny_llama, tiny_tokenizer, guarded, tmp_path):
    run = start(rounds=6, gate=LENIENT)
    assert {"promote", "reject"} == set(decisions(run))  # else nothing was tested
    before, merged = run.base, 0
    for row in run.rounds:
        told = row.extra["gate"]
        assert row.merged == (row.decision == "promote") and row.plan == [(row.index, 0)] * 2
        if row.merged:
            assert (row.fixed, row.broken) == (told["fixed"], told["broken"]) and "tried" not in told
            assert row.weights_fingerprint != before.weights_fingerprint
        else:
            assert row.rejected == told["reason"] and (row.fixed, row.broken) == ([], [])
            assert (row.metrics, row.train_accuracy) == (before.metrics, before.train_accuracy)
            assert row.weights_fingerprint == before.weights_fingerprint
            gained = len(told["fixed"]) - len(told["broken"])
            assert told["tried"]["train_accuracy"] == pytest.approx(before.train_accuracy + gained / 12)
        merged += row.merged
        model = replay(tmp_path / "run", row.index, model=tiny_llama())
        assert fingerprint_tensors((n, model.get_submodule(n).weight) for n in run.basis) == row.weights_fingerprint
        now = evaluate(model, tiny_tokenizer, guarded, "guard", progress=False)
        assert row.metrics["guard"].bits() == now.correct.tolist()
        before = row
    assert {epsilon_rank(*factors, eps=1e-6) for factors in run.update.values()} == {2 * merged}
    assert prints(replay(tmp_path / "run", model=tiny_llama())) == prints(run.model)
    assert [name.endswith("(rejected)") for name in map(str, rounds_table(run.ledger).index[1:])] == [
        not row.merged for row in run.rounds
    ]


def test_the_numbers_of_a_verdict_are_those_of_the_evaluations(start, guarded):
    costs = {"odd": 7.0}
    run = start(gate=replace(LENIENT, costs=costs))
    guards, before = guarded.split("guard"), run.base
    for row in run.rounds:
        told = row.extra["gate"]
        scores = told["tried"]["metrics"]["guard"]["correct"] if "tried" in told else row.metrics["guard"].correct
        after = [c == "1" for c in f"{int(scores, 16):b}"[1:]]
        changes = zip(guards, before.metrics["guard"].bits(), after, strict=True)
        net = sum((7.0 if g.kind == "odd" else 1.0) * (now - was) for g, was, now in changes)
        assert told["net"] == net + len(told["fixed"]) - len(told["broken"]) == told["gained"] - told["lost"]
        assert told["guards"] == [g.id for g, now in zip(guards, after, strict=True) if not now]
        before = row


def test_the_run_stops_after_so_many_rounds_without_value_and_stays_stopped(start, tiny_llama):
    gate, trainer = Gate(allowed_guards=6, alpha=1e-9, patience=2), FakeTrainer()
    run = start(rounds=5, gate=gate, trainer=trainer)
    assert decisions(run) == ["reject", "stop"] and "2 rounds without value" in run.rounds[-1].rejected
    assert prints(run.model) == prints(tiny_llama())
    again = start(rounds=9, gate=gate, trainer=trainer)
    assert trainer.trained == [0, 1] and len(again.rounds) == 2


def test_skipped_rounds_are_not_judged_but_count_as_rounds_without_value(start):
    run = start(rounds=5, gate=Gate(allowed_guards=6, alpha=1e-9, patience=2), trainer=FakeTrainer(skip=(1,)))
    assert decisions(run) == ["reject", "stop"]
    assert run.rounds[1].skipped and not run.rounds[1].rejected and not run.rounds[1].merged
    assert run.rounds[1].extra["gate"]["reason"].startswith("skipped: nothing to learn")


POINTS = 13  # run.json, the base's two, and 5 in each of 2 rounds


def test_killed_at_any_point_a_gated_run_ends_as_if_undisturbed(start, die_at):
    def call(name):
        return start(name, rounds=2, gate=LENIENT, trainer=FakeTrainer(scale=4.0))

    passed = die_at(None)
    whole = call("whole")
    assert len(passed) == POINTS and sorted(decisions(whole)) == ["promote", "reject"]
    ends_as_undisturbed(call, whole, die_at, POINTS)


def test_an_error_after_a_trial_merge_leaves_the_model_as_given(start, tiny_llama, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no verdict")

    whole, model = start("whole", gate=LENIENT, rounds=2), tiny_llama()
    with monkeypatch.context() as patch:
        patch.setattr(Gate, "judge", fail)
        with pytest.raises(RuntimeError):
            start("cut", gate=LENIENT, model=model, rounds=2)
    assert prints(model) == prints(tiny_llama())
    assert same_runs(whole.ledger, start("cut", gate=LENIENT, rounds=2).ledger)


# --- identity, and bad input


def test_the_gate_belongs_to_the_identity_of_a_run_that_has_one(start):
    start("gated", rounds=1, gate=LENIENT)
    with pytest.raises(RunError, match=r"gate.alpha was 0.9, is 0.05"):
        start("gated", rounds=1, gate=replace(LENIENT, alpha=0.05))
    with pytest.raises(RunError, match=r"gate was .*, is None"):
        start("gated", rounds=1, held_out=("test", "guard"))
    start("plain", rounds=1, held_out=("test", "guard"))
    with pytest.raises(RunError, match=r"gate was None"):
        start("plain", rounds=1, gate=LENIENT)


def test_guards_that_fail_before_round_0_are_named_and_leave_no_run(start, guarded, tmp_path):
    guarded.golds = tuple(str(1 - int(gold)) if i < 3 else gold for i, gold in enumerate(guarded.golds))
    with pytest.raises(DataError, match=r"guard cases fail before anything is trained: guard-\d.*leave out") as caught:
        start(gate=replace(LENIENT, failing_guards="refuse"))
    assert not (tmp_path / "run" / "run.json").exists()
    run = start(gate=LENIENT)
    failing = failing_guards(LENIENT, guarded, run.base)
    assert failing == ["guard-0", "guard-1", "guard-2"] and all(id in str(caught.value) for id in failing)
    assert not any(set(row.extra["gate"]["guards"]) & set(failing) for row in run.rounds)


def test_a_long_list_of_failing_guards_is_cut(start, guarded):
    guarded.golds = ("2",) * 30  # no sum of bytes is 2 modulo 2
    with pytest.raises(DataError, match="30 guard cases fail .*guard-19 and 10 more"):
        start(gate=replace(LENIENT, failing_guards="refuse"))


def test_unknown_classes_and_splits_are_named_before_anything_is_written(start, tmp_path):
    with pytest.raises(BoostError, match=r"no case is of class 'odds'; the classes of 'parity' are 'even', 'odd'"):
        start(gate=Gate(costs={"odds": 2.0}))
    with pytest.raises(DataError, match="arithmetic has no split 'nowhere'"):
        start(task=load_task("arithmetic"), gate=Gate(guard=None, adjacent=("nowhere",)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [{"alpha": 0.0}, {"alpha": 1.0}, {"harm": 2}, {"allowed_guards": -1}, {"patience": 0}, {"value_on": ()},
     {"failing_guards": "ignore"}, {"costs": {"a": 0}}, {"costs": {"a": float("nan")}}, {"adjacent": ("train",)},
     {"guard": "train"}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(BoostError, match="Gate"):
        Gate(**settings)


def test_ledgers_are_plain_json_and_load_again(start, tmp_path):
    run = start(gate=replace(LENIENT, adjacent=("test",), costs={"even": 2}))
    lines = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    told = [json.loads(line)["extra"]["gate"] for line in lines[1:]]
    assert told == [row.extra["gate"] for row in Ledger(tmp_path / "run").rounds]
    assert all(set(one["harm"]) == {"test"} for one in told) and len(run.ledger.verify()) == 4
