"""Resting failures: who rests follows from the ledger alone, all get another chance, and off it changes nothing."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import CoinTask, FakeTrainer, ParityTask, config, ends_as_undisturbed, same_runs
from hypothesis import given
from hypothesis import strategies as st

from boostlib import GRPO, BoostConfig, BoostError, CrossEntropy, Gate, Ledger, Resting, boost
from boostlib.__main__ import main
from boostlib.errors import RunError
from boostlib.methods import with_method
from boostlib.presets import MAINTENANCE, MATH, SECTIONS, Preset
from boostlib.report import rounds_table
from boostlib.resting import entry, groups, rested, resting_ids
from boostlib.rounds import Round, unpack_bits

COMMITTED = sorted((Path(__file__).resolve().parents[1] / "data" / "runs").glob("*/run.json"))
IDS = ["a", "b", "c"]


# --- the rule


def line(index: int, sampled: dict[str, bool], fixed=(), failures=tuple(IDS)) -> Round:
    """A round's line, of which the rule reads index, failures, fixed and extra."""
    numbers = dict.fromkeys(("num_parameters", "degrees_of_freedom", "steps", "tokens", "seed"), 0)
    norms = dict.fromkeys(("adapter_norm", "update_norm", "fold_retention", "train_accuracy", "train_strict"), 0.0)
    texts = dict.fromkeys(("v_sha256", "weights_fingerprint"), "")
    return Round(
        index=index, failures=list(failures), fixed=list(fixed), broken=[], plan=[], metrics={}, seconds={},
        rewards=[], signal=[], extra={"resting": entry(failures, set(), sampled)}, **numbers, **norms, **texts,
    )  # fmt: skip


def history(option: Resting, *told: str, fixed=()) -> list[bool]:
    """Whether "a" rests before each round and after the last; told: per round "-" not sampled, "0" in vain, "1" not.
    fixed: rounds that fix "a"."""
    rounds, found = [], []
    for index, what in enumerate([*told, "-"]):
        found.append("a" in resting_ids(option, rounds, IDS))
        sampled = {} if what == "-" else {"a": what == "1"}
        rounds.append(line(index, {"b": True, **sampled}, ["a"] if index in fixed else []))
    return found


@pytest.mark.parametrize(
    ("after", "rounds", "told", "rests"),
    [
        (1, 1, "0", "01"),
        (2, 3, "00---", "001110"),
        (2, 3, "0-0---", "0001110"),  # rounds that did not sample it do not count
        (2, 2, "0100--", "0000110"),  # a signal forgets what was before
        (2, 2, "00--0--0", "001101101"),  # one round to show a signal, else it rests again
        (2, 2, "00--10--", "001100000"),
        (3, 1, "000-0-", "0001010"),
    ],
)
def test_a_failure_rests_after_so_many_rounds_in_vain_for_so_many(after, rounds, told, rests):
    assert history(Resting(after, rounds), *told) == [mark == "1" for mark in rests]


def test_being_fixed_starts_anew():
    assert history(Resting(2, 3), *"0-0-", fixed=(1,)) == [False] * 5
    assert history(Resting(2, 3), *"00-0-", fixed=(2,)) == [False, False, True, False, False, False]


def test_where_all_failures_rest_none_does():
    rounds = [line(0, dict.fromkeys(IDS, False))]
    assert resting_ids(Resting(1, 2), rounds, IDS) == set()
    assert resting_ids(Resting(1, 2), rounds, ["d", *IDS]) == set(IDS)
    assert resting_ids(Resting(1, 2), [], IDS) == set()


@given(
    st.lists(st.dictionaries(st.sampled_from(IDS), st.booleans()), max_size=12), st.integers(1, 3), st.integers(1, 3)
)
def test_nobody_rests_longer_than_asked_or_after_a_signal(told, after, length):
    rounds = [line(index, sampled) for index, sampled in enumerate(told)]
    found = [resting_ids(Resting(after, length), rounds[:count], [*IDS, "d"]) for count in range(len(rounds) + 1)]
    for count, resting in enumerate(found):
        for id in resting:
            last = max(index for index in range(count) if id in told[index])
            assert count - last <= length and not told[last][id]
            assert sum(id in sampled for sampled in told[:count]) >= after


