"""What a round trains on and what it moves: correct examples give no gradient, and margins move as their slope says."""

import matplotlib.pyplot as plt
import pytest
import torch
from helpers import CoinTask, FakeTrainer, ParityTask, config

from boostlib import GRPO, CrossEntropy, boost, evaluate, replay
from boostlib.analysis.growth import recorded_updates
from boostlib.analysis.isolation import _Margin, isolation, sample
from boostlib.common.errors import RunError
from boostlib.common.stable import fingerprint_tensors
from boostlib.models.subject import Subject
from boostlib.plots.theory import plot_bound_ratio, plot_movement
from boostlib.training.trl import FoldingTrainer

GRPO_FAST = GRPO(prompts=3, samples=4, max_steps=2, learning_rate=0.05)
CE_FAST = CrossEntropy(learning_rate=0.05, batch=4, micro_batch=4, epochs=2.0, max_steps=4, validation=None)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))


# --- correct examples give exactly no gradient


def edited(task, wrong: set[str], side: bool, change, answers):
    """`task` with other prompts for the training examples that the model gets wrong (side=True) or right (False).

    answers(example): what the model says to it, so that each stays as wrong or right as it was.
    """

    class Edited(type(task)):
        def split(self, name):
            examples = super().split(name)
            if name != "train":
                return examples
            return [self._edit(e) if (e.id in wrong) == side else e for e in examples]

        def _edit(self, example):
            other = type(example)(example.id, change(example.prompt), example.answer)
            said = answers(other)
            return type(example)(other.id, other.prompt, said if not side else str(1 - int(said)))

    return Edited(**{name: value for name, value in vars(task).items() if name in ("train", "test", "validation")})


def first_round(model, tokenizer, task, trainer, folder, **settings):
    """(v of the first round, its failures)."""
    run = boost(model, tokenizer, task, trainer, config(1, **settings), folder, progress=False)
    assert not run.rounds[0].skipped
    return run.ledger.load_v(0)[0], run.rounds[0].failures


@pytest.fixture
def language(tiny_llama, tiny_tokenizer):
    def says(example):
        text = evaluate(tiny_llama(), tiny_tokenizer, ParityTask(), examples=[example], progress=False).completions[0]
        return str(sum(text.encode()) % 2)

    return tiny_llama, tiny_tokenizer, ParityTask(), GRPO_FAST, lambda prompt: f"a new {prompt[::-1]}", says


@pytest.fixture
def classifying(tiny_classifier, tiny_protein_tokenizer):
    def build():
        model = tiny_classifier()
        model.head.requires_grad_(False)
        return model

    def says(example):
        return str(
            int(evaluate(build(), tiny_protein_tokenizer, CoinTask(), examples=[example], progress=False).logits[0] > 0)
        )

    change = lambda prompt: "|".join(f"W{side}" for side in prompt.split("|"))  # noqa: E731
    return build, tiny_protein_tokenizer, CoinTask(train=16), CE_FAST, change, says


@pytest.mark.parametrize("kind", ["language", "classifying"])
def test_what_correct_examples_say_changes_no_bit_of_v(kind, request, tmp_path):
    build, tokenizer, task, trainer, change, says = request.getfixturevalue(kind)
    v, failures = first_round(build(), tokenizer, task, trainer, tmp_path / "plain")
    assert 0 < len(failures) < len(task.split("train")) and v.abs().min() > 0
    other = edited(task, set(failures), False, change, says)
    assert sum(a.prompt != b.prompt for a, b in zip(task.split("train"), other.split("train"), strict=True)) == len(
        task.split("train")
    ) - len(failures)
    again, still = first_round(build(), tokenizer, other, trainer, tmp_path / "correct-edited")
    assert still == failures and torch.equal(again, v)


@pytest.mark.parametrize("kind", ["language", "classifying"])
def test_what_failures_say_or_correct_ones_where_all_are_trained_on_does_change_it(kind, request, tmp_path):
    build, tokenizer, task, trainer, change, says = request.getfixturevalue(kind)
    v, failures = first_round(build(), tokenizer, task, trainer, tmp_path / "plain")
    other = edited(task, set(failures), True, change, says)
    again, still = first_round(build(), tokenizer, other, trainer, tmp_path / "failures-edited")
    assert still == failures and not torch.equal(again, v)
    every = {"train_on": "all"}
    v, _ = first_round(build(), tokenizer, task, trainer, tmp_path / "all", **every)
    other = edited(task, set(failures), False, change, says)
    assert not torch.equal(first_round(build(), tokenizer, other, trainer, tmp_path / "all-edited", **every)[0], v)


def test_only_prompts_of_failures_reach_the_loss(language, tmp_path, monkeypatch):
    build, tokenizer, task, trainer, *_ = language
    seen = set()

    def watch(self, model, inputs, *args, loss=FoldingTrainer._compute_loss, **kwargs):
        for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True):
            seen.add(tokenizer.decode(ids[mask.bool()]))
        return loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(FoldingTrainer, "_compute_loss", watch)
    _, failures = first_round(build(), tokenizer, task, trainer, tmp_path / "run")
    prompts = {e.id: e.prompt for e in task.split("train")}
    assert seen and seen <= {prompts[id] for id in failures}


