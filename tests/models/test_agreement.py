"""What trains is what is merged: the check finds every way in which it is not, and lets all others pass unchanged."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import FakeTrainer, ParityTask, config
from torch import nn
from transformers import (
    BartConfig,
    BartForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from boostlib import SVDBasis, boost, target_modules
from boostlib.common.errors import ModelError
from boostlib.common.stable import fingerprint_tensors
from boostlib.experiments.methods import finetune
from boostlib.models.agreement import require_agreement
from boostlib.records.rows import Training
from boostlib.run import Run

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def check(model, targets=None):
    require_agreement(model, SVDBasis.from_model(model, 4, targets), named=targets is not None)


class Attention(nn.Module):
    """Calls none of its own linear layers: the function that it calls reads their weights."""

    def __init__(self, size: int):
        super().__init__()
        self.inner = nn.MultiheadAttention(size, 4, batch_first=True)

    def forward(self, hidden_states, **_):
        return self.inner(hidden_states, hidden_states, hidden_states, need_weights=False)[0], None


class MLP(nn.Module):
    """A Llama's, whose up_proj is read without a call and, where `twice`, called too."""

    def __init__(self, mlp: nn.Module, twice: bool):
        super().__init__()
        self.up_proj, self.down_proj, self.twice = mlp.up_proj, mlp.down_proj, twice

    def forward(self, x):
        read = F.linear(x, self.up_proj.weight)
        return self.down_proj(F.silu(read) * (self.up_proj(x) if self.twice else 1))


class Ternary(nn.Linear):
    """Rounds its weight before it multiplies, as layers do that are trained for low precision."""

    def forward(self, x):
        scale = self.weight.abs().mean()
        return F.linear(x, (self.weight / scale).round().clamp(-1, 1) * scale)


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) / 4


def without_calls(model):
    for layer in model.model.layers:
        layer.self_attn = Attention(64)
    return "self_attn.inner.out_proj"


def read_once(model):
    model.model.layers[1].mlp = MLP(model.model.layers[1].mlp, twice=False)
    return "mlp.up_proj"


def called_and_read(model):
    for layer in model.model.layers:
        layer.mlp = MLP(layer.mlp, twice=True)
    return "mlp.up_proj"


def rounded(model):
    for layer in model.model.layers:
        layer.mlp.gate_proj = Ternary(64, 128, bias=False)
    return "mlp.gate_proj"


def scaled(model):
    model.model.layers[0].mlp.up_proj = Scaled(64, 128, bias=False)
    return "mlp.up_proj"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", [without_calls, read_once, called_and_read, rounded, scaled])
def test_modules_that_would_be_merged_otherwise_than_trained_are_named(tiny_llama, change, dtype):
    model = tiny_llama()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        name = change(model)
    model.to(dtype)
    with pytest.raises(ModelError, match=rf"model.layers.\*.{name}: what trains there would not be") as caught:
        check(model)
    remedy = eval(str(caught.value).rsplit("targets=", 1)[1])
    assert name.rsplit(".", 1)[1] not in remedy
    check(model, remedy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", [read_once, called_and_read, rounded, scaled])
def test_the_lora_baseline_is_checked_too(tiny_llama, tiny_tokenizer, change, dtype, tmp_path):
    model = tiny_llama()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        name = change(model)
    model.to(dtype)
    names = target_modules(model)

    def train(folder, targets=None):
        run = Run(model, tiny_tokenizer, ParityTask(), Still(), config(1, targets=targets))
        return finetune(run, tmp_path / folder, lora_rank=1)

    with pytest.raises(ModelError, match=rf"model.layers.\*.{name}: what trains there would not be"):
        train("all")
    assert train("others", tuple(one for one in names if not one.endswith(name))).rounds


class Still(FakeTrainer):
    """Trains nothing."""

    def train(self, subject, examples, adapter, seed=0) -> Training:
        return Training(steps=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mambas_dt_proj_is_named_and_the_rest_can_be_adapted(dtype):
    sizes = dict(vocab_size=258, hidden_size=32, num_hidden_layers=2, state_size=8, time_step_rank=8)
    model = seeded(lambda: MambaForCausalLM(MambaConfig(**sizes))).to(dtype)
    with pytest.raises(ModelError, match=r"mixer.dt_proj: .*targets=\('in_proj', 'out_proj', 'x_proj'\)"):
        check(model, ["dt_proj", "in_proj", "out_proj", "x_proj"])
    check(model, ["in_proj", "out_proj", "x_proj"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["llama", "encoder", "gpt2"])
def test_plain_models_pass_and_nothing_of_the_check_stays(tiny_llama, tiny_classifier, kind, dtype):
    sizes = dict(vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    model = {
        "llama": tiny_llama,
        "encoder": tiny_classifier,
        "gpt2": lambda: seeded(lambda: GPT2LMHeadModel(GPT2Config(**sizes))),
    }[kind]().to(dtype)
    model.train()
    before, names = fingerprint_tensors(model.state_dict()), [name for name, _ in model.named_modules()]
    flags, random = [p.requires_grad for p in model.parameters()], torch.get_rng_state()
    places = [p.data_ptr() for p in model.parameters()]
    check(model)
    assert fingerprint_tensors(model.state_dict()) == before and model.training
    assert [name for name, _ in model.named_modules()] == names
    assert [p.requires_grad for p in model.parameters()] == flags and torch.equal(torch.get_rng_state(), random)
    assert [p.data_ptr() for p in model.parameters()] == places
    assert not any(module._forward_hooks for module in model.modules())


def test_modules_that_no_text_depends_on_are_left_to_whoever_names_them():
    sizes = dict(vocab_size=258, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64)
    model = seeded(lambda: BartForCausalLM(BartConfig(**sizes, max_position_embeddings=64)))
    with pytest.raises(
        ModelError, match=r"encoder_attn.k_proj, .*nothing that the model makes of a text depends on them"
    ) as caught:
        check(model)
    remedy = eval(str(caught.value).rsplit("targets=", 1)[1])
    assert remedy == ("fc1", "fc2", *(f"self_attn.{part}_proj" for part in ("k", "out", "q", "v")))
    check(model, remedy)
    check(model, ["encoder_attn"])


def test_a_model_that_needs_more_than_token_ids_is_refused():
    model = seeded(lambda: T5ForConditionalGeneration(T5Config(vocab_size=258, d_model=32, d_ff=64, num_layers=1)))
    with pytest.raises(ModelError, match=r"T5ForConditionalGeneration does not read input_ids alone \(ValueError: "):
        check(model)


def test_a_target_that_gives_more_than_one_tensor_is_named(tiny_llama):
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), None

    class Taken(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair(64, 64)

        def forward(self, x):
            return self.pair(x)[0]

    model = tiny_llama()
    model.model.layers[0].mlp = Taken()
    with pytest.raises(ModelError, match=r"layers.0.mlp.pair takes no adapter \(.*Leave it out with targets="):
        check(model)


def test_a_run_is_checked_when_it_is_opened_and_leaves_nothing_behind(tiny_llama, tiny_tokenizer, tmp_path):
    model = tiny_llama()
    read_once(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match="mlp.up_proj: what trains there"):
        boost(model, tiny_tokenizer, ParityTask(), FakeTrainer(), config(rounds=1), tmp_path / "run")
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.json*"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
