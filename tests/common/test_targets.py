"""Which weights are adapted: language blocks of every kind of model, plain matrices alone, and how much that covers."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPVisionConfig,
    EsmConfig,
    EsmForMaskedLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    JetMoeConfig,
    JetMoeForCausalLM,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SiglipVisionConfig,
)

from boostlib import AdapterConfig, SVDBasis, TinyLoRA, epsilon_rank, target_modules
from boostlib.common.errors import ModelError
from boostlib.common.targets import coverage, hold, matrix, require_plain
from boostlib.rank import EXACT
from boostlib.strategies.lora import LoRA
from boostlib.update import LowRankUpdate, Weights


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path))


# --- which modules


def test_llama_targets_are_the_seven_linears_of_each_layer(tiny_llama):
    names = target_modules(tiny_llama(layers=3))
    assert len(names) == 7 * 3
    assert [n.rsplit(".", 1)[-1] for n in names[:7]] == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip
    assert not any("head" in n or "embed" in n for n in names)
    assert names == sorted(names, key=lambda n: int(n.split(".")[2]))


TINY = dict(vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)


@pytest.mark.parametrize(
    ("kind", "config"),
    [(BertForMaskedLM, BertConfig(**TINY)), (EsmForMaskedLM, EsmConfig(**TINY, pad_token_id=1, mask_token_id=32))],
)
def test_encoder_targets_are_the_six_linears_of_each_layer(kind, config):
    names = target_modules(kind(config))
    assert len(names) == 6 * 3
    assert all(".encoder.layer." in name for name in names)


def test_only_keeps_what_it_names(tiny_llama):
    names = target_modules(tiny_llama(), ["q_proj", "model.layers.1.mlp.up_proj"])
    assert names == [
        "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj",
    ]  # fmt: skip


def test_no_such_target_module_says_which_there_are(tiny_llama):
    with pytest.raises(ModelError, match=r"no target module 'query'.*down_proj.*q_proj"):
        target_modules(tiny_llama(), ["q_proj", "query"])
    with pytest.raises(ModelError, match="Linear has no linear layers inside blocks"):
        target_modules(nn.Linear(2, 2))


# --- weights that are no plain matrices


class Coded(torch.Tensor):
    """A tensor of a class of its own, as libraries of quantization have them."""


def as_int8(weight):
    return torch.nn.Parameter((weight * 100).round().to(torch.int8), requires_grad=False)


def as_float8(weight):
    return torch.nn.Parameter(weight.to(torch.float8_e4m3fn), requires_grad=False)


def as_packed(weight):
    return torch.nn.Parameter(weight.reshape(-1, 1), requires_grad=False).unsqueeze(-1)


def as_subclass(weight):
    return torch.nn.Parameter(weight.as_subclass(Coded), requires_grad=False)


def as_other_parameter(weight):
    return type("Params4bit", (torch.nn.Parameter,), {})(weight)


@pytest.mark.parametrize("change", [as_int8, as_float8, as_packed, as_subclass, as_other_parameter])
def test_a_weight_that_is_no_plain_matrix_is_refused_with_the_remedy(tiny_llama, change):
    model = tiny_llama()
    layer = model.model.layers[1].mlp.up_proj
    changed = change(layer.weight.detach())
    del layer.weight
    layer.weight = changed
    with pytest.raises(ModelError, match=r"layers.1.mlp.up_proj holds no plain matrix .*dequantize\(\)"):
        SVDBasis.from_model(model, rank=2)
    other = SVDBasis.from_model(model, rank=2, targets=["q_proj"])  # what is plain can be chosen
    assert len(other) == 2


def test_a_weight_that_is_not_in_memory_or_shared_is_refused(tiny_llama):
    model = tiny_llama()
    model.model.layers[0].mlp.up_proj.to("meta")
    with pytest.raises(ModelError, match="layers.0.mlp.up_proj is not in memory .*without device_map"):
        SVDBasis.from_model(model, rank=2)
    model = tiny_llama()
    model.model.layers[1].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    with pytest.raises(ModelError, match="layers.0.self_attn.q_proj and .*layers.1.self_attn.q_proj share one weight"):
        SVDBasis.from_model(model, rank=2)


def as_complex(weight):
    return nn.Parameter(weight.to(torch.complex64))


@pytest.mark.parametrize("how", ["parametrized", "weight norm", "complex"])
def test_a_weight_that_is_computed_from_others_or_complex_is_refused(tiny_llama, how):
    model = tiny_llama()
    layer = model.model.layers[0].self_attn.o_proj
    if how == "parametrized":
        nn.utils.parametrizations.spectral_norm(layer)
    elif how == "weight norm":
        nn.utils.parametrizations.weight_norm(layer)
    else:
        layer.weight = as_complex(layer.weight)
    with pytest.raises(ModelError, match=r"self_attn.o_proj holds no plain matrix .*remove_parametrizations"):
        SVDBasis.from_model(model, rank=2)


def test_weights_that_share_memory_are_refused_whoever_holds_them(tiny_llama):
    model = tiny_llama()
    first, second = (layer.self_attn for layer in model.model.layers)
    second.q_proj.weight = nn.Parameter(first.q_proj.weight.data)  # another parameter, the same numbers
    match = (
        r"0.self_attn.q_proj and .*1.self_attn.q_proj share one weight: .*targets=\('down_proj', 'gate_proj', 'k_proj'"
    )
    with pytest.raises(ModelError, match=match):
        SVDBasis.from_model(model, rank=2)
    with pytest.raises(ModelError, match="layers.0.self_attn.q_proj and .*layers.1.self_attn.q_proj share"):
        SVDBasis.from_model(model, rank=2, targets=["layers.0.self_attn.q_proj"])  # the other is changed all the same
    model = tiny_llama()
    model.model.layers[0].mlp.extra = nn.Parameter(model.model.layers[0].self_attn.k_proj.weight.data[3:5])
    with pytest.raises(ModelError, match="0.self_attn.k_proj and model.layers.0.mlp share one weight"):
        SVDBasis.from_model(model, rank=2)


def test_a_weight_tied_to_an_embedding_is_refused(tiny_llama):
    model = tiny_llama()
    model.model.layers[0].mlp.up_proj = nn.Linear(64, 258, bias=False)
    model.model.layers[0].mlp.up_proj.weight = model.model.embed_tokens.weight
    with pytest.raises(ModelError, match="layers.0.mlp.up_proj and model.embed_tokens share one weight"):
        SVDBasis.from_model(model, rank=2)


def test_parts_of_one_tensor_that_do_not_overlap_are_weights_of_their_own(tiny_llama):
    model = tiny_llama()
    attention = model.model.layers[0].self_attn
    whole = torch.cat([attention.k_proj.weight.data, attention.v_proj.weight.data])
    attention.k_proj.weight, attention.v_proj.weight = map(nn.Parameter, whole.split(32))
    again = tiny_llama()
    model.alias = model.model.layers[1]  # one module of two names is one owner
    assert SVDBasis.from_model(model, rank=2).hash(2) == SVDBasis.from_model(again, rank=2).hash(2)


def test_a_weight_made_in_inference_mode_is_refused(tiny_llama):
    with torch.inference_mode():
        model = tiny_llama()
    with pytest.raises(ModelError, match=r"q_proj was made under torch.inference_mode\(\)"):
        require_plain(model, target_modules(model))


@pytest.mark.parametrize("change", [lambda w: w.T.contiguous().T, lambda w: w.detach().requires_grad_(False)])
def test_how_a_weight_lies_and_whether_it_is_frozen_makes_no_difference(tiny_llama, change):
    model, plain = tiny_llama(), tiny_llama()
    for layer in model.model.layers:
        weight = layer.mlp.up_proj.weight
        layer.mlp.up_proj.weight = nn.Parameter(change(weight.data), requires_grad=change(weight).requires_grad)
    assert SVDBasis.from_model(model, rank=4).hash(4) == SVDBasis.from_model(plain, rank=4).hash(4)


# --- models inside of something else


def with_peft(model):
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))


def with_added_adapter(model):
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    return model


def compiled_inside(model):
    model.model.layers[1] = torch.compile(model.model.layers[1])
    return model


def compiled_in_place(model):
    model.compile()
    return model


@pytest.mark.parametrize(
    ("wrap", "remedy"),
    [
        (with_peft, "merge_and_unload"),
        (with_added_adapter, "merge_and_unload"),
        (torch.compile, "_orig_mod"),
        (compiled_inside, "_orig_mod"),
        (compiled_in_place, "Load it again"),
        (nn.DataParallel, r"\.module of this one"),
    ],
)
def test_a_wrapped_model_is_refused_with_the_way_to_the_plain_one(tiny_llama, wrap, remedy):
    with pytest.raises(ModelError, match=f"is not the plain model: .*{remedy}"):
        target_modules(wrap(tiny_llama()))


def test_a_merged_adapter_is_no_wrapper(tiny_llama):
    assert target_modules(with_peft(tiny_llama()).merge_and_unload()) == target_modules(tiny_llama())


# --- kinds of models


def made(make, config):
    with torch.device("meta"):
        return make(config)


LLAMA = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
TEXT = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, pad_token_id=0)  # fmt: skip
SIGHT = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8
)


def llava():
    return LlavaConfig(vision_config=CLIPVisionConfig(**SIGHT), text_config=LlamaConfig(**TEXT))


def gemma3():
    return Gemma3Config(text_config=Gemma3TextConfig(**TEXT), vision_config=SiglipVisionConfig(**SIGHT))


def qwen2_vl():
    sight = dict(depth=2, embed_dim=32, hidden_size=32, num_heads=4, patch_size=8)
    return Qwen2VLConfig(text_config=TEXT, vision_config=sight)


def qwen2_audio():
    sound = dict(model_type="qwen2_audio_encoder", d_model=32, encoder_layers=2, encoder_attention_heads=4)
    return Qwen2AudioConfig(text_config=dict(model_type="qwen2", **TEXT), audio_config=sound | {"encoder_ffn_dim": 48})


def git():
    return GitConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                     vision_config=SIGHT)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "config", "language", "tower"),
    [
        (LlavaForConditionalGeneration, llava, "model.language_model.", "vision_tower"),
        (Gemma3ForConditionalGeneration, gemma3, "model.language_model.", "vision_tower"),
        (Qwen2VLForConditionalGeneration, qwen2_vl, "model.language_model.", "visual"),
        (Qwen2AudioForConditionalGeneration, qwen2_audio, "model.language_model.", "audio_tower"),
        (GitForCausalLM, git, "git.encoder.", "image_encoder"),
    ],
)
def test_of_several_towers_the_language_blocks_are_adapted_and_others_only_when_named(make, config, language, tower):
    model = made(make, config())
    names = target_modules(model)
    assert names and all(name.startswith(language) for name in names) and coverage(model).share == 1
    sight = target_modules(model, [tower])
    assert sight and all(f".{tower}." in name for name in sight) and not set(sight) & set(names)
    shared = names[0].rsplit(".", 1)[-1]
    assert set(target_modules(model, [shared])) <= set(names)  # what both have is the language part's
    assert set(target_modules(model, [shared, tower])) == set(target_modules(model, [shared])) | set(sight)


MOE = dict(moe_intermediate_size=24, num_experts_per_tok=2)


ATTENTION = "q_proj k_proj v_proj o_proj"
JET = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_key_value_heads=2, kv_channels=8,
           intermediate_size=48, num_local_experts=4)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "config", "wanted", "share"),  # share: counted by hand
    [
        (MixtralForCausalLM, MixtralConfig(**TEXT, num_local_experts=4), ATTENTION, 3072 / 21632),
        (
            Qwen2MoeForCausalLM,
            Qwen2MoeConfig(**TEXT, **MOE, num_experts=4, shared_expert_intermediate_size=48),
            LLAMA,
            7680 / 17056,
        ),
        (PhimoeForCausalLM, PhimoeConfig(**TEXT, num_local_experts=4), ATTENTION, 3072 / 21632),
        (JetMoeForCausalLM, JetMoeConfig(**JET), "kv_proj", 1024 / 23808),
    ],
)
def test_of_a_mixture_of_experts_routers_are_left_out_and_the_rest_is_said(make, config, wanted, share):
    model = made(make, config)
    names = target_modules(model)
    assert {name.rsplit(".", 1)[-1] for name in names} == set(wanted.split())
    found = coverage(model)
    assert found.share == pytest.approx(share)
    assert found.adapted + sum(found.left_out.values()) == found.blocks
    assert list(found.left_out.values()) == sorted(found.left_out.values(), reverse=True)
    largest = next(iter(found.left_out))
    assert str(found).startswith(f"{found.share:.1%} of the numbers") and f"left out: {largest} (" in str(found)


class Packed(nn.Module):
    """A quantized layer of a class of its own: its weight is a buffer of codes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("qweight", torch.zeros(16, 8, dtype=torch.int32))


