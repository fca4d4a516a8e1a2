"""What several processes do together: spread work, one writer, agreement, and errors that leave nobody waiting."""

import logging
import os
import socket
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import CoinTask, FakeTrainer, ParityTask, config, rows, saved
from ranks import together

from boostlib import (
    GRPO,
    AdapterConfig,
    Greedy,
    Ledger,
    SVDBasis,
    TinyLoRA,
    boost,
    evaluate,
    load_classifier,
    load_model,
    train_head,
)
from boostlib.common import world
from boostlib.common.errors import DataError, LedgerError, ModelError, RunError, TrainingError
from boostlib.evaluation.evaluate import Result
from boostlib.models.subject import Subject
from boostlib.records.rows import Base
from boostlib.records.shared import record_of


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_tokenizer, tiny_llama, tiny_classifier, tiny_protein_tokenizer) -> dict[str, str]:
    """A tiny language model and a tiny classifier, on the disk as any process loads them."""
    base = tmp_path_factory.mktemp("models")
    return {
        "texts": saved(base / "texts", tiny_llama(), tiny_tokenizer),
        "labels": saved(base / "labels", tiny_classifier(), tiny_protein_tokenizer),
    }


def loaded(kind: str, folder: str):
    return (load_model if kind == "texts" else load_classifier)(folder, dtype="float32", device="cpu")


# --- the tools


def work_together(n: int) -> dict:
    def fails(part):
        if 1 in part:
            raise DataError("item 1 is broken")
        return part

    def broken() -> None:
        raise DataError("no such file")

    found = {"spread": world.spread(list(range(n)), lambda part: [10 * item for item in part])}
    found["main"] = world.on_main(lambda: [world.is_main(), os.getpid()])
    found["total"], found["largest"] = world.total(3), world.largest(int(os.environ.get("RANK", 0)))
    found["mean"] = world.mean(torch.tensor([1.0, float(os.environ.get("RANK", 0))])).tolist()
    found["errors"] = []
    for call in (lambda: world.spread([0, 1, 2], fails), lambda: world.on_main(broken)):
        try:
            call()
        except DataError as error:
            found["errors"].append(str(error))
    found["group"] = torch.distributed.is_initialized()
    found["quiet"] = logging.getLogger("boostlib.boost").getEffectiveLevel() == logging.ERROR
    return found


@pytest.mark.parametrize(("n", "processes"), [(0, 2), (1, 2), (5, 2), (7, 3)])
def test_work_is_spread_and_put_back_in_order_and_errors_are_everybodys(n, processes):
    found = together(work_together, n, processes=processes)
    last = processes - 1
    assert all(one["spread"] == [10 * i for i in range(n)] for one in found)
    assert all(one["main"] == found[0]["main"] and one["main"][0] for one in found)
    assert all((one["total"], one["largest"]) == (3 * processes, last) for one in found)
    assert all(one["mean"] == [1.0, last / 2] for one in found)
    assert all(one["errors"] == ["item 1 is broken", "no such file"] for one in found)
    assert [one["quiet"] for one in found] == [False] + [True] * last


def test_a_process_by_itself_makes_no_group(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # importing it would fail
    found = work_together(3)
    assert found["spread"] == [0, 10, 20] and found["mean"] == [1.0, 0.0] and not found["quiet"]
    assert not found["group"] and found["main"][0] and world.label() == "" and world.size() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert world.label() == " (process 3 of 4)"


def uneven() -> str:
    from accelerate import PartialState

    PartialState()  # on a machine without a GPU it takes no notice of the other process
    try:
        world.size()
    except RunError as error:
        return str(error)
    return ""


def test_a_group_that_accelerate_was_told_nothing_of_is_an_error():
    assert all("launched as one of 2" in text and "before anything is trained" in text for text in together(uneven))


def nobody_there(port: int) -> None:
    os.environ.update(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    world.size()


def test_processes_that_cannot_meet_say_where():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (error,) = together(nobody_there, port, processes=1)
    assert isinstance(error, RunError) and f"cannot meet at 127.0.0.1:{port}" in str(error)


# --- evaluation


def answers(kind: str, folder: str, n: int) -> Result:
    model, tokenizer = loaded(kind, folder)
    task = ParityTask(train=n) if kind == "texts" else CoinTask(train=n)
    return evaluate(model, tokenizer, task, "train", batch_size=2, progress=False)


@pytest.mark.parametrize("kind", ["texts", "labels"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_shared_evaluation_is_the_whole_one_in_every_process(folders, kind, n):
    whole = answers(kind, folders[kind], n)
    for found in together(answers, kind, folders[kind], n):
        assert (found.ids, found.completions, found.tokens) == (whole.ids, whole.completions, whole.tokens)
        assert found.correct.tolist() == whole.correct.tolist() and found.strict.tolist() == whole.strict.tolist()
        if kind == "labels":
            np.testing.assert_allclose(found.logits, whole.logits, rtol=1e-5, atol=1e-6)


def heads(folder: str) -> list[torch.Tensor]:
    """Of two fits, the second of which finds the features in the cache."""
    found = []
    for _ in range(2):
        model, tokenizer = loaded("labels", folder)
        train_head(model, tokenizer, CoinTask(train=25, validation=9, test=7), progress=False)
        found.append(model.head.weight.detach().clone())
    return found


def test_the_linear_probe_is_fitted_once_for_all(folders, monkeypatch, tmp_path):
    whole = heads(folders["labels"])
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "another"))
    found = together(heads, folders["labels"])
    torch.testing.assert_close(found[0][0], whole[0], rtol=1e-3, atol=1e-4)
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][0], found[0][1])
    assert len(list((tmp_path / "another" / "features").glob("*"))) == 3  # a split each, written once


