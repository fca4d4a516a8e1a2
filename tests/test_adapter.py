"""The adapter: the paper's parameter counts, no trace before and after, and one meaning live and folded."""

import contextlib
import copy

import pytest
import torch
from peft import TinyLoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from boostlib import AdapterConfig, BoostError, LowRankUpdate, SVDBasis, TinyLoRA, target_modules
from boostlib.common.errors import ModelError
from boostlib.update import Weights

QWEN = Qwen2Config(
    hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2,
    vocab_size=151936, tie_word_embeddings=True,
)  # fmt: skip
SMOLLM2 = LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    vocab_size=49152, tie_word_embeddings=True,
)  # fmt: skip
IDS = torch.arange(2, 26).view(2, 12)
TRAINED = 0.03  # the size of v that a round of training gives


@pytest.fixture
def parts(tiny_llama, tmp_path):
    """parts(dtype=..., round=..., v=..., **config): (model, adapter), not attached."""

    def make(dtype=torch.float32, round=0, v=None, model_seed=0, **config):
        model = tiny_llama(model_seed, dtype)
        settings = AdapterConfig(**{"n_tie": 4, "u": 3, **config})
        plan = [(3 - group, group + 1) for group in range(4)] if settings.strategy == "greedy" else None
        adapter = TinyLoRA(SVDBasis.from_model(model, rank=8, cache_dir=tmp_path), settings, round, plan)
        if v is not None:
            generator = torch.Generator().manual_seed(7)
            adapter.v.data.copy_(v * torch.randn(adapter.v.shape, generator=generator))
        return model, adapter

    return make


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS).logits


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# --- counts


@pytest.mark.parametrize(
    ("u", "n_tie", "count", "freedom"),
    [(1, 21, 12, 12), (1, 16, 16, 16), (1, 1, 252, 252), (32, 1, 8064, 1008), (512, 1, 129024, 1008)],
)
def test_counts_on_qwen_3b(u, n_tie, count, freedom):
    modules = _meta_targets(QWEN)
    config = AdapterConfig(rank=2, u=u, n_tie=n_tie)
    assert len(modules) == 252
    assert config.num_parameters(252) == count
    assert config.degrees_of_freedom(252) == freedom
    assert len(config.default_plan(252, 0)) * u == count


def test_counts_on_smollm2():
    modules = _meta_targets(SMOLLM2)
    assert len(modules) == 210
    assert AdapterConfig(rank=2, u=1, n_tie=18).num_parameters(len(modules)) == 12


def _meta_targets(config) -> list[str]:
    with torch.device("meta"):
        return target_modules(AutoModelForCausalLM.from_config(config))


def test_the_last_group_may_be_smaller():
    config = AdapterConfig(rank=2, u=100, n_tie=5)
    assert config.groups(12) == 3
    assert config.degrees_of_freedom(12) == 4 * (5 + 5 + 2)


def test_the_adapter_counts_what_trains(parts):
    model, adapter = parts(u=3, n_tie=4)
    adapter.attach(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert adapter.num_parameters == sum(p.numel() for p in trainable) == 4 * 3  # 14 modules in groups of 4
    assert trainable[0] is adapter.v
    assert [adapter.group(i) for i in range(14)] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2


# --- attaching leaves no trace


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_zero_no_output_bit_changes(parts, dtype):
    model, adapter = parts(dtype)
    before = logits(model)
    adapter.attach(model)
    assert torch.equal(logits(model), before)
    with adapter.folded():
        assert torch.equal(logits(model), before)


def test_names_stay_plain_while_attached(parts):
    model, adapter = parts()
    parameters, keys = [n for n, _ in model.named_parameters()], list(model.state_dict())
    adapter.attach(model)
    assert [n for n, _ in model.named_parameters()] == [*parameters, "boost_adapter.v"]
    assert list(model.state_dict()) == [*keys, "boost_adapter.v"]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"boost_adapter.v"}


def test_detached_the_model_is_as_it_was(parts):
    model, adapter = parts(v=TRAINED)
    next(model.parameters()).requires_grad_(False)
    before, flags, output = state(model), [p.requires_grad for p in model.parameters()], logits(model)
    adapter.attach(model)
    assert not torch.equal(logits(model), output)
    adapter.detach()
    assert same(state(model), before)
    assert [p.requires_grad for p in model.parameters()] == flags and flags[0] is False and flags[1] is True
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())
    assert not hasattr(model, "boost_adapter")
    assert torch.equal(logits(model), output)
    adapter.detach()  # a second time does nothing


