"""An export is the run's model in the hands of other people's loaders, or there is none."""

import json
import logging

import pytest
import torch
from helpers import FakeTrainer, ParityTask, config
from peft import PeftModel
from recorded import recorded_run
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    DistilBertConfig,
    Ernie4_5_MoeConfig,
    Glm4MoeConfig,
    GPT2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen3MoeConfig,
    RobertaConfig,
    T5Config,
    T5EncoderModel,
)

from boostlib import AdapterConfig, boost, export_bundle, export_merged, export_peft, load_classifier, replay
from boostlib.common.errors import RunError
from boostlib.models.classifier import SequenceClassifier
from boostlib.release import export, loadback
from boostlib.release.loadback import outputs
from boostlib.run import rebuild

SHAPE = {
    "vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
EXPERTS = {**SHAPE, "moe_intermediate_size": 24, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
LATENT = {"q_lora_rank": None, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
GROUPS = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
MIXTURES = {  # with MLPs that are no experts: dense first layers, shared ones
    "deepseek_v2": DeepseekV2Config(**EXPERTS, **LATENT, **GROUPS),
    "deepseek_v3": DeepseekV3Config(**EXPERTS, **LATENT, **GROUPS),
    "glm4_moe": Glm4MoeConfig(**EXPERTS, **GROUPS, head_dim=8),
    "ernie4_5_moe": Ernie4_5_MoeConfig(
        **SHAPE, moe_num_experts=4, moe_k=2, moe_num_shared_experts=1, moe_intermediate_size=24
    ),
    "qwen3_moe": Qwen3MoeConfig(**EXPERTS, num_experts=4, mlp_only_layers=[0], head_dim=8),
}
SMALL = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
ENCODERS = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL),
    "distilbert": DistilBertConfig(vocab_size=32, dim=32, hidden_dim=48, n_layers=2, n_heads=4),
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def make(config, loader=AutoModelForCausalLM):
    """A random model; the same one each time."""
    torch.manual_seed(0)
    return loader.from_config(config).eval()


@pytest.fixture
def recorded(tmp_path):
    """recorded(model): the directory of a run of two rounds on it, which change its outputs visibly."""

    def record(model, **settings):
        adapter = AdapterConfig(**{"n_tie": 1, "u": 3, "blocks": 2, **settings})
        return recorded_run(tmp_path / "run", model, adapter, 2, (), scale=3.0).dir

    return record


def differs(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


# --- PEFT


@pytest.mark.parametrize("kind", MIXTURES)
def test_a_mixture_with_other_mlps_is_the_same_model_as_a_lora(recorded, tmp_path, kind):
    run = recorded(make(MIXTURES[kind]))
    export_peft(run, tmp_path / "lora", model=make(MIXTURES[kind]))
    settings = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    by_weight = settings["target_parameters"]
    assert by_weight and all("experts." not in name.replace("shared_experts.", "") for name in by_weight)
    assert {name.split(".")[-2] for name in by_weight} <= {"gate_proj", "up_proj", "down_proj"}
    assert "Not for vLLM: vLLM does not know LoRAs of single parameters" in (tmp_path / "lora/README.md").read_text()
    expected, plain = outputs(replay(run, model=make(MIXTURES[kind]))), outputs(make(MIXTURES[kind]))
    found = outputs(PeftModel.from_pretrained(make(MIXTURES[kind]), tmp_path / "lora").eval())
    assert differs(found, expected) < 1e-4 < 0.01 < differs(plain, expected)


def test_gpt2_keeps_its_weights_the_other_way_round(recorded, tmp_path):
    config = GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=1)
    run = recorded(make(config))
    export_peft(run, tmp_path / "lora", model=make(config))
    assert json.loads((tmp_path / "lora/adapter_config.json").read_text())["fan_in_fan_out"] is True
    found = outputs(PeftModel.from_pretrained(make(config), tmp_path / "lora").eval())
    assert differs(found, outputs(replay(run, model=make(config)))) < 1e-4


def test_names_that_end_alike_are_kept_apart(tmp_path, tiny_llama, tiny_tokenizer):

    targets = ("model.layers.1.mlp.up_proj", "q_proj")
    given = tiny_llama(layers=12), tiny_tokenizer, ParityTask(), FakeTrainer(), config(1, targets=targets, n_tie=1)
    run = boost(*given, tmp_path / "run", progress=False)
    assert len(run.update) == 13
    export_peft(run.dir, tmp_path / "lora", model=tiny_llama(layers=12))
    lora = PeftModel.from_pretrained(tiny_llama(layers=12), tmp_path / "lora").eval()
    assert sum("lora_A" in name for name in lora.state_dict()) == 13
    assert differs(outputs(lora), outputs(run.model)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_models_own_modules_stay_as_they_were(recorded, tmp_path, tiny_llama, dtype):
    run, model = recorded(tiny_llama(dtype=dtype)), tiny_llama(dtype=dtype)
    model.lm_head.weight.requires_grad_(False)
    before = {name: (type(module), vars(module).keys()) for name, module in model.named_modules()}
    wanted = {name: weight.requires_grad for name, weight in model.named_parameters()}
    export_peft(run, tmp_path / "lora", model=model)
    assert {name: (type(module), vars(module).keys()) for name, module in model.named_modules()} == before
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == wanted
    expected = replay(run, model=tiny_llama(dtype=dtype))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda layers: layers["model.layers.1.mlp.up_proj"].enable_adapters(False), "outputs differ by"),
        (lambda layers: layers["model.layers.0.mlp.up_proj"].scaling.update(default=2.0), "PEFT gives 1 of 14 modules"),
    ],
)
def test_a_lora_that_loads_as_another_model_is_refused_and_leaves_nothing(
    recorded, tmp_path, tiny_llama, change, reason, monkeypatch
):
    def from_pretrained(model, folder, real=PeftModel.from_pretrained):
        loaded = real(model, folder)
        layers = {n: m for n, m in loaded.base_model.model.named_modules() if isinstance(m, loadback.LoraLayer)}
        change(layers)
        return loaded

    run = recorded(tiny_llama())
    monkeypatch.setattr(loadback.PeftModel, "from_pretrained", from_pretrained)
    with pytest.raises(RunError, match=f"cannot be written as a LoRA of LlamaForCausalLM: {reason}.*Use export_merged"):
        export_peft(run, tmp_path / "lora", model=tiny_llama())
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_what_peft_does_not_load_is_refused(recorded, tmp_path, tiny_llama, monkeypatch):
    def fail(*args):
        raise ValueError("no such thing\nat all")

    run = recorded(tiny_llama())
    monkeypatch.setattr(loadback.PeftModel, "from_pretrained", fail)
    with pytest.raises(RunError, match=r"PEFT does not load it \(ValueError: no such thing\)"):
        export_peft(run, tmp_path / "lora", model=tiny_llama())


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_go_both_ways(recorded, tmp_path, kind, tiny_protein_tokenizer):
    def classifier():
        return SequenceClassifier(make(ENCODERS[kind], AutoModel))

    model = classifier()
    run = recorded(model)
    model.save_head(run)
    export_peft(run, tmp_path / "lora", model=classifier())
    export_merged(run, tmp_path / "merged", model=classifier(), tokenizer=tiny_protein_tokenizer)
    expected = replay(run, model=classifier()).encoder
    lora = PeftModel.from_pretrained(make(ENCODERS[kind], AutoModel), tmp_path / "lora").eval()
    merged, _ = load_classifier(str(tmp_path / "merged"), dtype="fp32", device="cpu")
    assert differs(outputs(lora), outputs(expected)) < 1e-4
    assert torch.equal(outputs(merged.encoder), outputs(expected))