# --- the loop, with a trainer whose numbers do not depend on how many train


def fake_run(folder: str, run_dir: str, settings: dict, rounds: int = 3) -> dict:
    model, tokenizer = loaded("texts", folder)
    run = boost(model, tokenizer, ParityTask(), FakeTrainer(), config(rounds, **settings), run_dir, progress=False)
    return {"rows": rows(run.ledger), "print": run.fingerprint(), "dir": run.dir}


LOOPS = {
    "rotate": {},
    "greedy": {"strategy": "greedy", "greedy": Greedy(candidates=4, probe_batches=2)},
    "drafts": {"drafts": True, "held_out": ("test",)},
}


@pytest.mark.parametrize("settings", LOOPS.values(), ids=LOOPS.keys())
def test_the_loop_records_what_one_process_records(folders, settings, tmp_path):
    whole = fake_run(folders["texts"], str(tmp_path / "one"), settings)
    for found in together(fake_run, folders["texts"], str(tmp_path / "two"), settings):
        assert found["rows"] == whole["rows"] and found["print"] == whole["print"]
    ledger = Ledger(tmp_path / "two")
    assert rows(ledger) == whole["rows"] and len(ledger.verify()) == 3
    assert ledger.header["environment"]["processes"] == "2" and "processes" not in str(ledger.header["identity"])
    if settings.get("drafts"):
        checked = [row.extra["drafts"]["checked"] for row in ledger.rounds]
        assert checked == [18, 18, 18]  # of both processes


class Heard(ParityTask):
    """Keeps what it scores."""

    def score_many(self, texts, examples):
        self.heard = [*getattr(self, "heard", []), *texts]
        return super().score_many(texts, examples)


def rollout(folder: str, prompts: int) -> list[str]:
    model, tokenizer = loaded("texts", folder)
    task = Heard(train=prompts, max_new_tokens=8)
    model.double()
    adapter = TinyLoRA(SVDBasis.from_model(model, 2), AdapterConfig(), 0)
    adapter.attach(model)
    GRPO(prompts=prompts, samples=4, max_samples=4, max_steps=1, rollout_batch=8).train(
        Subject(model, tokenizer, task), task.split("train"), adapter, seed=3
    )
    return task.heard


@pytest.mark.parametrize("prompts", [4, 3])  # of 3 prompts, a process gets one and a half
def test_processes_sample_what_one_process_samples(folders, prompts):
    whole = rollout(folders["texts"], prompts)
    assert len(whole) == 4 * prompts and len(set(whole)) > prompts
    first, second = together(rollout, folders["texts"], prompts)
    assert [*first, *second] == whole


def test_the_other_process_touches_no_file(folders, tmp_path):
    """Each process runs in a folder of its own, so the relative run directory is another one for each."""
    found = together(fake_run_elsewhere, folders["texts"], str(tmp_path))
    assert found[0]["rows"] == found[1]["rows"] and len(found[1]["rows"]) == 3
    assert (tmp_path / "0" / "run" / "ledger.jsonl").exists() and not list((tmp_path / "1").iterdir())
    again = together(fake_run_elsewhere, folders["texts"], str(tmp_path), 3)
    assert [len(one["rows"]) for one in again] == [4, 4] and again[1]["rows"][:3] == found[1]["rows"]


def fake_run_elsewhere(folder: str, base: str, rounds: int = 2) -> dict:
    here = os.path.join(base, os.environ["RANK"])
    os.makedirs(here, exist_ok=True)
    os.chdir(here)
    return fake_run(folder, "run", {}, rounds)


# --- what goes wrong


class Uneven(FakeTrainer):
    """Process 1 trains other numbers, or finds an error of its own."""

    def __init__(self, error: bool):
        super().__init__()
        self.error = error

    def train(self, subject, examples, adapter, seed=0):
        done = super().train(subject, examples, adapter, seed)
        if os.environ["RANK"] == "1":
            if self.error:
                raise TrainingError("process 1 alone has no memory left")
            adapter.v.data.add_(1e-6)
        return done