def test_factors_lie_where_their_weight_does(parts, monkeypatch):
    """A model over several devices, pretended: the device "meta" computes shapes only, and knows no autocast."""
    model, adapter = parts(v=TRAINED)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    model.model.layers[1].to("meta")
    adapter.attach(model)
    assert adapter.v.device.type == "cpu"
    for name, module in ((name, model.get_submodule(name)) for name in adapter.names):
        assert {part.device for part in adapter._on_device[name]} == {module.weight.device}
        x = torch.ones(2, 3, module.in_features, device=module.weight.device)
        assert module(x).device == module.weight.device  # v comes to the module, not the module to v
    adapter.detach()
    assert Weights(model, adapter.names).value("model.layers.1.mlp.up_proj", adapter.update()).is_meta


def test_an_adapter_can_be_attached_again(parts):
    model, adapter = parts(v=TRAINED)
    first = logits(adapter.attach(model)._model)
    adapter.detach()
    adapter.attach(model)
    assert torch.equal(logits(model), first)


def test_attaching_twice_is_an_error_that_changes_nothing(parts):
    model, adapter = parts(v=TRAINED)
    _, other = parts(round=1)
    adapter.attach(model)
    before = logits(model)
    for second in (adapter, other):
        with pytest.raises(ModelError, match="attached already: detach it first"):
            second.attach(model)
    assert torch.equal(logits(model), before)


def test_folding_needs_an_attached_adapter(parts):
    _, adapter = parts()
    with pytest.raises(BoostError, match="attach"), adapter.folded():
        pass


# --- live and folded are the same function


@pytest.mark.parametrize("strategy", ["rotate", "top", "greedy"])
@pytest.mark.parametrize("scaling", ["paper", "normalized"])
def test_folded_agrees_with_live(parts, strategy, scaling):
    model, adapter = parts(round=2, v=TRAINED, strategy=strategy, scaling=scaling)
    plain = logits(model)
    live = logits(adapter.attach(model)._model)
    with adapter.folded():
        folded = logits(model)
    assert (folded - live).abs().max() < 1e-4
    assert (live - plain).abs().max() > 1e-3  # ten times the tolerance: the adapter does something


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inside_folded_the_branch_is_off(parts, dtype):
    model, adapter = parts(dtype, v=10 * TRAINED)
    merged, _ = parts(dtype)
    Weights(merged, adapter.names).merge(adapter.update())
    adapter.attach(model)
    with adapter.folded():
        assert torch.equal(logits(model), logits(merged))
    assert not torch.equal(logits(model), logits(parts(dtype)[0]))  # and on again outside


def test_folding_starts_from_the_runs_w0_and_merged_rounds(parts):
    model, first = parts(torch.bfloat16, v=TRAINED)
    _, second = parts(torch.bfloat16, round=1, v=TRAINED)
    expected, _ = parts(torch.bfloat16)
    Weights(expected, first.names).set(first.update() + second.update())
    weights = Weights(model, first.names)
    weights.merge(first.update())
    merged = state(model)
    second.attach(model, weights)
    with second.folded():
        assert torch.equal(logits(model), logits(expected))
    second.detach()
    assert same(state(model), merged)


def test_a_hundred_folds_leave_bf16_weights_bit_identical(parts):
    model, adapter = parts(torch.bfloat16, v=10 * TRAINED)
    before, pointers = state(model), [p.data_ptr() for p in model.parameters()]
    adapter.attach(model)
    for _ in range(100):
        with adapter.folded():
            pass
    adapter.detach()
    assert same(state(model), before)
    assert [p.data_ptr() for p in model.parameters()] == pointers


def test_an_exception_inside_folded_restores(parts):
    model, adapter = parts(torch.bfloat16, v=TRAINED)
    before = state(model)
    live = logits(adapter.attach(model)._model)
    with pytest.raises(KeyboardInterrupt), adapter.folded():
        raise KeyboardInterrupt
    assert torch.equal(logits(model), live)
    adapter.detach()
    assert same(state(model), before)


def test_an_exception_while_folding_restores(parts, monkeypatch):
    model, adapter = parts(torch.bfloat16, v=TRAINED)
    before, live, calls = state(model), logits(adapter.attach(model)._model), []

    def fail_at_the_fifth(self, name, update, out=None, value=Weights.value):
        calls.append(name)
        if len(calls) == 5:
            raise MemoryError
        return value(self, name, update, out)

    monkeypatch.setattr(Weights, "value", fail_at_the_fifth)
    with pytest.raises(MemoryError), adapter.folded():
        pass
    assert torch.equal(logits(model), live)
    adapter.detach()
    assert same(state(model), before)


