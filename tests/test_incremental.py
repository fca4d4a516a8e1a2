"""Incremental evaluation: what it leaves out is bounded, what it finds is true, and where it is off nothing changes."""

import sys
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path

import numpy as np
import pytest
from helpers import CoinTask, FakeTrainer, ParityTask, config, ends_as_undisturbed, rows, same_runs

from boostlib import BoostConfig, BoostError, Gate, Incremental, Ledger, boost, evaluate, replay
from boostlib.__main__ import main
from boostlib.errors import RunError
from boostlib.identity import run_identity
from boostlib.incremental import LEVEL, Pass, draw, evaluated_bits, evaluations, missed_bound
from boostlib.methods import with_method
from boostlib.presets import MAINTENANCE, MATH, SECTIONS
from boostlib.report import rounds_table
from boostlib.rounds import pack_bits, unpack_bits
from boostlib.stable import fingerprint_tensors, philox
from boostlib.theory import gap_table

N = 40
SMALL = Incremental(sample=2, every=3, grow=1.5)
COMMITTED = sorted((Path(__file__).resolve().parents[1] / "data" / "runs").glob("*/run.json"))


# --- the bound


def chance(k: int, population: int, wrong: int, sampled: int) -> float:
    """P(at most k of the sample are wrong), by counting."""
    ways = sum(comb(wrong, i) * comb(population - wrong, sampled - i) for i in range(k + 1))
    return ways / comb(population, sampled)


@pytest.mark.parametrize(("population", "sampled"), [(1, 1), (2, 1), (9, 4), (30, 10), (30, 29), (200, 12)])
def test_the_bound_is_the_largest_number_that_the_sample_does_not_contradict(population, sampled):
    for found in range(sampled + 1):
        bound = missed_bound(population, sampled, found)
        assert 0 <= bound <= population - sampled
        assert chance(found, population, found + bound, sampled) > 1 - LEVEL
        if bound < population - sampled:
            assert chance(found, population, found + bound + 1, sampled) <= 1 - LEVEL


def test_the_bound_covers_what_is_missed_as_often_as_it_says():
    ids, trials, bound = [f"x{i}" for i in range(120)], 400, cache(missed_bound)
    for wrong in (0, 3, 30, 100):
        bad, held = set(ids[:wrong]), 0
        for seed in range(trials):
            sample = draw(seed, 0, ids, frozenset(), 20)
            found = len(bad & sample)
            held += wrong - found <= bound(len(ids), len(sample), found)
        assert held / trials >= LEVEL - 2.5 * np.sqrt(LEVEL * (1 - LEVEL) / trials), wrong


# --- the sample


def test_the_sample_depends_on_the_seed_and_the_round_alone_and_leaves_out_the_failures():
    ids, failing = [f"x{i}" for i in range(30)], frozenset({"x3", "x7"})
    one = draw(0, 2, ids, failing, 10)
    assert one == draw(0, 2, ids, failing, 10) and len(one) == 10 and not one & failing
    assert len({one, draw(0, 3, ids, failing, 10), draw(1, 2, ids, failing, 10)}) == 3
    assert draw(0, 2, ids, failing, 100) == set(ids) - failing
    draws = [draw(seed, 0, ids, failing, 7) for seed in range(400)]
    counts = [sum(id in drawn for drawn in draws) for id in ids]
    assert counts[3] == counts[7] == 0
    assert all(abs(c - 100) < 40 for i, c in enumerate(counts) if i not in (3, 7))  # 400 * 7 / 28, 4 sigma: 35


def test_the_sample_grows_with_regressions_and_shrinks_without():
    option = Incremental(sample=4, grow=2.5)
    sizes = [4]
    for regressions in (1, 2, 5, 1, 0, 0, 0, 0):
        sizes.append(option.next_size(sizes[-1], regressions, n=50))
    assert sizes == [4, 10, 25, 50, 50, 20, 8, 4, 4]
    assert Incremental(sample=4, grow=1).next_size(4, 3, n=50) == 4
    assert Incremental(sample=64).next_size(64, 3, n=50) == 64


# --- one pass


