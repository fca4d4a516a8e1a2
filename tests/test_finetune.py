"""Baselines: all weights at once, and TinyLoRA's way of training on everything."""

from dataclasses import dataclass

import pytest
import torch
from helpers import FakeTrainer, ParityTask

from boostlib import AdapterConfig, BoostConfig, boost, replay
from boostlib.errors import RunError
from boostlib.finetune import finetune
from boostlib.rounds import Training

CONFIG = BoostConfig(rounds=1, adapter=AdapterConfig(n_tie=7))


@dataclass
class Nudge:
    """Moves every trainable weight by the same amount; remembers how many examples it was given."""

    by: float = 0.02
    given: int = 0
    skipped: str = ""

    def settings(self):
        return {"kind": "nudge", "by": self.by}

    def train(self, model, tokenizer, task, examples, adapter=None, seed=0, on_step=None):
        self.given = len(examples)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += self.by
        return Training(steps=1, signal=[1.0], rewards=[0.5], skipped=self.skipped)


def test_full_fine_tuning_trains_every_weight_on_every_example_and_records_one_round(
    tiny_llama, tiny_tokenizer, tmp_path
):
    model, trainer = tiny_llama(), Nudge()
    count = sum(p.numel() for p in model.parameters())
    ledger = finetune(model, tiny_tokenizer, ParityTask(), trainer, CONFIG, tmp_path)
    (row,) = ledger.rounds
    assert trainer.given == len(ParityTask().split("train"))
    assert row.num_parameters == count
    assert row.adapter_norm == pytest.approx(0.02 * count**0.5, rel=1e-3)
    assert ledger.verify() and row.weights_fingerprint != ledger.base.weights_fingerprint
    trainer.given = 0
    assert finetune(tiny_llama(), tiny_tokenizer, ParityTask(), trainer, CONFIG, tmp_path).rounds == [row]
    assert trainer.given == 0  # done already: read from the ledger
    with pytest.raises(RunError, match="cannot be rebuilt"):
        replay(tmp_path, model=tiny_llama())


def test_full_fine_tuning_that_learned_nothing_is_an_error(tiny_llama, tiny_tokenizer, tmp_path):
    with pytest.raises(RunError, match="no signal"):
        finetune(tiny_llama(), tiny_tokenizer, ParityTask(), Nudge(skipped="no signal"), CONFIG, tmp_path)


def test_train_on_all_gives_the_trainer_the_whole_training_set(tiny_llama, tiny_tokenizer, tmp_path):
    given = {}
    for train_on in ("failures", "all"):
        trainer = Nudge()
        config = BoostConfig(rounds=1, adapter=AdapterConfig(n_tie=7), train_on=train_on)
        run = boost(tiny_llama(), tiny_tokenizer, ParityTask(), trainer, config, tmp_path / train_on, progress=False)
        given[train_on] = trainer.given
        assert run.rounds[0].failures == run.base.failures
    assert given["all"] == len(ParityTask().split("train")) > given["failures"] == len(run.base.failures)


def test_fake_and_real_runs_share_the_ledger_format(tiny_llama, tiny_tokenizer, tmp_path):
    run = boost(tiny_llama(), tiny_tokenizer, ParityTask(), FakeTrainer(), CONFIG, tmp_path / "a", progress=False)
    full = finetune(tiny_llama(), tiny_tokenizer, ParityTask(), Nudge(), CONFIG, tmp_path / "b")
    assert vars(run.rounds[0]).keys() == vars(full.rounds[0]).keys()
