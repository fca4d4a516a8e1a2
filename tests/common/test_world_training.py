"""Training on several processes: the steps of one process at equal global batch, and what a killed process leaves."""

import gc
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import CoinTask, ParityTask, config, rows, saved
from ranks import KILLED, together
from torch.nn.parallel import DistributedDataParallel

from boostlib import GRPO, CrossEntropy, Ledger, boost, load_classifier, load_model
from boostlib.common import world
from boostlib.common.errors import DataError, RunError, TrainingError
from boostlib.experiments.methods import finetune
from boostlib.run import Run
from boostlib.tasks.base import Score
from boostlib.training.trl import FoldingTrainer, prompts_a_step, reward_function, sampled

COINS, TEXTS = CoinTask(train=24, validation=10, test=7), ParityTask(train=20)
HELD_OUT = ("validation", "test")
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory, lively, tiny_tokenizer) -> str:
    return saved(tmp_path_factory.mktemp("texts"), lively(), tiny_tokenizer)


@pytest.fixture(scope="module")
def labels(tmp_path_factory, tiny_classifier, tiny_protein_tokenizer) -> str:
    return saved(tmp_path_factory.mktemp("labels"), tiny_classifier(), tiny_protein_tokenizer)


@pytest.fixture(scope="module")
def whole(labels, tmp_path_factory, own_cache) -> dict:
    """Three rounds of cross-entropy in one process."""
    return cross_entropy(labels, str(tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="module")
def shared(labels, tmp_path_factory, own_cache) -> list[dict]:
    """The same in two, undisturbed."""
    return together(cross_entropy, labels, str(tmp_path_factory.mktemp("shared") / "run"))


class Mortal:
    """A trainer whose process `rank` is killed in a round, at a step."""

    def __init__(self, trainer, rank: int, index: int = 1, step: int = 2):
        self.trainer, self.rank, self.index, self.step = trainer, rank, index, step
        self.settings, self.probe = trainer.settings, trainer.probe

    def train(self, subject, examples, adapter, seed=0):
        def heard(step: dict) -> None:
            if adapter.round == self.index and step["step"] == self.step and os.environ["RANK"] == str(self.rank):
                os.kill(os.getpid(), signal.SIGKILL)

        return self.trainer.train(replace(subject, on_step=heard), examples, adapter, seed)


def outcome(run) -> dict:
    vs = [run.ledger.load_v(row.index)[0] for row in run.rounds]
    return {"rows": rows(run.ledger), "v": vs, "print": run.fingerprint()}


def whole_numbers(found: dict) -> list[tuple]:
    """What a ledger says in ids and counts, which rounding does not touch."""
    names = (
        "failures",
        "fixed",
        "broken",
        "train_accuracy",
        "steps",
        "tokens",
        "skipped",
        "samples",
        "rewards",
        "signal",
    )
    return [tuple(row.get(name) for name in names) for row in found["rows"]]


def same_numbers(one: dict, other: dict) -> None:
    assert whole_numbers(one) == whole_numbers(other)
    for x, y in zip(one["rows"], other["rows"], strict=True):
        assert {k: m["correct"] for k, m in x["metrics"].items()} == {k: m["correct"] for k, m in y["metrics"].items()}
    for v, w in zip(one["v"], other["v"], strict=True):
        torch.testing.assert_close(v, w, **CLOSE)


# --- cross-entropy


def cross_entropy(folder: str, run_dir: str, rounds: int = 3, dies: int | None = None, batch: int = 8, **more) -> dict:
    model, tokenizer = load_classifier(folder, dtype="float32", device="cpu")
    trainer = CrossEntropy(learning_rate=0.05, batch=batch, micro_batch=3, epochs=4.0, max_steps=5, checks=2)
    trainer = trainer if dies is None else Mortal(trainer, dies)
    settings = config(rounds, n_tie=4, held_out=HELD_OUT, **more)
    return outcome(boost(model, tokenizer, COINS, trainer, settings, run_dir, progress=False))


def test_cross_entropy_takes_the_steps_of_one_process(whole, shared):
    assert any(row.get("fixed") for row in whole["rows"]) and any(row.get("broken") for row in whole["rows"])
    for one in shared:
        same_numbers(whole, one)
    assert shared[0]["rows"] == shared[1]["rows"] and shared[0]["print"] == shared[1]["print"]
    assert all(torch.equal(*pair) for pair in zip(shared[0]["v"], shared[1]["v"], strict=True))
    for row, other in zip(whole["rows"][1:], shared[0]["rows"][1:], strict=True):
        assert row["losses"] == pytest.approx(other["losses"], abs=1e-4)


def few_rows(folder: str, run_dir: str) -> dict:
    return cross_entropy(folder, run_dir, 1, None, 2, strategy="greedy")


def test_a_process_without_rows_takes_part(labels, tmp_path):
    """Batches of 2 on 3 processes, and greedy probing with them."""
    whole = few_rows(labels, str(tmp_path / "one"))
    for one in together(few_rows, labels, str(tmp_path / "three"), processes=3):
        same_numbers(whole, one)
        assert [row.get("plan") for row in one["rows"]] == [row.get("plan") for row in whole["rows"]]


# --- GRPO


RECORDED = "recorded.pkl"
FAST = {"prompts": 3, "samples": 4, "max_steps": 2, "learning_rate": 0.05}


class Replayed(FoldingTrainer):
    """Takes its completions from a file, which one process writes by sampling them."""

    path: Path

    def _sample(self, prompt_ids, number):
        if world.size() == 1:
            done = super()._sample(prompt_ids, number)
            known = pickle.loads(self.path.read_bytes()) if self.path.exists() else []
            self.path.write_bytes(pickle.dumps([*known, list(zip(prompt_ids, done, strict=True))]))
            return done
        every, rank = pickle.loads(self.path.read_bytes())[Replayed.taken], int(os.environ["RANK"])
        Replayed.taken += 1
        mine = every[rank * len(prompt_ids) :][: len(prompt_ids)]
        assert len(every) == world.size() * len(prompt_ids) and [prompt for prompt, _ in mine] == prompt_ids
        return [completion for _, completion in mine]

    taken = 0


def grpo(folder: str, run_dir: str, recorded: str | None, settings: dict, rounds: int = 2, dies=None, **more) -> dict:
    import boostlib.training.trl

    model, tokenizer = load_model(folder, dtype="float32", device="cpu")
    trainer = GRPO(**{**FAST, **settings})
    trainer = trainer if dies is None else Mortal(trainer, dies, index=0, step=1)
    plain = boostlib.training.trl.FoldingTrainer
    if recorded:
        Replayed.path, boostlib.training.trl.FoldingTrainer = Path(recorded), Replayed
    try:
        return outcome(boost(model, tokenizer, TEXTS, trainer, config(rounds, **more), run_dir, progress=False))
    finally:
        boostlib.training.trl.FoldingTrainer = plain


GROUPS = {
    "a group each": {"prompts": 4, "samples": 4},
    "groups cut in two, small passes": {"prompts": 3, "samples": 2, "micro_batch": 2},
    "gradient checkpointing": {"prompts": 4, "samples": 4, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("settings", GROUPS.values(), ids=GROUPS.keys())
def test_grpo_takes_the_steps_of_one_process(texts, tmp_path, settings):
    recorded = str(tmp_path / RECORDED)
    whole = grpo(texts, str(tmp_path / "one"), recorded, settings)
    found = together(grpo, texts, str(tmp_path / "two"), recorded, settings)
    assert any(0 < share < 1 for row in whole["rows"][1:] for share in row["signal"])  # some rows had no advantage
    for one in found:
        same_numbers(whole, one)
    assert found[0]["rows"] == found[1]["rows"] and found[0]["print"] == found[1]["print"]


def test_greedy_rounds_of_grpo_choose_what_one_process_chooses(texts, tmp_path):
    recorded = str(tmp_path / RECORDED)
    arguments = recorded, GROUPS["a group each"], 1
    whole = greedy_grpo(texts, str(tmp_path / "one"), *arguments)
    for one in together(greedy_grpo, texts, str(tmp_path / "two"), *arguments):
        same_numbers(whole, one)
        assert one["rows"][1]["plan"] == whole["rows"][1]["plan"]
        slopes = [row["rows"][1]["extra"]["greedy"]["slope"] for row in (one, whole)]
        assert slopes[0] == pytest.approx(slopes[1], rel=1e-4) and min(slopes[1]) > 0


def greedy_grpo(folder: str, run_dir: str, recorded: str, settings: dict, rounds: int) -> dict:
    return grpo(folder, run_dir, recorded, settings, rounds, None, strategy="greedy")


def test_each_process_samples_for_itself_and_all_end_alike(texts, tmp_path):
    found = together(grpo, texts, str(tmp_path / "run"), None, {"prompts": 4})
    assert found[0]["rows"] == found[1]["rows"] and found[0]["print"] == found[1]["print"]
    assert all(torch.equal(*pair) for pair in zip(found[0]["v"], found[1]["v"], strict=True))
    assert all(v.any() for v in found[0]["v"]) and found[0]["rows"][1]["steps"] == 2
    assert 2 * 16 < found[0]["rows"][1]["tokens"] <= 2 * 16 * 2  # of both


class Hopeless(ParityTask):
    """No completion is right, so every group is tried with more samples."""

    def score(self, completion, example) -> Score:
        return Score(False, False)


def retried(folder: str, run_dir: str) -> dict:
    model, tokenizer = load_model(folder, dtype="float32", device="cpu")
    trainer = GRPO(**{**FAST, "samples": 2, "max_samples": 4, "max_steps": 1})
    run = boost(model, tokenizer, Hopeless(), trainer, config(1), run_dir, progress=False)
    wrappers = [one for one in gc.get_objects() if isinstance(one, DistributedDataParallel)]
    return outcome(run) | {"wrappers": len(wrappers), "forward": "forward" in vars(model)}


def test_a_retry_with_more_samples_leaves_no_wrapper_behind(texts, tmp_path):
    for one in together(retried, texts, str(tmp_path / "run")):
        row = one["rows"][1]
        assert row["skipped"].startswith("no group of 12 failures had an advantage, 4 samples") and row["steps"] == 2
        assert one["wrappers"] == 0 and not one["forward"] and not one["v"][0].any()


class Unscorable(ParityTask):
    """Process 1 cannot score."""

    def score(self, completion, example) -> Score:
        if os.environ["RANK"] == "1":
            raise DataError("the tests of this problem do not run")
        return super().score(completion, example)


def rewarded() -> list[float]:
    task = Unscorable()
    return reward_function(task, task.split("train"))(prompts=None, completions=["a"], index=[0])


def test_an_error_in_scoring_is_everybodys():
    assert [str(error) for error in together(rewarded)] == ["the tests of this problem do not run"] * 2


def test_a_step_takes_what_the_processes_can_share(monkeypatch):
    settings = GRPO(prompts=16, samples=8)

    def on(size: int, failures: int, samples: int = 8) -> int:
        monkeypatch.setattr(world, "size", lambda: size)
        return prompts_a_step(replace(settings, samples=samples), failures)

    assert [on(1, n) for n in (1, 5, 16, 90)] == [1, 5, 16, 16]  # as without processes
    assert [on(8, n) for n in (1, 5, 90)] == [1, 5, 16]  # 8 samples divide among 8 processes
    assert [on(3, n) for n in (1, 5, 90)] == [3, 3, 15]
    assert [on(32, n) for n in (1, 5, 90)] == [4, 4, 16] and on(32, 1, samples=32) == 1
    with pytest.raises(TrainingError, match="prompts=16.*at least 17 prompts, or fewer processes"):
        on(17, 90)
    assert sampled(5, 3) == [0, 1, 2, 3, 4] and sampled(2, 5) == [0, 1, 0, 1, 0]


# --- baselines


def baseline(folder: str, run_dir: str, rank: int | None) -> dict:
    model, tokenizer = load_classifier(folder, dtype="float32", device="cpu")
    trainer = CrossEntropy(learning_rate=1e-3, batch=8, micro_batch=3, max_steps=3, validation=None)
    return {"rows": rows(finetune(Run(model, tokenizer, COINS, trainer, config(1)), run_dir, rank))}


@pytest.mark.parametrize("rank", [None, 1], ids=["all weights", "LoRA"])
def test_baselines_take_the_steps_of_one_process(labels, tmp_path, rank):
    whole = baseline(labels, str(tmp_path / "one"), rank)
    found = together(baseline, labels, str(tmp_path / "two"), rank)
    assert found[0]["rows"] == found[1]["rows"]
    assert whole_numbers(found[0]) == whole_numbers(whole)
    for name in ("losses", "adapter_norm"):  # Adam steps on the sign of a gradient that is 0 but for rounding
        assert found[0]["rows"][1][name] == pytest.approx(whole["rows"][1][name], rel=1e-3)


def grpo_baseline(folder: str, run_dir: str, rank: int | None) -> dict:
    model, tokenizer = load_model(folder, dtype="float32", device="cpu")
    trainer = GRPO(**{**FAST, "learning_rate": 1e-3, "prompts": 4})
    ledger = finetune(Run(model, tokenizer, TEXTS, trainer, config(1)), run_dir, rank)
    return {"rows": rows(ledger)}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 1], ids=["all weights", "LoRA"])
def test_grpo_baselines_end_alike(texts, tmp_path, rank):
    found = together(grpo_baseline, texts, str(tmp_path / "two"), rank)
    assert found[0]["rows"] == found[1]["rows"]
    base, row = found[0]["rows"]
    assert row["steps"] == 2 and row["weights_fingerprint"] != base["weights_fingerprint"]


# --- a process is killed


@pytest.mark.parametrize("dies", [0, 1])
def test_when_one_process_is_killed_the_other_says_so_and_the_run_goes_on(labels, shared, tmp_path, dies):
    found = together(cross_entropy, labels, str(tmp_path / "cut"), 3, dies)
    assert found[dies] == KILLED
    survivor = found[1 - dies]
    assert isinstance(survivor, RunError) and "another process of this run has ended" in str(survivor)
    assert "the same command continues" in str(survivor)
    assert len(Ledger(tmp_path / "cut").verify()) == 1
    again = together(cross_entropy, labels, str(tmp_path / "cut"))
    assert [one["rows"] for one in again] == [one["rows"] for one in shared]
    assert again[0]["print"] == shared[0]["print"]
    assert len(Ledger(tmp_path / "cut").verify()) == 3


def test_grpo_survives_a_killed_process_too(texts, tmp_path):
    arguments = texts, str(tmp_path / "run"), None, {"prompts": 4}
    survivor, gone = together(grpo, *arguments, 1, 1)
    assert gone == KILLED and isinstance(survivor, RunError) and "another process" in str(survivor)
    assert Ledger(tmp_path / "run").base and not Ledger(tmp_path / "run").verify()
    again = together(grpo, *arguments, 1)
    assert again[0]["rows"] == again[1]["rows"] and len(again[0]["rows"]) == 2


def test_a_run_goes_on_with_another_number_of_processes(labels, whole, tmp_path):
    for first, then in ((2, 1), (1, 2)):
        run_dir = str(tmp_path / f"from {first}")
        together(cross_entropy, labels, run_dir, 1, processes=first)
        for one in together(cross_entropy, labels, run_dir, 3, processes=then):
            same_numbers(whole, one)