def test_folding_inside_folded_keeps_the_branch_off(parts):
    model, adapter = parts(v=TRAINED)
    adapter.attach(model)
    with adapter.folded():
        once = logits(model)
        with adapter.folded():
            assert torch.equal(logits(model), once)
        assert torch.equal(logits(model), once)


# --- the update and its noise


def test_equal_settings_give_the_same_update(parts):
    one, other = (parts(round=1, v=TRAINED)[1] for _ in range(2))
    assert _equal(one.update(), other.update())
    given = TinyLoRA(_basis_of(one, parts), one.config, 1, plan=one.plan)
    given.v.data.copy_(one.v.data)
    assert _equal(one.update(), given.update())


def test_update_is_u_s_r_vh(parts, tmp_path):
    model, adapter = parts(round=3, v=1.0, u=3, n_tie=4)
    basis = SVDBasis.from_model(model, rank=8, cache_dir=tmp_path)
    for i, name in enumerate(basis):
        u, s, vh = (t.double() for t in basis[name])
        core = sum(adapter.v[i // 4, j].double() * _noise(adapter, name)[j].double() for j in range(3))
        expected = u[:, 6:8] @ torch.diag(s[6:8]) @ core @ vh[6:8]
        b, a = adapter.update()[name]
        torch.testing.assert_close((b @ a).double(), expected.detach(), rtol=1e-4, atol=1e-6)


def test_noise_differs_by_seed_round_candidate_and_name_alone(parts):
    _, adapter = parts()
    base, name = _noise(adapter, adapter.names[0]), adapter.names[0]
    others = {
        "seed": _noise(parts(seed=1)[1], name),
        "round": _noise(parts(round=1)[1], name),
        "name": _noise(adapter, adapter.names[1]),
        "candidate": _noise(TinyLoRA(_basis_of(adapter, parts), adapter.config, 0, plan=[(0, 1)] * 4), name),
    }
    for what, noise in others.items():
        assert (noise - base).abs().min() > 1e-4, what
    block = TinyLoRA(_basis_of(adapter, parts), adapter.config, 0, plan=[(2, 0)] * 4)
    for same_noise in (block, parts(model_seed=3)[1], parts(strategy="top", scaling="normalized")[1]):
        assert torch.equal(_noise(same_noise, name), base)


def test_noise_is_pinned():
    """These numbers may never change: recorded runs are rebuilt from them, in any process and on any machine."""
    basis = SVDBasis({"layers.0": (torch.eye(4), torch.ones(4), torch.eye(4))})
    p = _noise(TinyLoRA(basis, AdapterConfig(rank=2, u=1, n_tie=1, seed=3), round=1), "layers.0")
    torch.testing.assert_close(p, torch.tensor(PINNED), rtol=1e-6, atol=0)


PINNED = [[[-0.7594048976898193, 1.7721155881881714], [1.2992860078811646, -0.08926115930080414]]]


def test_noise_has_variance_one_over_r():
    basis = SVDBasis({f"layers.{i}": (torch.eye(8), torch.ones(8), torch.eye(8)) for i in range(10)})
    adapter = TinyLoRA(basis, AdapterConfig(rank=8, u=40, n_tie=1))
    noise = torch.stack([_noise(adapter, name) for name in adapter.names])  # 25,600 numbers
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.var()) == pytest.approx(1 / 8, rel=0.03)


def test_normalized_scaling_gives_every_block_the_mean_of_the_first(parts, tmp_path):
    model, adapter = parts(round=3, scaling="normalized")
    basis = SVDBasis.from_model(model, rank=8, cache_dir=tmp_path)
    for name in basis:
        u, s, _ = basis[name]
        left = adapter._factors[name][0]
        assert float(left.norm(dim=0).mean()) == pytest.approx(float(s[:2].mean()), rel=1e-4)
        torch.testing.assert_close(left / left.norm(dim=0), u[:, 6:8], rtol=1e-4, atol=1e-5)


def _noise(adapter, name) -> torch.Tensor:
    return adapter._factors[name][2]


def _basis_of(adapter, parts) -> SVDBasis:
    model, _ = parts()
    return SVDBasis.from_model(model, rank=8)


def _equal(one: LowRankUpdate, other: LowRankUpdate) -> bool:
    return list(one) == list(other) and all(
        torch.equal(x, y) for name in one for x, y in zip(one[name], other[name], strict=True)
    )


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))


# --- precision


def test_everything_of_the_adapter_stays_fp32_on_a_bf16_model(parts):
    model, adapter = parts(torch.bfloat16, v=TRAINED)
    adapter.attach(model)
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    assert adapter.v.dtype == adapter.v.grad.dtype == torch.float32 and adapter.v.grad.abs().min() > 0
    assert all(t.dtype == torch.float32 for factors in adapter._factors.values() for t in factors)
    assert all(t.dtype == torch.float32 for pair in adapter.update().values() for t in pair)
    assert all(p.grad is None for n, p in model.named_parameters() if n != "boost_adapter.v")