def test_quantized_layers_of_another_class_count_as_left_out(tiny_llama):
    model = tiny_llama()
    for layer in model.model.layers:
        layer.mlp.up_proj = Packed()
    found = coverage(model)
    assert found.left_out == {"model.layers.*.mlp.up_proj.qweight": 2 * 128} and 0.9 < found.share < 1
    for layer in model.model.layers:
        layer.self_attn, layer.mlp = Packed(), Packed()
    with pytest.raises(ModelError, match=r"but LlamaRMSNorm, Packed: nothing to adapt. Load a quantized model unq"):
        target_modules(model)


def test_what_stands_beside_no_experts_is_no_router(tiny_llama):
    model = tiny_llama()
    model.model.layers[0].mlp.gate = nn.Linear(64, 4)
    assert "model.layers.0.mlp.gate" in target_modules(model)
    model.model.layers[0].mlp.experts = nn.ModuleList([nn.Linear(64, 64)])
    names = target_modules(model)
    assert "model.layers.0.mlp.gate" not in names and "model.layers.0.mlp.experts.0" in names
    assert "model.layers.0.mlp.gate_proj" in names


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(8, 8)


def test_blocks_may_follow_each_other_in_a_sequential_or_lie_in_a_dictionary():
    model = nn.Module()
    model.blocks, model.head = (
        nn.Sequential(Block(), Block()),
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
    )
    assert target_modules(model) == ["blocks.0.inside", "blocks.1.inside"]
    model.blocks = nn.ModuleDict({"a": Block(), "b": Block()})
    assert target_modules(model) == ["blocks.a.inside", "blocks.b.inside"]
    assert target_modules(nn.Sequential(Block(), Block())) == ["0.inside", "1.inside"]
    del model.blocks
    with pytest.raises(ModelError, match="Module has no linear layers inside blocks"):
        target_modules(model)