def test_estimates_of_a_pass_are_right_on_average_and_exact_where_it_is_full():
    random = philox("pass")
    ids = [f"x{i}" for i in range(60)]
    failing = frozenset(ids[:10])
    right = {id: bool(random.random() < (0.3 if id in failing else 0.8)) for id in ids}
    strict = {id: right[id] and bool(random.random() < 0.7) for id in ids}
    found = []
    for seed in range(600):
        sample = draw(seed, 0, ids, failing, 12)
        seen = [id for id in ids if id in failing | sample]
        part = Pass(ids, failing, sample, {id: right[id] for id in seen}, {id: strict[id] for id in seen})
        assert not part.full and set(part.rest) == set(ids) - set(seen)
        assert part.failures == [id for id in seen if not right[id]]
        found.append((part.scores()["train_accuracy"], part.scores()["train_strict"]))
    truth = np.mean(list(right.values())), np.mean(list(strict.values()))
    spread = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - truth) < 4 * spread).all() and (spread > 0).all()
    whole = Pass(ids, failing, draw(0, 0, ids, failing, 12), right, strict)
    assert whole.full and whole.entry(12, 24, ())["missed_bound"] == 0
    assert (whole.scores()["train_accuracy"], whole.scores()["train_strict"]) == truth


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"sample": 0}, "sample=0"), ({"every": 0}, "every=0"), ({"grow": 0.5}, "grow=0.5"), ({"grow": np.inf}, "inf")],
)
def test_settings_out_of_range_are_refused(settings, named):
    with pytest.raises(BoostError, match=named):
        Incremental(**settings)


def test_a_run_whose_last_round_would_not_be_full_is_refused():
    with pytest.raises(BoostError, match=r"rounds=7 with Incremental\(every=3\).*such as 9, or change every"):
        BoostConfig(rounds=7, incremental=SMALL)
    assert BoostConfig(rounds=9, incremental=SMALL).incremental == SMALL


# --- runs


@dataclass
class Guarded(ParityTask):
    """Parity with a second held-out split that a gate can count on."""

    dev: int = 30


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def kit(request, tiny_llama, tiny_tokenizer, tiny_classifier, tiny_protein_tokenizer):
    """(model builder, tokenizer, task): completions to score, or labels."""
    if getattr(request, "param", "texts") == "labels":
        return tiny_classifier, tiny_protein_tokenizer, CoinTask(train=N)
    return tiny_llama, tiny_tokenizer, Guarded(train=N, max_new_tokens=1)


both = pytest.mark.parametrize("kit", ["texts", "labels"], indirect=True)
SCALE = 2.0  # size of the fake rounds: some answers change, most stay


@pytest.fixture
def start(kit, tmp_path):
    """start(name="run", rounds=6, incremental=SMALL, ...): one call of boost on a fresh model."""

    def run(name="run", rounds=6, incremental=SMALL, trainer=None, gate=None, task=None, **more):
        build, tokenizer, usual = kit
        settings = config(rounds, incremental=incremental, **more)
        trainer = trainer or FakeTrainer(scale=SCALE)
        return boost(build(), tokenizer, task or usual, trainer, settings, tmp_path / name, progress=False, gate=gate)

    return run


@pytest.fixture
def counted(monkeypatch):
    """Ids of the training examples of each evaluation, in order."""
    calls = []

    def counting(model, tokenizer, task, split="train", *arguments, **more):
        found = evaluate(model, tokenizer, task, split, *arguments, **more)
        if split == "train":
            calls.append(found.ids)
        return found

    for module in ("boostlib.boost", "boostlib.partial"):
        monkeypatch.setattr(sys.modules[module], "evaluate", counting)
    return calls


def truths(kit, run) -> list[set[str]]:
    """Who is truly wrong after each round, by evaluating everything."""
    build, tokenizer, task = kit
    models = [replay(run.dir, row.index, model=build()) for row in run.rounds]
    return [set(evaluate(model, tokenizer, task, progress=False).failures) for model in models]


def ids_of(kit, row) -> set[str]:
    ids = [e.id for e in kit[2].split("train")]
    return {id for id, done in zip(ids, evaluated_bits(row), strict=True) if done}