def uneven_run(folder: str, run_dir: str, error: bool) -> None:
    model, tokenizer = loaded("texts", folder)
    boost(model, tokenizer, ParityTask(), Uneven(error), config(2), run_dir, progress=False)


def test_processes_that_disagree_record_nothing(folders, tmp_path):
    for error in together(uneven_run, folders["texts"], str(tmp_path), False):
        assert isinstance(error, RunError) and "disagree on round 0 (numbers)" in str(error)
    assert Ledger(tmp_path).verify() == [] and Ledger(tmp_path).load_v(0) is None


def other_weights(run_dir: str) -> tuple[str, Base]:
    rank = os.environ["RANK"]
    ledger = record_of(run_dir)
    with ledger.locked():
        row = Base(["a"], 0.5, 0.5, {}, weights_fingerprint=rank, seconds=float(rank))
        try:
            ledger.append(row)
        except RunError as error:
            text = str(error)
        ledger.append(replace(row, weights_fingerprint="the same"))
    return text, ledger.base


def test_a_row_is_recorded_only_where_all_have_it_and_with_the_first_ones_times(tmp_path):
    for text, base in together(other_weights, str(tmp_path)):
        assert "disagree on the untrained model (weights_fingerprint)" in text
        assert base.weights_fingerprint == "the same" and base.seconds == 0.0
    assert len(Ledger(tmp_path).path.read_bytes().splitlines()) == 1


def test_an_error_of_one_process_leaves_nobody_waiting(folders, tmp_path):
    other, own = together(uneven_run, folders["texts"], str(tmp_path), True)
    assert isinstance(own, TrainingError) and "process 1 alone" in str(own)
    assert isinstance(other, RunError) and "another process of this run has ended" in str(other)
    assert "the same command continues" in str(other)


def other_data(folder: str, run_dir: str) -> None:
    model, tokenizer = loaded("texts", folder)
    task = ParityTask(train=12 + int(os.environ["RANK"]))
    boost(model, tokenizer, task, FakeTrainer(), config(1), run_dir, progress=False)


def test_processes_with_other_data_do_not_start(folders, tmp_path):
    for error in together(other_data, folders["texts"], str(tmp_path)):
        assert isinstance(error, RunError) and "disagree on what is run (data)" in str(error)


def other_settings(folder: str, run_dir: str) -> None:
    model, tokenizer = loaded("texts", folder)
    options = {"drafts": True} if os.environ["RANK"] == "1" else {}
    boost(model, tokenizer, ParityTask(), FakeTrainer(), config(1, **options), run_dir, progress=False)


def test_processes_with_other_settings_do_not_start(folders, tmp_path):
    for error in together(other_settings, folders["texts"], str(tmp_path)):
        assert isinstance(error, RunError) and "disagree on what is run (drafts)" in str(error)


def refused(folder: str) -> list[str]:
    model, tokenizer = loaded("texts", folder)
    texts = []
    for call in (
        lambda: world.require_whole_models(torch.device("cuda")),
        lambda: boost(model, tokenizer, ParityTask(), FakeTrainer(), config(1), "never", progress=False),
    ):
        try:
            call()
        except RunError as error:
            texts.append(str(error))
        os.environ["ACCELERATE_USE_FSDP"] = "true"
    return texts


def test_other_devices_and_split_models_are_refused(folders):
    for device, split in together(refused, folders["texts"]):
        assert "meet on cpu, but the model is on cuda" in device and 'device="cpu"' in device
        assert "FSDP" in split and "--multi_gpu" in split


def too_deep(folder: str, run_dir: str) -> None:
    model, tokenizer = loaded("texts", folder)
    boost(model, tokenizer, ParityTask(), FakeTrainer(), config(40), run_dir, progress=False)


def test_an_error_of_the_basis_is_everybodys(folders, tmp_path):
    for error in together(too_deep, folders["texts"], str(tmp_path)):
        assert isinstance(error, ModelError) and "a basis of rank 80" in str(error)


def test_errors_of_the_record_are_everybodys(folders, tmp_path):
    with Ledger(tmp_path / "held").locked():
        for error in together(fake_run, folders["texts"], str(tmp_path / "held"), {}):
            assert isinstance(error, RunError) and "in use by another process" in str(error)
    fake_run(folders["texts"], str(tmp_path / "bad"), {}, 1)
    ledger = Ledger(tmp_path / "bad")
    ledger.path.write_text(ledger.path.read_text().replace('"failures"', '"Failures"', 1))
    for error in together(fake_run, folders["texts"], str(tmp_path / "bad"), {}):
        assert isinstance(error, LedgerError) and "line 1" in str(error)
