"""Cross-entropy on failures: the loss and its gradient, early stopping, and never a silent no-op."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import CoinTask

from boostlib import AdapterConfig, BoostConfig, CrossEntropy, Ledger, SVDBasis, TinyLoRA, boost, evaluate
from boostlib.common.errors import BoostError, ModelError, TrainingError
from boostlib.experiments.methods import finetune
from boostlib.models.classifier import run_batches
from boostlib.models.sequences import encode_examples
from boostlib.models.subject import Subject
from boostlib.run import Run
from boostlib.tasks import load_task
from boostlib.training.cross_entropy import _Set

TASK = CoinTask(train=24, validation=10, test=6)
QUICK = CrossEntropy(learning_rate=0.05, batch=8, micro_batch=4, epochs=4.0, max_steps=12, validation=None)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def attached(tiny_classifier):
    """(model, adapter attached to it) of 24 numbers."""
    model = tiny_classifier()
    adapter = TinyLoRA(SVDBasis.from_model(model, rank=2), AdapterConfig(n_tie=1, u=2))
    adapter.attach(model)
    yield model, adapter
    adapter.detach()


def loss_by_hand(model, tokenizer, examples, balance=True):
    """From single examples, without batches or padding."""
    labels = torch.tensor([float(e.answer) for e in examples])
    encoded = encode_examples(Subject(model, tokenizer, TASK), examples)
    found = torch.cat([run_batches(Subject(model, tokenizer, TASK), [one], model) for one in encoded])
    each = F.binary_cross_entropy_with_logits(found, labels, reduction="none")
    if not balance:
        return float(each.mean())
    return float((each[labels == 1].mean() + each[labels == 0].mean()) / 2)


@pytest.mark.parametrize("balance", [True, False])
def test_the_loss_is_the_class_balanced_mean(attached, tiny_protein_tokenizer, balance):
    model, adapter = attached
    adapter.v.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    examples = TASK.split("train")[:9]
    data = _Set(Subject(model, tiny_protein_tokenizer, TASK), examples, balance)
    found = data.loss(adapter)
    assert found == pytest.approx(loss_by_hand(model, tiny_protein_tokenizer, examples, balance), rel=1e-4)


def test_micro_batches_add_up_to_the_batchs_gradient(attached, tiny_protein_tokenizer):
    model, adapter = attached
    data = _Set(Subject(model, tiny_protein_tokenizer, TASK), TASK.split("train"), True)
    found = []
    for size in (1, 5, 24):
        adapter.v.grad = None
        loss = data.backward(list(range(24)), size)
        found.append((loss, adapter.v.grad.clone()))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        assert torch.allclose(gradient, found[0][1], rtol=1e-4, atol=1e-7)
    assert found[0][1].abs().max() > 1e-4


def test_the_gradient_is_that_of_finite_differences(attached, tiny_protein_tokenizer):
    model, adapter = attached
    data = _Set(Subject(model, tiny_protein_tokenizer, TASK), TASK.split("train"), True)
    data.backward(list(range(24)), 24)
    gradient, step = adapter.v.grad.flatten()[:4].tolist(), 0.02
    for k, expected in enumerate(gradient):
        values = []
        for sign in (1, -1):
            adapter.v.data.flatten()[k] = sign * step
            encoded = [data._sum(run_batches(data.subject, data.encoded, model), range(24))]
            values.append(float(encoded[0] / data.weights.sum()))
        adapter.v.data.flatten()[k] = 0.0
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=0.03, abs=2e-5)


def test_training_lowers_the_loss_moves_v_alone_and_repeats_itself(tiny_classifier, tiny_protein_tokenizer):
    vs = []
    for _ in range(2):
        model = tiny_classifier()
        before = {name: p.clone() for name, p in model.named_parameters()}
        adapter = TinyLoRA(SVDBasis.from_model(model, rank=2), AdapterConfig(n_tie=1, u=4)).attach(model)
        examples = [e for e in TASK.split("train") if e.id in evaluate(model, tiny_protein_tokenizer, TASK).failures]
        start = loss_by_hand(model, tiny_protein_tokenizer, examples, balance=False)
        trained = QUICK.train(Subject(model, tiny_protein_tokenizer, TASK), examples, adapter, seed=3)
        assert loss_by_hand(model, tiny_protein_tokenizer, examples, balance=False) < 0.9 * start
        adapter.detach()
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        assert trained.steps == QUICK.num_steps(len(examples)) == len(trained.losses) and trained.tokens > 0
        assert not trained.skipped and trained.validation == []
        vs.append(adapter.v.detach().clone())
    assert torch.equal(*vs)


def test_another_seed_takes_other_batches(attached, tiny_protein_tokenizer):
    model, adapter = attached
    losses = []
    for seed in (0, 1):
        adapter.v.data.zero_()
        losses.append(
            QUICK.train(Subject(model, tiny_protein_tokenizer, TASK), TASK.split("train"), adapter, seed).losses
        )
    assert losses[0][0] != losses[1][0]


def test_early_stopping_keeps_the_best_and_stops_after_patience(attached, tiny_protein_tokenizer):
    model, adapter = attached
    trainer = replace(
        QUICK, learning_rate=0.3, validation="validation", checks=6, patience=2, epochs=20.0, max_steps=30
    )
    trained = trainer.train(Subject(model, tiny_protein_tokenizer, TASK), TASK.split("train"), adapter)
    with adapter.folded():
        now = loss_by_hand(model, tiny_protein_tokenizer, TASK.split("validation"))
    assert now == pytest.approx(min(trained.validation), rel=1e-4)
    best = trained.validation.index(min(trained.validation))
    stopped = len(trained.validation) - 1 == best + 2
    assert stopped or (len(trained.validation) == 7 and trained.steps == 30)
    assert bool(trained.skipped) == (best == 0)


def test_a_round_that_helped_nothing_is_skipped_with_its_reason_and_v_back_at_zero(
    tiny_classifier, tiny_protein_tokenizer, tmp_path
):
    class Opposite(CoinTask):
        """Validation asks for the opposite of what is trained on."""

        def load_split(self, name):
            rows = CoinTask.load_split(self, "train")
            return rows if name != "validation" else [replace(e, answer=str(1 - int(e.answer))) for e in rows]

    config = BoostConfig(rounds=2, adapter=AdapterConfig(n_tie=1, u=4), train_on="all")
    trainer = replace(QUICK, learning_rate=0.01, validation="validation", max_steps=4, checks=2)
    model = tiny_classifier()
    model.head.weight.data.mul_(0.01)  # logits near 0, where one label's gain is the other one's loss
    run = boost(model, tiny_protein_tokenizer, Opposite(train=24), trainer, config, tmp_path, progress=False)
    assert all("no step lowered the validation loss" in row.skipped and row.steps == 4 for row in run.rounds)
    assert not Ledger(tmp_path).load_v(0)[0].any() and run.rounds[0].adapter_norm == 0
    assert run.rounds[0].validation[0] == min(run.rounds[0].validation)


def test_real_rounds_resume_bit_for_bit(tiny_classifier, tiny_protein_tokenizer, tmp_path):
    trainer, config = replace(QUICK, validation="validation", max_steps=3), BoostConfig(adapter=AdapterConfig(n_tie=4))

    def run(name, rounds):
        settings = replace(config, rounds=rounds, held_out=("validation", "test"))
        return boost(
            tiny_classifier(), tiny_protein_tokenizer, TASK, trainer, settings, tmp_path / name, progress=False
        )

    whole = run("whole", 3)
    run("parts", 1)
    parts = run("parts", 3)
    assert whole.fingerprint() == parts.fingerprint()
    assert [r.losses for r in whole.rounds] == [r.losses for r in parts.rounds]
    assert [r.metrics for r in whole.rounds] == [r.metrics for r in parts.rounds]


def test_full_fine_tuning_trains_everything_and_a_run_that_helps_nothing_is_a_result(
    tiny_classifier, tiny_protein_tokenizer, tmp_path
):
    config = BoostConfig(rounds=1, held_out=("test",))
    quick = replace(QUICK, learning_rate=1e-3)
    ledger = finetune(Run(tiny_classifier(), tiny_protein_tokenizer, TASK, quick, config), tmp_path / "a")
    assert ledger.rounds[0].num_parameters == sum(p.numel() for p in tiny_classifier().parameters())
    assert ledger.rounds[0].adapter_norm > 0
    stopping = replace(QUICK, learning_rate=10.0, validation="validation", max_steps=2)
    (row,) = finetune(Run(tiny_classifier(), tiny_protein_tokenizer, TASK, stopping, config), tmp_path / "b").rounds
    assert (
        "no step lowered" in row.skipped and row.weights_fingerprint == Ledger(tmp_path / "b").base.weights_fingerprint
    )


# --- errors


@pytest.mark.filterwarnings("ignore")
def test_a_learning_rate_that_explodes_is_an_error_with_its_value(attached, tiny_protein_tokenizer):
    model, adapter = attached
    with pytest.raises(TrainingError, match="lower learning_rate"):
        trainer = replace(QUICK, learning_rate=1e20)
        trainer.train(Subject(model, tiny_protein_tokenizer, TASK), TASK.split("train"), adapter)


def test_numbers_that_stand_still_are_an_error(attached, tiny_protein_tokenizer):
    model, adapter = attached
    adapter.v.data.fill_(1.0)
    with pytest.raises(TrainingError, match="raise learning_rate"):
        trainer = replace(QUICK, learning_rate=1e-12)
        trainer.train(Subject(model, tiny_protein_tokenizer, TASK), TASK.split("train"), adapter)


def test_nothing_to_train_on_is_skipped(attached, tiny_protein_tokenizer):
    assert "no failures" in QUICK.train(Subject(attached[0], tiny_protein_tokenizer, TASK), [], attached[1]).skipped


def test_one_class_among_the_failures_is_trained_on_all_the_same(attached, tiny_protein_tokenizer):
    model, adapter = attached
    ones = [e for e in TASK.split("train") if e.answer == "1"]
    trained = QUICK.train(Subject(model, tiny_protein_tokenizer, TASK), ones, adapter)
    assert trained.steps == QUICK.num_steps(len(ones)) and all(map(math.isfinite, trained.losses))


def test_a_task_of_texts_is_refused(attached, tiny_protein_tokenizer):
    with pytest.raises(ModelError, match="asks for texts"):
        QUICK.train(
            Subject(attached[0], tiny_protein_tokenizer, load_task("arithmetic")), TASK.split("train"), attached[1]
        )


@pytest.mark.parametrize(
    "setting", ["learning_rate", "batch", "micro_batch", "epochs", "max_steps", "checks", "patience"]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(BoostError, match=f"CrossEntropy\\({setting}=0\\)"):
        CrossEntropy(**{setting: 0})


def test_steps_fall_as_failures_do():
    assert [CrossEntropy(batch=32, epochs=3, max_steps=9).num_steps(n) for n in (0, 1, 32, 33, 96, 10_000)] == (
        [0, 1, 3, 4, 9, 9]
    )


@pytest.mark.parametrize("way", ["train", "probe"])
def test_nothing_drops_out(tiny_classifier, tiny_protein_tokenizer, way):
    """Whatever torch's generator says, and whatever mode the model came in."""
    found = []
    for seed in (0, 1):
        model = tiny_classifier().train()
        assert model.encoder.config.hidden_dropout_prob > 0
        adapter = TinyLoRA(SVDBasis.from_model(model, rank=2), AdapterConfig(n_tie=1, u=2)).attach(model)
        subject, modes = Subject(model, tiny_protein_tokenizer, TASK), set()
        model.encoder.register_forward_pre_hook(lambda module, _, modes=modes: modes.add(module.training))
        model.train()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if way == "train":
                found.append(QUICK.train(subject, TASK.split("train"), adapter).losses)
            else:
                found.append(QUICK.probe(subject, TASK.split("train"), 2).losses)
        assert modes == {False}
    assert found[0] == found[1]
