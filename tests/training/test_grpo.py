"""GRPO on failures: TRL's loss and gradient, at less cost, and never a silent no-op."""

import math

import pytest
import torch
from datasets import Dataset
from helpers import ParityTask, laid_out
from transformers import OPTConfig, OPTForCausalLM
from trl import GRPOConfig, GRPOTrainer

import boostlib.training.trl
from boostlib import GRPO, AdapterConfig, BoostError, SVDBasis, TinyLoRA
from boostlib.common.errors import TrainingError
from boostlib.common.stable import fingerprint_tensors
from boostlib.models.subject import Subject
from boostlib.tasks.base import Score
from boostlib.training.trl import FoldingTrainer, completion_logps

FAST = dict(prompts=3, samples=4, max_steps=2, learning_rate=0.05)


@pytest.fixture
def make(tiny_llama, tmp_path):
    """make(dtype, layers): (model, attached adapter)."""

    def build(dtype=torch.float32, attach=True, **settings):
        model = tiny_llama(dtype=dtype)
        basis = SVDBasis.from_model(model, rank=2, cache_dir=tmp_path)
        adapter = TinyLoRA(basis, AdapterConfig(**{"n_tie": 7, "u": 3, **settings}))
        return model, adapter.attach(model) if attach else None

    return build


@pytest.fixture
def train(make, tiny_tokenizer):
    """train(task, ...): one round on a fresh model; (model, adapter, training)."""

    def run(task=None, dtype=torch.float32, attach=True, seed=0, failures=6, on_step=None, **settings):
        model, adapter = make(dtype, attach)
        task = task or ParityTask()
        examples = task.split("train")[:failures]
        trainer = GRPO(**{**FAST, **settings})
        done = trainer.train(Subject(model, tiny_tokenizer, task, on_step=on_step), examples, adapter, seed)
        return model, adapter, done

    return run


@pytest.fixture
def trainers(make, tiny_tokenizer, tmp_path):
    """trainers(): TRL's own trainer and ours on one model, and the adapter, whose v is not 0."""

    def build(micro=12):
        model, adapter = make()
        adapter.v.data.copy_(torch.linspace(-1, 1, 6).view(2, 3))
        settings = GRPOConfig(
            str(tmp_path / "out"), per_device_train_batch_size=micro, num_generations=4, report_to="none", bf16=False,
            use_cpu=True, max_completion_length=4, temperature=0.7, loss_type="dapo", beta=0.0, disable_tqdm=True,
        )  # fmt: skip
        data = Dataset.from_list([{"prompt": "a"}] * 3)
        both = []
        for kind in (GRPOTrainer, FoldingTrainer):
            model.__dict__.pop("forward", None)
            trainer = kind(
                model,
                lambda completions, **_: [0.0] * len(completions),
                settings,
                data,
                processing_class=tiny_tokenizer,
            )
            both.append(trainer)
        both[0].current_gradient_accumulation_steps = both[1].current_gradient_accumulation_steps = 1
        return model, adapter, *both

    return build


HEAD = [5, 9, 44, 17, 80, 33]
BATCHES = {
    "shared prefix": ([HEAD + [7, 8], HEAD + [7, 8], HEAD + [9]], [[3, 4, 1], [3, 1], [20, 21, 22, 23]]),
    "long shared prefix": ([HEAD * 4 + [7, 8], HEAD * 4 + [3]], [[3, 4, 1], [20, 21, 22, 23]]),
    "duplicates": ([HEAD + [7]] * 4, [[3, 4, 1], [3, 4, 1], [5, 1], [3, 4, 1]]),
    "nothing shared": ([[7, 8, 9], [10, 11], [12]], [[3, 1], [4, 5, 6], [8]]),
    "one row": ([HEAD], [[3, 4]]),
    "one token": ([[7], [8]], [[3], [4]]),
    "a prompt that starts like padding": ([[0, 0, 7], [9]], [[3], [4, 5]]),
}


@pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES.keys())
def test_log_probabilities_and_gradient_are_trls_own(trainers, rows):
    model, adapter, stock, _ = trainers()
    b = laid_out(*rows)
    ids, mask = (torch.cat([b[f"prompt_{x}"], b[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    keep, live = b["completion_ids"].shape[1], b["completion_mask"].bool()
    weight = torch.linspace(-1, 2, live.numel()).view(live.shape) * live

    def gradient(logps):
        return torch.autograd.grad((logps * weight).sum(), adapter.v)[0]

    theirs, their_entropy, _ = stock._get_per_token_logps_and_entropies(model, ids, mask, keep, compute_entropy=True)
    ours, entropy = completion_logps(model, ids, mask, keep)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours[live], theirs[live], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy[live], their_entropy[live], rtol=1e-4, atol=1e-4)
    expected = gradient(theirs)
    torch.testing.assert_close(gradient(ours), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert expected.abs().min() > 0


@pytest.mark.parametrize("name", ["shared prefix", "long shared prefix"])
def test_a_shared_prefix_is_read_once(trainers, name, monkeypatch):
    model, _, _, _ = trainers()
    b, widths = laid_out(*BATCHES[name]), []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    ids, mask = (torch.cat([b[f"prompt_{x}"], b[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    completion_logps(model, ids, mask, b["completion_ids"].shape[1])
    assert [shape[0] for shape in widths] == [1, len(ids)]
    assert widths[0][1] == len(HEAD) * (4 if "long" in name else 1)  # all of it, however short a completion is


def test_equal_rows_are_run_once(trainers):
    model, _, _, _ = trainers()
    b, rows = laid_out(*BATCHES["duplicates"]), []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    ids, mask = (torch.cat([b[f"prompt_{x}"], b[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    completion_logps(model, ids, mask, b["completion_ids"].shape[1])
    assert rows[-1] == 2


@pytest.mark.parametrize("advantages", [[1.0, -1.0, 0.0], [0.0, 0.0, 2.0], [1.0, 0.5, -1.5], [0.0, 0.0, 0.0]])
def test_rows_without_advantage_change_neither_loss_nor_gradient(trainers, advantages):
    model, adapter, stock, ours = trainers()
    b = {**laid_out(*BATCHES["shared prefix"]), "advantages": torch.tensor(advantages)}
    results = []
    for trainer in (stock, ours):
        model.train()
        loss = trainer._compute_loss(model, dict(b))
        results.append((loss.detach(), torch.autograd.grad(loss, adapter.v)[0]))
    (loss, gradient), (our_loss, our_gradient) = results
    torch.testing.assert_close(our_loss, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-4, atol=1e-6)
    assert bool(gradient.any()) == any(advantages)


# --- a round


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_v_moves_and_stays_fp32_and_nothing_else_changes(train, tiny_llama, dtype):
    plain = tiny_llama(dtype=dtype)
    model, adapter, done = train(dtype=dtype)
    assert adapter.v.dtype == torch.float32 and adapter.v.abs().min() > 0
    assert (done.steps, done.samples, done.skipped) == (2, 4, "")
    assert len(done.rewards) == len(done.signal) == 2 and max(done.signal) > 0 and min(done.rewards) >= 0
    assert 2 * 12 <= done.tokens <= 2 * 12 * 2
    assert [n for n, _ in model.named_parameters()] == [*(n for n, _ in plain.named_parameters()), "boost_adapter.v"]
    adapter.detach()
    assert fingerprint_tensors(model.state_dict()) == fingerprint_tensors(plain.state_dict())
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not model.training and all(p.requires_grad for p in model.parameters())
    ids = torch.tensor([HEAD])
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert model.generation_config.to_dict() == plain.generation_config.to_dict()


def test_rollouts_run_on_folded_weights(train, monkeypatch):
    live = []

    def watch(self, prompt_ids, number, sample=FoldingTrainer._sample):
        live.append((self.adapter._live, self.model.training))
        return sample(self, prompt_ids, number)

    monkeypatch.setattr(FoldingTrainer, "_sample", watch)
    train()
    assert [state for state, _ in live] == [False, False]


def test_equal_seeds_give_equal_v_and_others_differ(train):
    vs = [train(seed=seed)[1].v.detach() for seed in (3, 3, 4)]
    assert torch.equal(vs[0], vs[1]) and not torch.equal(vs[0], vs[2])


def test_smaller_micro_batches_give_the_same_step(train):
    one = train(max_steps=1)[1].v.detach()
    torch.testing.assert_close(train(max_steps=1, micro_batch=5)[1].v.detach(), one, rtol=1e-3, atol=1e-4)


def test_a_launchers_mixed_precision_changes_nothing(train, monkeypatch):
    plain = train(max_steps=1)[1].v.detach()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert torch.equal(train(max_steps=1)[1].v.detach(), plain)


def test_steps_fall_with_failures_and_few_failures_still_train(train):
    assert [GRPO(prompts=16, max_steps=8).num_steps(n) for n in (0, 1, 16, 17, 100, 500)] == [0, 1, 1, 2, 7, 8]
    assert GRPO(prompts=16, epochs=0.5).num_steps(64) == 2
    _, adapter, done = train(failures=2, prompts=16)
    assert done.steps == 1 and adapter.v.abs().max() > 0
    assert train(failures=1, prompts=16, samples=8, seed=1)[2].steps >= 1


def test_on_step_hears_every_step(train):
    heard = []
    _, _, done = train(on_step=heard.append)
    assert [(h["step"], h["of"]) for h in heard] == [(1, 2), (2, 2)]
    assert [round(h["reward"], 4) for h in heard] == done.rewards


def test_no_failures_are_a_skip(train):
    _, adapter, done = train(failures=0)
    assert done.skipped == "no failures left to train on" and not adapter.v.any()


@pytest.mark.parametrize("right", [True, False])
def test_no_signal_is_tried_with_more_samples_and_then_skipped_with_the_reason(train, right):
    class Same(ParityTask):
        def score(self, completion, example):
            return Score(right, right)

    _, adapter, done = train(Same(), samples=2, max_samples=8, max_steps=1, failures=2)
    assert done.samples == 8 and done.steps == 3 and done.signal == [0.0] * 3
    assert done.skipped == "no group of 2 failures had an advantage, 8 samples a prompt"
    assert not adapter.v.any()


def test_signal_that_comes_with_more_samples_is_used(train):
    class Rare(ParityTask):
        seen = 0

        def score(self, completion, example):
            self.seen += 1
            return Score(self.seen == 6, False)  # among the second try's samples

    _, adapter, done = train(Rare(), samples=2, max_samples=8, max_steps=1, failures=2)
    assert (done.samples, done.skipped, done.steps) == (4, "", 2)
    assert adapter.v.any()


def test_without_an_adapter_all_weights_train(train, tiny_llama):
    model, _, done = train(attach=False, learning_rate=1e-3)
    plain = dict(tiny_llama().named_parameters())
    assert done.steps == 2
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, plain[n])}
    assert moved == set(plain)
    assert "forward" not in vars(model)


def test_chat_prompts_work(train):
    seen = []

    class Chat(ParityTask):
        def score(self, completion, example):
            seen.append(completion)
            return super().score(completion, example)

    _, adapter, done = train(Chat(chat=True))
    assert done.steps == 2 and all(isinstance(text, str) for text in seen) and adapter.v.any()


# --- bad input


def test_a_reward_that_is_nan_is_an_error(train):
    class Broken(ParityTask):
        def score(self, completion, example):
            return Score(math.nan, False)

    with pytest.raises(TrainingError, match="(?i)nan|reward"):
        train(Broken())


def test_a_loss_that_is_nan_is_an_error_and_the_model_is_left_clean(make, tiny_tokenizer):
    model, adapter = make()
    model.get_submodule(adapter.names[0]).register_forward_hook(
        lambda *a: a[2] * math.nan if torch.is_grad_enabled() else None
    )
    with pytest.raises(TrainingError, match="NaN.*learning_rate"):
        GRPO(**FAST).train(Subject(model, tiny_tokenizer, ParityTask()), ParityTask().split("train"), adapter)
    assert "forward" not in vars(model) and not model.training


def test_training_that_blows_up_is_an_error(train):
    with pytest.raises(TrainingError, match="learning_rate"):
        train(learning_rate=1e30, max_steps=3)


def test_a_v_that_is_not_fp32_is_an_error(make, tiny_tokenizer):
    model, adapter = make()
    adapter.v.data = adapter.v.data.bfloat16()
    with pytest.raises(TrainingError, match="bfloat16, not fp32"):
        GRPO(**FAST).train(Subject(model, tiny_tokenizer, ParityTask()), ParityTask().split("train"), adapter)


def test_out_of_memory_names_what_to_lower(make, tiny_tokenizer, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    model, adapter = make()
    with monkeypatch.context() as patch:
        patch.setattr(FoldingTrainer, "_compute_loss", full)
        with pytest.raises(TrainingError, match="lower micro_batch.*other notebooks"):
            GRPO(**FAST).train(Subject(model, tiny_tokenizer, ParityTask()), ParityTask().split("train"), adapter)
    assert "forward" not in vars(model)
    monkeypatch.setattr(type(model), "generate", full)  # in rollouts: a setting that GRPO has
    with pytest.raises(TrainingError, match="lower (micro_batch|prompts|samples|rollout)"):
        GRPO(**FAST).train(Subject(model, tiny_tokenizer, ParityTask()), ParityTask().split("train"), adapter)


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": 0}, {"samples": 1}, {"samples": 0}, {"max_steps": 0}, {"micro_batch": 0}, {"learning_rate": 0.0},
        {"learning_rate": math.nan}, {"temperature": 0.0}, {"epochs": 0.0}, {"epochs": -1.0},
    ],
)  # fmt: skip
def test_bad_settings_are_named(settings):
    [name] = settings
    with pytest.raises(BoostError, match=name):
        GRPO(**settings)


def test_checkpointing_is_over_when_training_is(train, tiny_tokenizer):
    model, adapter, done = train(gradient_checkpointing=True)
    assert done.steps > 0 and not model.is_activation_checkpointing
    again = GRPO(**FAST).train(
        Subject(model, tiny_tokenizer, ParityTask()), ParityTask().split("train")[:6], adapter, 1
    )
    assert again.steps > 0


# --- dropout


@pytest.fixture
def dropping(tiny_tokenizer):
    """A tiny OPT, whose layers drop half of what they compute in train mode."""
    config = OPTConfig(
        vocab_size=258, hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=64,
        max_position_embeddings=256, dropout=0.5, attention_dropout=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OPTForCausalLM(config).eval()


def test_log_probabilities_are_those_without_dropout(dropping, tiny_tokenizer, tmp_path, monkeypatch):
    adapter = TinyLoRA(SVDBasis.from_model(dropping, 2, cache_dir=tmp_path), AdapterConfig(n_tie=6)).attach(dropping)
    plain, twice = boostlib.training.trl.completion_logps, []

    def watched(model, *arguments):
        assert not model.training
        first = plain(model, *arguments)
        twice.append((first[0].detach(), plain(model, *arguments)[0].detach()))
        return first

    monkeypatch.setattr(boostlib.training.trl, "completion_logps", watched)
    done = GRPO(**FAST).train(Subject(dropping, tiny_tokenizer, ParityTask()), ParityTask().split("train")[:6], adapter)
    assert done.steps and twice and all(torch.equal(*pair) for pair in twice)
    assert not dropping.training and dropping.model.decoder.layers[0].dropout == 0.5


def test_checkpointing_refuses_a_model_that_drops_out(dropping, tiny_tokenizer, tmp_path):
    adapter = TinyLoRA(SVDBasis.from_model(dropping, 2, cache_dir=tmp_path), AdapterConfig(n_tie=6)).attach(dropping)
    trainer = GRPO(**FAST, gradient_checkpointing=True)
    with pytest.raises(TrainingError, match="gradient_checkpointing=True.*drops out: set it to 0"):
        trainer.train(Subject(dropping, tiny_tokenizer, ParityTask()), ParityTask().split("train")[:6], adapter)
