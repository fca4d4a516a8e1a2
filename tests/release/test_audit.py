"""The audit of evaluations that save: what full passes find, beside what the record knew."""

from pathlib import Path

import pytest
from helpers import FakeTrainer, ParityTask, config

from boostlib import BoostError, Ledger, boost
from boostlib.__main__ import main
from boostlib.release.audit import audit, saving

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


def test_a_round_that_learned_nothing_decoded_nothing(record, lively, tiny_tokenizer):
    _, _, lines = lines_of(record, lively, tiny_tokenizer, trainer=FakeTrainer(skip=(1,)))
    assert lines["tokens, run"][1] == 0 < lines["tokens, full"][1]


def test_a_recorded_run_that_was_evaluated_in_part_is_refused():
    """By an option that is gone; its ledger stays readable."""
    run = Path(__file__).resolve().parents[2] / "data" / "runs" / "math-shortincremental-rotate-seed0"
    assert len(Ledger(run).verify()) == 10 and not all(row.whole for row in Ledger(run).rounds)
    with pytest.raises(BoostError, match="evaluated some rounds in part"):
        audit(run, ParityTask())


def test_the_command_line_needs_the_runs_task(record, capsys):
    folder, _ = record()
    assert main(["verify", str(folder), "--evaluation"]) == 1
    assert "--data-dir" in capsys.readouterr().err