# --- merged


def test_the_card_names_the_class_that_loads_it(recorded, tmp_path, tiny_tokenizer):
    text = MistralConfig(**{**SHAPE, "num_key_value_heads": 2}).to_dict()
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "image_size": 16, "patch_size": 8, "projection_dim": 32}  # fmt: skip
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_id=257)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    export_merged(recorded(model), tmp_path / "merged", round=-1, model=model, tokenizer=tiny_tokenizer)
    assert "`LlavaForConditionalGeneration.from_pretrained(folder)`" in (tmp_path / "merged/README.md").read_text()


def test_the_card_says_where_a_models_own_code_has_to_be_run(tiny_llama, monkeypatch):
    model = tiny_llama()
    monkeypatch.setattr(type(model), "is_remote_code", classmethod(lambda kind: True))
    assert "`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`" in export._use(model)


def test_an_encoder_of_t5_is_written_without_a_decoder(recorded, tmp_path, tiny_protein_tokenizer):
    def classifier():
        torch.manual_seed(0)
        config = T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        return SequenceClassifier(T5EncoderModel(config).eval())

    model = classifier()
    run = recorded(model)
    model.save_head(run)
    export_merged(run, tmp_path / "merged", model=classifier(), tokenizer=tiny_protein_tokenizer)
    loaded, _ = load_classifier(str(tmp_path / "merged"), dtype="fp32", device="cpu")
    assert torch.equal(outputs(loaded.encoder), outputs(replay(run, model=classifier()).encoder))