def test_a_line_gives_back_what_went_in_and_one_without_the_entry_says_nothing():
    row = line(0, {"c": True, "a": False})
    assert groups(row) == {"a": False, "c": True} and rested(row) == 0
    row.extra = {"resting": entry(IDS, {"b"}, {})}
    assert groups(row) == {} and rested(row) == 1
    row.extra = {}
    assert groups(row) == {} and rested(row) == 0


@pytest.mark.parametrize("settings", [{"after": 0}, {"rounds": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(BoostError, match=f"{next(iter(settings))}=0"):
        Resting(**settings)


# --- runs


@dataclass
class Hard(ParityTask):
    """Parity in which some are never right."""

    never: tuple[str, ...] = ("train-1", "train-4", "train-7")

    def score(self, completion, example):
        found = super().score(completion, example)
        return type(found)(False, False) if example.id in self.never else found


HOPELESS = Hard().never


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def start(tiny_llama, tiny_tokenizer, tmp_path):
    """start(name="run", rounds=6, resting=Resting(2, 2), ...): one call of boost on a fresh model."""

    def run(name="run", rounds=6, resting=Resting(2, 2), trainer=None, gate=None, task=None, **more):  # noqa: B008
        task = task or Hard(train=16, test=3, max_new_tokens=1)
        trainer = trainer or FakeTrainer(scale=2.0, hopeless=HOPELESS)
        settings = config(rounds, resting=resting, **more)
        return boost(tiny_llama(), tiny_tokenizer, task, trainer, settings, tmp_path / name, progress=False, gate=gate)

    return run


@pytest.mark.parametrize("strategy", ["rotate", "greedy"])
def test_hopeless_failures_rest_and_return_and_stay_failures(start, strategy):
    trainer = FakeTrainer(scale=2.0, hopeless=HOPELESS)
    run = start(rounds=8, trainer=trainer, strategy=strategy, blocks=8)
    there = [set(HOPELESS) <= set(ids) for ids in trainer.given]
    assert there == [True, True, False, False, True, False, False, True]
    for row, ids in zip(run.rounds, trainer.given, strict=True):
        resting = set() if there[row.index] else set(HOPELESS)
        assert set(HOPELESS) <= set(row.failures) and set(ids) == set(row.failures) - resting
        assert set(groups(row)) == set(ids) and rested(row) == len(resting)
        assert {id for id, signal in groups(row).items() if not signal} == set(HOPELESS) - resting
    assert rounds_table(run.ledger)["resting"].tolist()[1:] == [0, 0, 3, 3, 0, 3, 3, 0]


def test_rounds_that_were_skipped_or_rejected_count(start):
    trainer = FakeTrainer(scale=2.0, hopeless=HOPELESS, skip=(0,))
    run = start(rounds=3, trainer=trainer, gate=Gate(guard=None, alpha=1e-9, patience=None))
    assert [row.merged for row in run.rounds] == [False] * 3
    assert set(trainer.given[0]) == set(trainer.given[1]) == set(trainer.given[2]) | set(HOPELESS)


def test_what_a_round_did_not_sample_does_not_rest(start):
    run = start(rounds=6, trainer=FakeTrainer(scale=2.0, hopeless=HOPELESS, most=4))
    counts, seen = dict.fromkeys(HOPELESS, 0), 0
    for row in run.rounds:
        out = {id for id, bit in zip(row.failures, unpack_bits(row.extra["resting"]["rested"]), strict=True) if bit}
        assert all(counts[id] >= 2 for id in out) and len(groups(row)) == 4
        seen += len(out)
        for id in set(groups(row)) & set(HOPELESS):
            counts[id] += 1
    assert seen


def test_a_run_given_more_rounds_equals_one_that_had_them(start):
    whole = start("whole", 6)
    start("parts", 3)
    assert same_runs(whole.ledger, start("parts", 6).ledger)


def test_killed_at_any_point_a_run_ends_as_if_undisturbed(start, die_at):
    def call(name):
        task = Hard(train=9, test=2, max_new_tokens=1)
        return start(name, 2, Resting(1, 1), FakeTrainer(scale=2.0, hopeless=HOPELESS), task=task)

    passed = die_at(None)
    whole, points = call("whole"), len(passed)
    assert points > 10 and any(map(rested, whole.rounds))
    ends_as_undisturbed(call, whole, die_at, points)


def test_grpo_says_which_groups_had_an_advantage(tiny_llama, tiny_tokenizer, tmp_path):
    class Known(ParityTask):
        """Samples of even examples are never right; those of odd ones every third time, after the first evaluation."""

        turn = 0

        def score(self, completion, example):
            self.turn += 1
            right = int(example.id.split("-")[1]) % 2 == 1 and self.turn > 10 and self.turn % 3 == 0
            return type(super().score(completion, example))(right, right)

    task, trainer = Known(train=8, test=2), GRPO(prompts=4, samples=4, max_steps=2, learning_rate=1e-3)
    run = boost(tiny_llama(), tiny_tokenizer, task, trainer, config(2, resting=Resting(1, 1)), tmp_path, progress=False)
    first, second = run.rounds
    assert len(first.failures) == 8
    assert groups(first) == {id: int(id.split("-")[1]) % 2 == 1 for id in first.failures}
    assert rested(first) == 0 and not any(int(id.split("-")[1]) % 2 == 0 for id in groups(second))
    assert run.ledger.load_v(0)[1]["groups"] == groups(first)


def test_rounds_without_an_advantage_name_all_they_tried(tiny_llama, tiny_tokenizer, tmp_path):
    task = Hard(train=4, test=2, never=tuple(f"train-{i}" for i in range(4)))
    trainer = GRPO(prompts=4, samples=2, max_samples=4, max_steps=1)
    run = boost(tiny_llama(), tiny_tokenizer, task, trainer, config(1, resting=Resting()), tmp_path, progress=False)
    assert run.rounds[0].skipped and groups(run.rounds[0]) == dict.fromkeys(run.rounds[0].failures, False)


# --- identity, and the option left off


def test_the_option_is_part_of_the_identity_and_absent_where_it_is_off(start):
    run = start(rounds=1)
    assert run.ledger.header["identity"]["resting"] == {"after": 2, "rounds": 2}
    with pytest.raises(RunError, match="resting.rounds was 2, is 5"):
        start(rounds=1, resting=Resting(2, 5))
    plain = start("plain", rounds=1, resting=None)
    assert "resting" not in plain.ledger.header["identity"] and plain.rounds[0].extra == {}
    assert "resting" not in rounds_table(plain.ledger)


def test_recorded_runs_load_and_rest_nobody():
    assert len(COMMITTED) > 10
    for path in COMMITTED:
        rounds = Ledger(path.parent).rounds
        assert all(groups(row) == {} and rested(row) == 0 for row in rounds)
        assert resting_ids(Resting(1, 1), rounds, rounds[-1].failures) == set()


def test_cross_entropy_is_refused_before_anything_is_written(tiny_classifier, tiny_protein_tokenizer, tmp_path):
    where = tmp_path / "run"
    with pytest.raises(BoostError, match=r"Resting\(after=2, rounds=3\) needs .*, and CrossEntropy has none"):
        boost(
            tiny_classifier(), tiny_protein_tokenizer, CoinTask(), CrossEntropy(), config(1, resting=Resting()), where
        )
    assert not where.exists()


def test_training_on_everything_is_refused():
    with pytest.raises(BoostError, match="only failures rest"):
        BoostConfig(resting=Resting(), train_on="all")


def test_no_preset_turns_it_on_and_methods_of_one_round_leave_it_off():
    chosen = [preset for section in (*SECTIONS.values(), MAINTENANCE) for preset in section.values()]
    assert chosen and all(preset.boost.resting is None for preset in chosen)
    boosting = Preset("x", "m", "arithmetic", MATH["demo"].trainer, BoostConfig(rounds=3, resting=Resting()))
    assert with_method(boosting, "tinylora").boost.resting is None
    assert with_method(boosting, "top").boost.resting == Resting()


def test_the_command_line(monkeypatch, capsys):
    made = []

    def instead(chosen, *arguments, **more):
        made.append(chosen.boost.resting)
        raise BoostError("stopped here")

    monkeypatch.setattr("boostlib.methods.run_method", instead)
    for options in (["--rest-after", "1", "--rest-rounds", "4"], ["--rest-after", "3"], ["--rest-rounds", "1"], []):
        main(["boost", *options])
    assert made == [Resting(1, 4), Resting(3, 3), Resting(2, 1), None]
    capsys.readouterr()
    for options, said in (
        (["--rest-after", "2", "--method", "full"], "--method full has only one"),
        (["--rest-after", "0"], "Resting(after=0)"),
    ):
        assert main(["boost", *options]) == 1
        assert said in capsys.readouterr().err
