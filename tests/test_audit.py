"""The audit of evaluations that save: what full passes find, beside what the record knew."""

import pytest
from helpers import FakeTrainer, ParityTask, config

from boostlib import Incremental, Ledger, boost, evaluate, replay
from boostlib.__main__ import main
from boostlib.audit import audit, saving

ROUNDS = 4


@pytest.fixture
def record(lively, tiny_tokenizer, tmp_path):
    def run(trainer=None, **settings):
        task, folder = ParityTask(train=24, test=6), tmp_path / "run"
        boost(
            lively(), tiny_tokenizer, task, trainer or FakeTrainer(), config(rounds=ROUNDS, **settings), folder, False
        )
        return folder, task

    return run


def lines_of(record, lively, tokenizer, **settings):
    folder, task = record(**settings)
    return folder, task, audit(folder, task, lively(), tokenizer, progress=False)


def test_full_evaluation_knows_every_failure_and_saves_nothing(record, lively, tiny_tokenizer):
    folder, _, lines = lines_of(record, lively, tiny_tokenizer)
    assert list(lines.index) == list(range(ROUNDS))
    ledger = Ledger(folder)
    assert list(lines["failures"]) == [len(ledger.failures_after(t + 1)) for t in range(ROUNDS)]
    assert (lines["recall"] == 1).all() and (lines["tokens, run"] == lines["tokens, full"]).all()
    assert (lines["test, record - full"] == 0).all() and saving(lines)["saved"] == 1


def test_drafts_know_every_failure_and_decode_what_the_ledger_says(record, lively, tiny_tokenizer):
    folder, _, lines = lines_of(record, lively, tiny_tokenizer, drafts=True)
    assert (lines["recall"] == 1).all()
    assert list(lines["tokens, run"]) == [row.extra["drafts"]["tokens"] for row in Ledger(folder).rounds]
    assert (lines["tokens, full"] > lines["tokens, run"]).any()


def test_what_incremental_evaluation_missed_lowers_its_recall(record, lively, tiny_tokenizer):
    settings = Incremental(sample=1, every=ROUNDS, grow=1.0)
    folder, task, lines = lines_of(record, lively, tiny_tokenizer, incremental=settings)
    ledger, missed = Ledger(folder), 0
    for t in range(ROUNDS):
        model = replay(folder, t, lively())
        wrong = set(evaluate(model, tiny_tokenizer, task, "train", progress=False).failures)
        known = set(ledger.failures_after(t + 1))
        assert lines["failures"][t] == len(wrong) and lines["found"][t] == len(wrong & known)
        missed += len(wrong - known)
    assert missed > 0, "this run shows nothing: nobody was missed"
    assert saving(lines)["recall"] == pytest.approx(1 - missed / lines["failures"].sum())
    assert lines["tokens, run"][0] < lines["tokens, full"][0]
    assert lines["tokens, run"][ROUNDS - 1] == lines["tokens, full"][ROUNDS - 1] and lines["recall"][ROUNDS - 1] == 1


@pytest.mark.parametrize("incremental", [None, Incremental(sample=1, every=ROUNDS)])
def test_a_round_that_learned_nothing_decoded_nothing(record, lively, tiny_tokenizer, incremental):
    trainer = FakeTrainer(skip=(1,))
    _, _, lines = lines_of(record, lively, tiny_tokenizer, trainer=trainer, incremental=incremental)
    assert lines["tokens, run"][1] == 0 < lines["tokens, full"][1]


def test_the_command_line_needs_the_runs_task(record, capsys):
    folder, _ = record()
    assert main(["verify", str(folder), "--evaluation"]) == 1
    assert "--data-dir" in capsys.readouterr().err