@both
@pytest.mark.parametrize("strategy", ["rotate", "greedy"])
def test_a_run_evaluates_failures_and_a_sample_and_everything_every_few_rounds(start, kit, counted, strategy):
    run = start(strategy=strategy, blocks=6)
    base, *passes = counted
    assert len(base) == N and len(passes) == 6
    assert [len(done) == N for done in passes] == [False, False, True] * 2
    assert sum(map(len, passes)) < 6 * N
    size = SMALL.sample
    for row, done in zip(run.rounds, passes, strict=True):
        told = row.extra["incremental"]
        sample = draw(0, row.index, base, frozenset(row.failures), size)
        assert set(done) == ids_of(kit, row) == (set(base) if told["full"] else set(row.failures) | sample)
        assert (told["planned"], told["sampled"]) == (size, len(sample)) and evaluations(row) == len(done)
        assert told["regressions"] == len(set(row.broken) & sample)
        assert told["full"] == row.whole == ((row.index + 1) % 3 == 0)
        size = told["next"]
        assert size == SMALL.next_size(told["planned"], told["regressions"], N)
    assert {row.extra["incremental"]["planned"] for row in run.rounds} > {SMALL.sample}  # it did grow
    table = rounds_table(run.ledger)
    assert table["evaluated"].tolist()[1:] == [len(done) for done in passes]
    assert table["missed, at most"].tolist()[1:] == [row.extra["incremental"]["missed_bound"] for row in run.rounds]


@both
def test_known_failures_are_true_and_the_missed_are_within_the_bound_and_found_by_the_next_full_pass(start, kit):
    run = start()
    seen_missed, earlier = 0, set()
    for row, true in zip(run.rounds, truths(kit, run), strict=True):
        known, told = set(run.ledger.failures_after(row.index + 1)), row.extra["incremental"]
        missed = true - known
        assert known <= true and len(missed) <= told["missed_bound"] < N - len(known)
        if told["full"]:
            assert not missed and row.train_accuracy == 1 - len(true) / N
            assert earlier & true <= set(row.broken) and told["late"] >= len(earlier & true)
        seen_missed, earlier = seen_missed + len(missed), missed
    assert seen_missed  # else nothing was tested
    assert run.rounds[-1].whole


@both
def test_a_sample_of_everything_gives_the_run_without_the_option(start, kit):
    plain, whole = start("plain", incremental=None), start("whole", incremental=Incremental(sample=N, every=3))
    assert all(row.extra["incremental"]["full"] for row in whole.rounds)
    found = rows(whole.ledger)
    for row in found[1:]:
        assert row["extra"].pop("incremental")["evaluated"] == pack_bits([True] * N)
    assert found == rows(plain.ledger)


@both
@pytest.mark.parametrize("strategy", ["rotate", "greedy"])
def test_a_run_given_more_rounds_equals_one_that_had_them(start, strategy):
    settings = {"strategy": strategy, "blocks": 6}
    whole = start("whole", 6, **settings)
    start("parts", 3, **settings)
    parts = start("parts", 6, **settings)
    assert same_runs(whole.ledger, parts.ledger)
    assert fingerprint_tensors(whole.model.state_dict()) == fingerprint_tensors(parts.model.state_dict())


@pytest.mark.parametrize("skip", [(), (1,)])
def test_killed_at_any_point_a_run_ends_as_if_undisturbed(start, die_at, skip):
    def call(name):
        task = ParityTask(train=16, test=3, max_new_tokens=1)
        option = Incremental(sample=2, every=2)
        return start(name, 2, option, FakeTrainer(scale=SCALE, skip=skip), task=task)

    passed = die_at(None)
    whole, points = call("whole"), len(passed)
    assert points > 10
    ends_as_undisturbed(call, whole, die_at, points)


# --- rounds that merge nothing


