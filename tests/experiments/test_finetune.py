"""Baselines: all weights at once, PEFT's LoRA, and TinyLoRA's way of training on everything."""

from dataclasses import dataclass, replace

import pytest
import torch
from helpers import FakeTrainer, ParityTask

from boostlib import GRPO, AdapterConfig, BoostConfig, boost, preset, replay, target_modules
from boostlib.common.errors import BoostError, RunError
from boostlib.experiments.methods import finetune, run_method, with_method
from boostlib.experiments.presets import MATH
from boostlib.records.rows import Training
from boostlib.run import Run
from boostlib.strategies.lora import LoRA
from boostlib.update import Weights

CONFIG = BoostConfig(rounds=1, adapter=AdapterConfig(n_tie=7), train_on="all")


@dataclass
class Nudge:
    """Moves every trainable weight by the same amount; remembers how many examples it was given."""

    by: float = 0.02
    given: int = 0
    skipped: str = ""
    learning_rate: float = 0.0
    max_steps: int = 1
    epochs: float = 1.0

    def settings(self):
        return {"kind": "nudge", "by": self.by}

    def train(self, subject, examples, adapter=None, seed=0):
        self.given = len(examples)
        with torch.no_grad():
            for parameter in subject.model.parameters():
                if parameter.requires_grad:
                    parameter += self.by
        return Training(steps=1, signal=[1.0], rewards=[0.5], skipped=self.skipped)


def test_full_fine_tuning_trains_every_weight_on_every_example_and_records_one_round(
    tiny_llama, tiny_tokenizer, tmp_path
):
    model, trainer = tiny_llama(), Nudge()
    count = sum(p.numel() for p in model.parameters())
    ledger = finetune(Run(model, tiny_tokenizer, ParityTask(), trainer, CONFIG), tmp_path)
    (row,) = ledger.rounds
    assert trainer.given == len(ParityTask().split("train"))
    assert row.num_parameters == count
    assert row.adapter_norm == pytest.approx(0.02 * count**0.5, rel=1e-3)
    assert ledger.verify() and row.weights_fingerprint != ledger.base.weights_fingerprint
    trainer.given = 0
    assert finetune(Run(tiny_llama(), tiny_tokenizer, ParityTask(), trainer, CONFIG), tmp_path).rounds == [row]
    assert trainer.given == 0  # done already: read from the ledger
    with pytest.raises(RunError, match="cannot be rebuilt"):
        replay(tmp_path, model=tiny_llama())


def test_full_fine_tuning_that_learned_nothing_is_an_error(tiny_llama, tiny_tokenizer, tmp_path):
    with pytest.raises(RunError, match="no signal"):
        finetune(Run(tiny_llama(), tiny_tokenizer, ParityTask(), Nudge(skipped="no signal"), CONFIG), tmp_path)


def state(model) -> tuple:
    """Names, flags and bytes of all parameters, and what else hangs on the model."""
    parameters = {n: (p.requires_grad, p.detach().clone()) for n, p in model.named_parameters()}
    return parameters, {name for module in model.modules() for name in vars(module)}, [*model.named_modules()]


def same(one: tuple, other: tuple) -> bool:
    tensors = all(flag == other[0][n][0] and torch.equal(p, other[0][n][1]) for n, (flag, p) in one[0].items())
    return one[0].keys() == other[0].keys() and tensors and one[1:] == other[1:]


@pytest.fixture
def attached(tiny_llama):
    """(model, LoRA of rank 2 with random B, logits function)"""
    model = tiny_llama()
    names = target_modules(model)
    lora = LoRA(names, rank=2, seed=3).attach(model, Weights(model, names))
    ids = torch.arange(2, 20)[None]
    return model, lora, lambda: model(ids).logits.detach()