# --- how far margins move


@pytest.fixture
def moved(tiny_llama, tiny_tokenizer, tmp_path):
    """`moved(scale, round)`: (table, run, model) of a run whose rounds take steps of that size."""

    def build(scale: float = 0.01, round: int = 1, skip=(), **settings):
        task = ParityTask(train=24)
        folder = tmp_path / f"run{scale}"
        run = boost(tiny_llama(), tiny_tokenizer, task, FakeTrainer(scale, skip), config(3), folder, progress=False)
        model = tiny_llama()
        return isolation(run.ledger, Subject(model, tiny_tokenizer, task), round, **settings), run, model

    return build


def test_small_steps_move_margins_as_predicted_and_stay_within_the_bounds(moved):
    table, run, _ = moved(0.01)
    error = (table.measured - table.predicted).abs().max()
    assert error < 0.02 * table.predicted.abs().max()
    assert (table.measured - (table.after - table.before)).abs().max() < 1e-12
    assert (table.predicted.abs() <= table.bound_v * (1 + 1e-6)).all()
    assert (table.bound_v > 0).all() and (table.predicted.abs() <= table.bound_w).all()
    assert (table.before > -1e-4).all()
    wrong = set(run.rounds[1].failures)
    assert [id not in wrong for id in table.id] == table.correct.tolist()


def test_the_error_of_first_order_is_of_second_order(moved):
    """Ten times the step, a hundred times the remainder (the trainer's numbers scale with `scale` alone)."""
    small, large = moved(0.01, round=0)[0], moved(0.1, round=0)[0]
    assert large.predicted.to_numpy() == pytest.approx(10 * small.predicted.to_numpy(), rel=1e-3)
    rest = [(t.measured - t.predicted).abs().max() for t in (small, large)]
    assert 40 < rest[1] / rest[0] < 250


def test_gradients_agree_with_autograd_on_plain_weights(moved, tiny_llama, tiny_tokenizer):
    """|grad_W z| from the model as `replay` gives it, and <grad_W z, dW> = <grad_v z, v>."""
    table, run, _ = moved(0.01, round=1, sizes=(1, 1))
    model = replay(run.dir, 0, tiny_llama())
    update = recorded_updates(run.ledger, tiny_llama())[1]
    weights = [model.get_submodule(name).weight.requires_grad_() for name in update]
    for row in table.to_dict("records"):
        [example] = [e for e in ParityTask(train=24).split("train") if e.id == row["id"]]
        found = evaluate(model, tiny_tokenizer, ParityTask(), examples=[example], progress=False)
        answer = tiny_tokenizer(found.completions[0])["input_ids"]
        probe = _Margin(model, tiny_tokenizer(example.prompt)["input_ids"], answer)
        slopes = torch.autograd.grad(probe.of(probe.logits(model)), weights)
        inner = sum(float((g * (b @ a)).sum()) for g, (b, a) in zip(slopes, update.values(), strict=True))
        norm = sum(float(g.double().square().sum()) for g in slopes) ** 0.5
        assert row["before"] == pytest.approx(probe.before, abs=1e-5)
        assert row["predicted"] == pytest.approx(inner, rel=1e-3, abs=1e-7)
        assert row["bound_w"] == pytest.approx(norm * update.norm(), rel=1e-4)


def test_large_steps_change_answers_and_the_model_ends_as_before_the_round(moved, tiny_llama):
    table, run, model = moved(5.0, round=1)
    assert table.changed.any()
    before = replay(run.dir, 0, tiny_llama())
    assert fingerprint_tensors(model.state_dict()) == fingerprint_tensors(before.state_dict())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_round_that_merged_nothing_is_refused(moved):
    with pytest.raises(RunError, match="round 1 merged nothing"):
        moved(0.01, round=1, skip=(1,))


def test_the_sample_is_drawn_by_seed_and_takes_what_there_is(moved):
    _, run, _ = moved(0.01, sizes=(1, 1))
    task, wrong = ParityTask(train=24), set(run.rounds[0].failures)
    drawn = [e.id for e in sample(run.ledger, task, 0, (3, 4), seed=0)]
    assert [id in wrong for id in drawn] == [False] * 3 + [True] * 4
    assert drawn == [e.id for e in sample(run.ledger, task, 0, (3, 4), seed=0)]
    assert any(drawn != [e.id for e in sample(run.ledger, task, 0, (3, 4), seed=k)] for k in (1, 2, 3))
    assert len(sample(run.ledger, task, 0, (100, 100), seed=0)) == 24


def test_figures_draw_every_example(moved):
    table, _, _ = moved(0.1, sizes=(4, 3))
    ax = plot_movement(table)
    assert [len(line.get_xdata()) for line in ax.lines[1:3]] == [4, 3]
    assert {t.get_text() for t in ax.texts} == {"correct", "failing", "as predicted"}
    ax = plot_bound_ratio(table)
    ratios = (table.measured.abs() / table.bound_v)[table.correct].to_numpy()
    assert ax.lines[0].get_ydata() == pytest.approx(ratios)
    plt.close("all")