def test_autocast_does_not_touch_the_branch(parts):
    model, adapter = parts(v=TRAINED)
    branches = {}

    def watch(name, module):
        def hook(_, args, out):
            branches.setdefault(name, []).append((args[0].detach().clone(), out.detach().clone()))

        return module.register_forward_hook(hook)  # before attach: sees the plain output

    name = adapter.names[0]
    watch(name, model.get_submodule(name))
    adapter.attach(model)
    watch("after", model.get_submodule(name))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=IDS)
    [(x, plain)], [(_, total)] = branches[name], branches["after"]
    assert plain.dtype == total.dtype == torch.bfloat16  # the linear itself did run in bf16
    b, a = (t.double() for t in adapter.update()[name])
    exact = plain.double() + x.double() @ a.T @ b.T
    assert (
        torch.equal(total, exact.float().to(torch.bfloat16))
        or ((total.double() - exact).abs() <= 2**-8 * exact.abs()).all()
    )


def test_gradient_agrees_with_finite_differences(parts):
    model, adapter = parts(v=0.2)
    model.double()
    adapter.attach(model)
    loss = _loss(model)
    loss.backward()
    gradient, v, step = adapter.v.grad.clone(), adapter.v.data, 0.02
    for index in [(0, 0), (1, 2), (3, 1)]:
        kept, around = v[index].item(), []
        for offset in (-2, -1, 1, 2):
            v[index] = kept + offset * step
            around.append(float(_loss(model).detach()))
        v[index] = kept
        slope = (around[0] - 8 * around[1] + 8 * around[2] - around[3]) / (12 * step)
        # the norms are fp32 inside, whatever the model's dtype
        assert slope == pytest.approx(float(gradient[index]), rel=2e-3, abs=5e-6), index


def _loss(model) -> torch.Tensor:
    logits = model(input_ids=IDS).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), IDS[:, 1:].flatten())


# --- bad input


def test_a_basis_too_short_names_what_is_needed(parts):
    with pytest.raises(BoostError, match="round 4 needs 10 singular directions, but the basis holds 8"):
        parts(round=4)
    parts(round=4, strategy="top")  # "top" never moves on


def test_a_plan_of_the_wrong_length_is_an_error(parts):
    _, adapter = parts()
    with pytest.raises(BoostError, match="plan has 3 entries, but there are 4 groups"):
        TinyLoRA(_basis_of(adapter, parts), adapter.config, plan=[(0, 0)] * 3)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"rank": 0}, "rank=0"),
        ({"u": 0}, "u=0"),
        ({"u": 1.5}, "u=1.5"),
        ({"n_tie": -1}, "n_tie=-1"),
        ({"strategy": "random"}, "strategy='random'.*rotate, top"),
        ({"scaling": "none"}, "scaling='none'.*paper, normalized"),
    ],
)
def test_bad_settings_are_named(settings, names):
    with pytest.raises(BoostError, match=names):
        AdapterConfig(**settings)


# --- another implementation


def test_top_agrees_with_pefts_tinylora(parts, tmp_path):
    """PEFT splits sqrt(S) on both sides and its signs are arbitrary: R' = D S^(1/2) R S^(-1/2) D."""
    model, adapter = parts(strategy="top", v=10 * TRAINED, n_tie=7, u=3)
    basis = SVDBasis.from_model(model, rank=2, cache_dir=tmp_path)
    config = TinyLoraConfig(r=2, u=3, weight_tying=1 - 2 / 14, target_modules=list(basis))
    theirs = get_peft_model(copy.deepcopy(model), config)
    for i, name in enumerate(basis):
        layer, (u, s, _) = theirs.get_submodule(f"base_model.model.{name}"), basis[name]
        signs = torch.sign((layer.tinylora_B["default"] * u).sum(dim=0))
        left, right = signs * s.sqrt(), signs / s.sqrt()
        layer.tinylora_P["default"] = left[:, None] * _noise(adapter, name) * right
        theirs.base_model.tinylora_v["default"][str(i // 7)].data.copy_(adapter.v.data[i // 7])
    assert sum(p.numel() for p in theirs.parameters() if p.requires_grad) == adapter.num_parameters == 6
    plain = logits(model)
    ours = logits(adapter.attach(model)._model)
    assert (logits(theirs) - ours).abs().max() < 1e-5
    assert (ours - plain).abs().max() > 1e-2