@both
@pytest.mark.parametrize("strategy", ["rotate", "greedy"])
def test_a_skipped_round_keeps_what_is_known_and_a_full_one_still_finds_what_was_missed(start, kit, counted, strategy):
    run = start(trainer=FakeTrainer(scale=SCALE, skip=(1, 2, 3, 5)), rounds=6, strategy=strategy, blocks=6)
    first, skipped, closing, after, _, last = run.rounds
    told = first.extra["incremental"]
    kept = {"full": False, "missed_bound": told["missed_bound"], "next": told["next"]}
    nothing = {"sampled": 0, "planned": 0, "regressions": 0, "late": 0, "evaluated": pack_bits([False] * N)}
    assert skipped.extra["incremental"] == kept | nothing and evaluations(skipped) == 0
    assert (skipped.train_accuracy, skipped.fixed, skipped.broken) == (first.train_accuracy, [], [])
    assert closing.skipped and closing.whole and closing.fixed == [] and evaluations(closing) == N
    true = truths(kit, run)
    assert set(closing.broken) == true[0] - set(run.ledger.failures_after(1))
    assert closing.extra["incremental"]["late"] == len(closing.broken) > 0
    assert closing.weights_fingerprint == first.weights_fingerprint and closing.metrics == first.metrics
    assert after.whole and evaluations(after) == 0 and after.train_accuracy == closing.train_accuracy
    assert last.whole and set(run.ledger.failures_after(6)) == true[-1]
    assert [len(done) for done in counted] == [N, evaluations(first), N, evaluations(run.rounds[4]), N]


def test_a_round_skipped_when_all_is_known_evaluates_nothing(start, counted):
    run = start(rounds=3, trainer=FakeTrainer(skip=(0, 1, 2)))
    assert all(row.whole and evaluations(row) == 0 for row in run.rounds)
    assert [len(done) for done in counted] == [N]


TRAIN = Gate(guard=None, alpha=0.45, patience=None)


def test_a_gate_that_counts_the_training_split_promotes_on_full_passes_alone(start, kit):
    run = start(gate=TRAIN, rounds=9, incremental=Incremental(sample=8, every=9))
    assert {row.decision for row in run.rounds} == {"promote", "reject"}  # else nothing was tested
    partly = 0
    for row, true in zip(run.rounds, truths(kit, run), strict=True):
        assert row.whole and set(run.ledger.failures_after(row.index + 1)) == true
        tried = row.extra["incremental"].get("tried")
        assert (tried is None) == row.merged
        if row.merged:
            told = row.extra["gate"]
            assert evaluations(row) == N
            assert (sorted(row.fixed), sorted(row.broken)) == (sorted(told["fixed"]), sorted(told["broken"]))
        else:
            assert (row.fixed, row.broken, sum(evaluated_bits(row))) == ([], [], 0)
            assert sum(unpack_bits(tried)) == evaluations(row)
            partly += evaluations(row) < N
    assert partly


def test_a_gate_that_counts_another_split_judges_as_without_the_option(start, kit):
    gate = Gate(guard=None, value_on=("dev",), alpha=0.9, patience=None)
    run = start(gate=gate, rounds=6, incremental=Incremental(sample=3, every=6))
    assert {row.decision for row in run.rounds} == {"promote", "reject"}
    assert any(row.merged and not row.whole for row in run.rounds)
    build, tokenizer, task = kit
    for row in run.rounds:
        if row.merged:
            model = replay(run.dir, row.index, model=build())
            assert row.metrics["dev"].bits() == evaluate(model, tokenizer, task, "dev", progress=False).correct.tolist()
    assert run.rounds[-1].whole
    assert set(run.ledger.failures_after(6)) == truths(kit, run)[-1]


def test_the_round_in_which_a_gate_ends_the_run_leaves_nothing_unknown(start, kit):
    gate = Gate(guard=None, value_on=("dev",), alpha=0.9, patience=1)
    run = start(gate=gate, rounds=20, incremental=Incremental(sample=2, every=20), strategy="top", seed=2)
    *merged, last = run.rounds
    assert merged and not merged[-1].whole and last.decision == "stop" and not last.merged
    assert last.whole and set(run.ledger.failures_after(len(run.rounds))) == truths(kit, run)[-1]
    assert evaluations(last) == N + sum(unpack_bits(last.extra["incremental"]["tried"]))