def test_entries_are_whole_parts_of_names(tiny_llama):
    names = target_modules(tiny_llama(layers=11), ["layers.1"])
    assert len(names) == 7 and all(name.startswith("model.layers.1.") for name in names)
    with pytest.raises(ModelError, match="no target module 'proj'"):
        target_modules(tiny_llama(), ["proj"])


def test_small_weights_are_named_with_the_targets_that_remain(tiny_llama):
    with pytest.raises(
        ModelError, match=r"between 1 and 32, or small .*: targets=\('down_proj', 'gate_proj', 'o_proj', "
    ):
        SVDBasis.from_model(tiny_llama(), rank=40)


# --- a weight that is kept the other way round


def gpt2():
    sizes = dict(vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.2)).eval()


def test_gpt2s_weights_are_matrices_the_other_way_round():
    model = gpt2()
    names = target_modules(model)
    assert {name.split(".", 3)[3] for name in names} == {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    module, x = model.get_submodule("transformer.h.0.attn.c_attn"), torch.randn(3, 32)
    assert matrix(module).shape == (96, 32) and coverage(model).share == 1
    torch.testing.assert_close(x @ matrix(module).T + module.bias, module(x))
    hold(module, torch.ones(96, 32).tril())
    assert module.weight.is_contiguous() and torch.equal(matrix(module), torch.ones(96, 32).tril())
    basis = SVDBasis.from_model(model, rank=4)
    u, s, vh = basis["transformer.h.1.mlp.c_fc"]
    weight = model.get_submodule("transformer.h.1.mlp.c_fc").weight
    assert (u.shape, vh.shape) == ((128, 4), (4, 32))
    torch.testing.assert_close(u.T @ weight.T @ vh.T, s.diag(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("learner", ["tinylora", "lora"])
def test_gpt2_gives_the_same_live_folded_and_merged(learner):
    model, ids = gpt2(), torch.arange(2, 40).reshape(2, 19)
    basis = SVDBasis.from_model(model, rank=4)
    weights, before = Weights(model, list(basis)), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        if learner == "lora":
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                adapter = LoRA(list(basis), rank=2).attach(model, weights)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.02)
        else:
            adapter = TinyLoRA(basis, AdapterConfig(rank=2, u=2, n_tie=3), round=1).attach(model, weights)
            adapter.v.normal_(0, 0.3)
        live = model(input_ids=ids).logits
        with adapter.folded():
            folded = model(input_ids=ids).logits
        adapter.detach()
        assert torch.equal(model(input_ids=ids).logits, plain)
        weights.merge(adapter.update())
        merged = model(input_ids=ids).logits
        assert (live - plain).abs().max() > 0.05
        for other in (folded, merged):
            assert (live - other).abs().max() < 3e-6 * live.abs().max().clamp_min(1)
        assert {epsilon_rank(*pair, EXACT) for pair in weights.update.values()} == {2}
        weights.set(LowRankUpdate())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