def randomize(model) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_attaching_a_lora_changes_no_output_and_detaching_leaves_the_model_as_it_was(tiny_llama):
    model = tiny_llama()
    model.lm_head.weight.requires_grad_(False)
    names, before, ids = target_modules(model), state(model), torch.arange(2, 20)[None]
    logits = model(ids).logits
    lora = LoRA(names, rank=2).attach(model, Weights(model, names))
    assert torch.equal(model(ids).logits, logits)
    assert {n.rsplit(".", 3)[1] for n, p in model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    randomize(model)
    assert not torch.allclose(model(ids).logits, logits, atol=1e-3)
    lora.detach()
    assert same(state(model), before) and torch.equal(model(ids).logits, logits)


def test_folded_lora_gives_the_output_of_the_live_one_without_its_branch(attached):
    model, lora, logits = attached
    randomize(model)
    before, live, calls = state(model), logits(), []
    for layer in model.modules():
        if type(layer).__name__ == "Linear" and hasattr(layer, "lora_A"):
            layer.lora_A["default"].register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        with lora.folded():
            assert torch.allclose(logits(), live, atol=1e-4) and not calls
    assert same(state(model), before)
    assert torch.equal(logits(), live) and calls


def test_the_seed_decides_a_loras_start(tiny_llama):
    def first(seed: int) -> torch.Tensor:
        model = tiny_llama()
        names = target_modules(model)
        return LoRA(names, seed=seed).attach(model, Weights(model, names)).update()[names[0]][1]

    state_before = torch.random.get_rng_state()
    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))
    assert torch.equal(torch.random.get_rng_state(), state_before)
    with pytest.raises(BoostError, match="rank=0"):
        LoRA(["q_proj"], rank=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_run_records_one_round_of_rank_one_and_leaves_a_plain_model(tiny_llama, tiny_tokenizer, tmp_path, dtype):
    model, trainer = tiny_llama(dtype=dtype), Nudge(by=0.2)
    names = target_modules(model)
    shapes = [model.get_submodule(name).weight.shape for name in names]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    ledger = finetune(Run(model, tiny_tokenizer, ParityTask(), trainer, CONFIG), tmp_path, lora_rank=1)
    (row,) = ledger.rounds
    assert trainer.given == len(ParityTask().split("train"))
    assert row.num_parameters == sum(out + in_ for out, in_ in shapes)
    assert row.degrees_of_freedom == row.num_parameters - len(names)
    assert row.extra["ranks"] == [1] * len(names)
    assert ledger.header["identity"]["adapter"] == "LoRA r=1"
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and all(p.dtype == dtype for p in after.values())
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed == {f"{name}.weight" for name in names}
    norm = sum(float((after[n].detach().double() - before[n].double()).square().sum()) for n in changed) ** 0.5
    assert row.adapter_norm == row.update_norm == pytest.approx(norm, rel=1e-5 if dtype == torch.float32 else 0.01)
    assert row.fold_retention == pytest.approx(1.0, abs=1e-5 if dtype == torch.float32 else 0.01)
    assert ledger.verify() and row.weights_fingerprint != ledger.base.weights_fingerprint


def test_a_finished_lora_run_is_returned_and_is_not_another_baselines_run(tiny_llama, tiny_tokenizer, tmp_path):
    trainer = Nudge(by=0.2)
    row = finetune(Run(tiny_llama(), tiny_tokenizer, ParityTask(), trainer, CONFIG), tmp_path, lora_rank=1).rounds[0]
    trainer.given, again = 0, tiny_llama()
    before = state(again)
    assert finetune(Run(again, tiny_tokenizer, ParityTask(), trainer, CONFIG), tmp_path, lora_rank=1).rounds == [row]
    assert trainer.given == 0 and same(state(again), before)
    for other in (None, 2):
        with pytest.raises(RunError, match="LoRA r=1"):
            finetune(Run(tiny_llama(), tiny_tokenizer, ParityTask(), trainer, CONFIG), tmp_path, lora_rank=other)
    with pytest.raises(RunError, match="LoRA r=1.*cannot be rebuilt"):
        replay(tmp_path, model=tiny_llama())


def test_an_interrupted_lora_leaves_the_model_as_it_was(tiny_llama, tiny_tokenizer, tmp_path):
    model = tiny_llama()
    before = state(model)
    with pytest.raises(RunError, match="no signal"):
        finetune(Run(model, tiny_tokenizer, ParityTask(), Nudge(skipped="no signal"), CONFIG), tmp_path, lora_rank=1)
    assert same(state(model), before)


def test_grpo_trains_a_lora_the_same_way_every_time(tiny_llama, tiny_tokenizer, tmp_path):
    trainer = GRPO(learning_rate=0.01, prompts=4, samples=4, max_steps=2)
    rows = []
    for name in "ab":
        run = finetune(Run(tiny_llama(), tiny_tokenizer, ParityTask(), trainer, CONFIG), tmp_path / name, lora_rank=1)
        rows.append(run.rounds[0])
    assert rows[0].steps == 2 and rows[0].update_norm > 0
    assert rows[0].weights_fingerprint == rows[1].weights_fingerprint


def test_baselines_get_the_steps_of_all_rounds_and_a_learning_rate_of_their_own():
    demo = preset("demo", MATH)
    lora, full, tiny = (with_method(demo, method) for method in ("lora", "full", "tinylora"))
    assert lora.trainer.max_steps == full.trainer.max_steps == tiny.trainer.max_steps == 24
    assert lora.boost == tiny.boost and lora.boost.train_on == "all"
    rates = (lora.trainer.learning_rate, full.trainer.learning_rate)
    assert rates == (demo.lora_learning_rate, demo.full_learning_rate)


@pytest.mark.parametrize(
    ("method", "adapter"), [("full", "all weights"), ("lora", "LoRA r=1"), ("top", "top"), ("rotate", "rotate")]
)
def test_a_preset_runs_the_method_that_it_was_changed_to(
    tiny_llama, tiny_tokenizer, tmp_path, method, adapter, monkeypatch
):
    monkeypatch.setattr("boostlib.experiments.methods.prepare", lambda *_: (tiny_llama(), tiny_tokenizer, ParityTask()))
    small = replace(MATH["smoke"], trainer=Nudge(), boost=replace(CONFIG, rounds=1))
    identity = run_method(with_method(small, method), tmp_path).header["identity"]
    found = identity["adapter"]
    assert (found if isinstance(found, str) else found["strategy"]) == adapter


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
    full = finetune(Run(tiny_llama(), tiny_tokenizer, ParityTask(), Nudge(), CONFIG), tmp_path / "b")
    assert vars(run.rounds[0]).keys() == vars(full.rounds[0]).keys()