def test_a_run_ends_only_where_a_full_pass_finds_nothing_wrong(start, kit, counted):
    """All known failures are fixed, unknown ones are left: the round evaluates the rest before it says so."""

    @dataclass
    class Turning(ParityTask):
        """Wrong are the first three; from the first scoring after the untrained model on, the last three instead."""

        scored: int = 0

        def score_many(self, completions, examples):
            self.scored += examples[0].id.startswith("train") and len(completions) > 3
            ids = [e.id for e in self.split("train")]
            wrong = ids[:3] if self.scored <= 1 else ids[-3:]
            scores = [self.score(text, example) for text, example in zip(completions, examples, strict=True)]
            return [type(s)(e.id not in wrong, e.id not in wrong) for s, e in zip(scores, examples, strict=True)]

    task = Turning(train=N, max_new_tokens=1)
    sample = next(s for s in range(50) if not draw(s, 0, ids(task), frozenset(ids(task)[:3]), 2) & set(ids(task)[-3:]))
    run = start(task=task, rounds=1, incremental=Incremental(sample=2, every=1), seed=sample)
    assert run.rounds[0].whole
    task = Turning(train=N, max_new_tokens=1)
    run = start("partial", task=task, rounds=2, incremental=Incremental(sample=2, every=2), seed=sample)
    assert run.rounds[0].whole and run.rounds[0].broken == ids(task)[-3:] and len(run.rounds) == 2


def ids(task) -> list[str]:
    return [e.id for e in task.split("train")]


# --- identity, and the option left off


def test_the_option_is_part_of_the_identity_and_absent_where_it_is_off(start):
    run = start(rounds=3)
    assert run.ledger.header["identity"]["incremental"] == {"sample": 2, "every": 3, "grow": 1.5}
    with pytest.raises(RunError, match="incremental.sample was 2, is 5"):
        start(rounds=3, incremental=Incremental(sample=5, every=3))
    with pytest.raises(RunError, match="incremental was"):
        start(rounds=3, incremental=None)
    plain = start("plain", rounds=1, incremental=None)
    assert "incremental" not in plain.ledger.header["identity"] and plain.rounds[0].extra == {}
    assert not {"evaluated", "missed, at most"} & set(rounds_table(plain.ledger))


def test_recorded_runs_stay_the_runs_they_are(kit):
    """A call without the option asks for the very identity that they recorded, and all rounds of runs without it are
    whole."""
    build, _, task = kit
    today = run_identity(build(), task, FakeTrainer(), BoostConfig())
    assert len(COMMITTED) > 10
    for path in COMMITTED:
        ledger = Ledger(path.parent)
        chosen = {"greedy", "shrinkage", "drafts", "incremental"}  # recorded where they were used
        assert set(today) == set(ledger.header["identity"]) - chosen, path
        used = "incremental" in ledger.header["identity"]
        assert all(("incremental" in row.extra) == used and (row.whole or used) for row in ledger.rounds)


def test_no_preset_turns_it_on():
    chosen = [preset for section in (*SECTIONS.values(), MAINTENANCE) for preset in section.values()]
    assert chosen and all(preset.boost.incremental is None for preset in chosen)


def test_methods_of_one_round_leave_it_off():
    boosting = BoostConfig(rounds=3, incremental=SMALL)
    chosen = with_method(type(MATH["demo"])("x", "m", "arithmetic", MATH["demo"].trainer, boosting), "tinylora")
    assert chosen.boost.incremental is None and chosen.boost.rounds == 1


# --- what reads it


def test_bounds_on_the_gap_leave_out_rounds_with_estimates(start):
    run = start()
    whole = [row.index + 1 for row in run.rounds if row.whole]
    assert gap_table(run.ledger)["rounds"].tolist() == [0, *whole] and len(whole) < len(run.rounds)


def test_the_command_line(monkeypatch, capsys):
    made = []

    def instead(chosen, *arguments, **more):
        made.append(chosen.boost)
        raise BoostError("stopped here")

    monkeypatch.setattr("boostlib.methods.run_method", instead)
    main(["boost", "--rounds", "6", "--incremental", "32", "--full-every", "3"])
    main(["boost", "--preset", "lab", "--incremental", "32"])
    main(["boost"])
    assert [one.incremental for one in made] == [Incremental(32, 3), Incremental(32), None]
    capsys.readouterr()
    for options, said in (
        (["--full-every", "3"], "add --incremental SAMPLE"),
        (["--incremental", "9", "--method", "full"], "--method full has only one"),
        (["--incremental", "9", "--rounds", "6"], "rounds=6 with Incremental(every=5)"),
        (["--incremental", "0"], "Incremental(sample=0)"),
    ):
        assert main(["boost", *options]) == 1
        assert said in capsys.readouterr().err
    assert len(made) == 3