def test_weights_that_come_back_otherwise_are_refused_and_leave_nothing(
    recorded, tmp_path, tiny_llama, tiny_tokenizer, monkeypatch
):
    run, model = recorded(tiny_llama()), tiny_llama()
    kind = type(model)

    def save(self, folder, real=kind.save_pretrained):
        state = {**self.state_dict()}
        state["model.norm.weight"] = state["model.norm.weight"] + 1
        real(self, folder, state_dict=state)

    monkeypatch.setattr(kind, "save_pretrained", save)
    with pytest.raises(RunError, match=r"loaded back as LlamaForCausalLM, .* model\.norm\.weight is another"):
        export_merged(run, tmp_path / "merged", model=model, tokenizer=tiny_tokenizer)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_what_transformers_does_not_save_is_named(recorded, tmp_path, tiny_llama, tiny_tokenizer):
    run, model = recorded(tiny_llama()), tiny_llama()
    model.generation_config.temperature = 0.3  # without do_sample: transformers finds that invalid
    with pytest.raises(RunError, match="LlamaForCausalLM is not saved by transformers: .*export_bundle may do"):
        export_merged(run, tmp_path / "merged", model=model, tokenizer=tiny_tokenizer)
    assert not (tmp_path / "merged").exists()


def test_too_large_a_model_is_not_loaded_back_and_the_card_says_so(
    recorded, tmp_path, tiny_llama, tiny_tokenizer, monkeypatch, caplog
):
    run, model = recorded(tiny_llama()), tiny_llama()
    monkeypatch.setattr(loadback, "ROOM", 1e12)
    monkeypatch.setattr(loadback, "load_whole", lambda *args, **more: pytest.fail("loaded it"))
    with caplog.at_level(logging.WARNING):
        export_merged(run, tmp_path / "merged", model=model, tokenizer=tiny_tokenizer)
    for said in (caplog.text, (tmp_path / "merged/README.md").read_text()):
        assert "Not loaded back for a check: that takes" in said and "are free." in said


# --- bundle


def test_a_bundle_that_gives_another_update_is_not_kept(recorded, tmp_path, tiny_llama, monkeypatch):
    run = recorded(tiny_llama())
    monkeypatch.setattr(export, "rebuild", lambda *given: rebuild(*given[:-1], 1))  # a round less
    with pytest.raises(RunError, match="gives another update than the run: nothing is kept"):
        export_bundle(run, tmp_path / "run.bundle", model=tiny_llama())
    assert not (tmp_path / "run.bundle").exists()
