"""What is loaded is whole, plain and of the kind that is asked for; everything else is one error with the remedy."""

import json
import os
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    BigBirdConfig,
    ConvBertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    EsmConfig,
    FNetConfig,
    LayoutLMConfig,
    LlamaConfig,
    LlavaConfig,
    LongformerConfig,
    MobileBertConfig,
    ModernBertConfig,
    MPNetConfig,
    NystromformerConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
    XLMConfig,
    XLNetConfig,
)

from boostlib import load_classifier, load_model
from boostlib.common.errors import ModelError
from boostlib.models.language import load_config, load_tokenizer
from boostlib.models.sequences import encode_chains, longest, to_tensors

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
SHAPE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
PLACES = {**SHAPE, "max_position_embeddings": 40, "pad_token_id": 1}


@dataclass
class Labels:
    max_length: int | None = None


def residues(begin="[CLS]", pad="[PAD]", mark="") -> PreTrainedTokenizerFast:
    """A token a residue; padding has the id 1, as RoBERTa and ESM have it."""
    tokens = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *(mark + letter for letter in LETTERS)]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {"cls_token": begin, "pad_token": pad, "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{k: v for k, v in special.items() if v})


@pytest.fixture
def folder(tmp_path):
    """folder(config or model, tokenizer): a random model of that kind, saved; its path."""

    def save(model, tokenizer=None) -> str:
        if not isinstance(model, torch.nn.Module):
            from transformers import AutoModel

            torch.manual_seed(0)
            model = AutoModel.from_config(model)
        model.save_pretrained(tmp_path / "model")
        (tokenizer or residues()).save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


@pytest.fixture
def llama_folder(folder, tiny_llama, tiny_tokenizer):
    return folder(tiny_llama(), tiny_tokenizer)


def edit_weights(path: str, change) -> None:
    """Replace the saved weights by `change` of them, name -> tensor."""
    file = f"{path}/model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def edit(path: str, name: str, **values) -> None:
    """Set entries of a JSON file; None takes them out."""
    file = f"{path}/{name}"
    with open(file) as opened:
        settings = {**json.load(opened), **values}
    with open(file, "w") as opened:
        json.dump({key: value for key, value in settings.items() if value is not None}, opened)


# --- weights that loading would make up


def without(*names):
    return lambda weights: {name: weight for name, weight in weights.items() if name not in names}


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"]
)
def test_missing_weights_are_named(llama_folder, name):
    edit_weights(llama_folder, without(name))
    with pytest.raises(ModelError, match=rf"the checkpoint lacks .*{name}.* would be filled at random"):
        load_model(llama_folder, device="cpu")


def test_weights_of_other_names_are_missing_ones(llama_folder):
    edit_weights(llama_folder, lambda weights: {f"policy.{name}": weight for name, weight in weights.items()})
    with pytest.raises(ModelError, match="lacks .* and 18 more, which would be filled at random"):
        load_model(llama_folder, device="cpu")


def test_a_language_model_without_its_head_is_refused_unless_it_is_tied(folder, tiny_tokenizer, tiny_llama):
    tied = folder(tiny_llama(), tiny_tokenizer)
    assert "lm_head.weight" not in load_file(f"{tied}/model.safetensors")
    load_model(tied, device="cpu")
    edit(tied, "config.json", tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lacks lm_head\.weight"):
        load_model(tied, device="cpu")


def test_other_shapes_and_more_blocks_than_the_config_says_are_refused(llama_folder):
    edit(llama_folder, "config.json", num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"more blocks than config.json asks for, among them model\.layers\.1\."):
        load_model(llama_folder, device="cpu")
    ahead = {"model.layers.1.enorm.weight": torch.ones(64)}  # a block that predicts further ahead
    edit_weights(llama_folder, lambda weights: {**weights, **ahead})
    load_model(llama_folder, device="cpu")
    edit(llama_folder, "config.json", num_hidden_layers=2, intermediate_size=96)
    with pytest.raises(ModelError, match=r"is \(64, 128\) in the checkpoint, where config\.json asks for \(64, 96\)"):
        load_model(llama_folder, device="cpu")


def test_an_encoder_may_lack_what_is_never_read_and_nothing_else(folder):
    path = folder(EsmConfig(**PLACES, position_embedding_type="rotary", mask_token_id=4))
    unread = ("pooler.dense.weight", "pooler.dense.bias", "contact_head.regression.weight")
    edit_weights(path, without(*unread))
    load_classifier(path, device="cpu")
    edit_weights(path, without("encoder.layer.1.output.dense.bias"))
    with pytest.raises(ModelError, match=r"lacks encoder\.layer\.1\.output\.dense\.bias, which"):
        load_classifier(path, device="cpu")


def test_an_encoder_from_a_model_with_a_head_is_whole(folder):
    model = BertForMaskedLM(BertConfig(**PLACES))
    loaded, _ = load_classifier(folder(model), dtype="fp32", device="cpu")
    state = loaded.encoder.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.bert.state_dict().items())


def test_a_lora_is_not_a_model(llama_folder):
    with open(f"{llama_folder}/adapter_config.json", "w") as file:
        json.dump({"peft_type": "LORA", "base_model_name_or_path": "x"}, file)
    for whole in (True, False):  # with its base beside it, or as `export_peft` writes it
        with pytest.raises(ModelError, match="holds a LoRA, not a plain model: merge it first"):
            load_model(llama_folder, device="cpu")
        if whole:
            os.remove(f"{llama_folder}/config.json")


# --- kinds


def test_models_that_are_no_causal_language_models(folder, tiny_tokenizer):
    small = {"d_model": 32, "d_ff": 48, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 300}
    for model, reason in (
        (
            BertForMaskedLM(BertConfig(**PLACES)),
            "no causal language model .bert.: it sees what follows: use load_class",
        ),
        (BartForConditionalGeneration(BartConfig(**small)), r"is an encoder-decoder model \(bart\), not a language"),
        (
            T5ForConditionalGeneration(
                T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=2, vocab_size=300)
            ),
            "its encoder alone loads with load_classifier",
        ),
        (XLNetConfig(d_model=32, n_layer=1, n_head=2, d_inner=48, vocab_size=300), r"no causal language model \(xlnet"),
        (XLMConfig(emb_dim=32, n_layers=1, n_heads=2, vocab_size=300), r"no causal language model \(xlm\)"),
        (DistilBertConfig(dim=32, hidden_dim=48, n_layers=1, n_heads=2), r"no causal language model \(distilbert\)"),
    ):
        path = folder(model, tiny_tokenizer)
        with pytest.raises(ModelError, match=reason):
            load_model(path, device="cpu")


def test_what_transformers_has_no_language_model_for_is_named(tmp_path):
    LlavaConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"of a kind \(llava\) that transformers does not load as a language model"):
        load_config(str(tmp_path))


def test_berts_kin_may_be_decoders(folder, tiny_tokenizer):
    model = BertLMHeadModel(BertConfig(**{**PLACES, "vocab_size": 300}, is_decoder=True, eos_token_id=1))
    loaded, _ = load_model(folder(model, tiny_tokenizer), dtype="fp32", device="cpu")
    here, there = (loaded(input_ids=torch.tensor([[5, 6, last]])).logits[0, :2] for last in (7, 8))
    assert torch.equal(here, there)
    with pytest.raises(ModelError, match=r"causal language model \(bert\): its state of a residue knows nothing"):
        load_classifier(str(loaded.name_or_path), device="cpu")


def test_a_causal_model_is_no_encoder(llama_folder):
    with pytest.raises(ModelError, match=r"causal language model \(llama\).*load_model for tasks that ask for texts"):
        load_classifier(llama_folder, device="cpu")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"quantised \(gptq\).*use an unquantised checkpoint of the same model$"),
        ({"quant_method": "mxfp4"}, r"quantised \(mxfp4\).*quantization_config=Mxfp4Config\(dequantize=True\)"),
        ({"bits": 8}, "quantised .by a method that config.json does not name"),
    ],
)
def test_quantised_checkpoints_are_refused_by_their_config(llama_folder, settings, said, monkeypatch):
    edit(llama_folder, "config.json", quantization_config=settings)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *args, **more: pytest.fail("read weights"))
    with pytest.raises(ModelError, match=said):
        load_model(llama_folder, device="cpu")
    edit(llama_folder, "config.json", quantization_config={})
    assert isinstance(load_config(llama_folder), LlamaConfig)


# --- tokenizers


def test_the_end_may_be_named_by_the_models_generation_config(llama_folder):
    edit(llama_folder, "tokenizer_config.json", eos_token=None, pad_token=None)
    edit(llama_folder, "generation_config.json", eos_token_id=[1, 5])
    for tokenizer in (load_model(llama_folder, device="cpu")[1], load_tokenizer(llama_folder)):
        assert tokenizer.eos_token == tokenizer.pad_token == "<eos>"
    os.remove(f"{llama_folder}/generation_config.json")
    for tokenizer in (load_model(llama_folder, device="cpu")[1], load_tokenizer(llama_folder)):
        assert tokenizer.eos_token == "<eos>"  # by config.json
    edit(llama_folder, "config.json", eos_token_id=9999)  # no token
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match="names an end token, so that no text would ever end: save its tokenizer"):
            load(llama_folder)


def test_tokens_beyond_the_embeddings_are_refused(llama_folder, tiny_tokenizer):
    bigger = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<eos>")
    bigger.add_special_tokens({"additional_special_tokens": ["<image>"]})
    bigger.save_pretrained(llama_folder)
    load_model(llama_folder, device="cpu")  # nothing writes it
    bigger.add_special_tokens({"pad_token": "[PAD]"})
    bigger.save_pretrained(llama_folder)
    with pytest.raises(ModelError, match="does not fit its model: the padding token lies beyond the 258 tokens"):
        load_model(llama_folder, device="cpu")
    bigger.pad_token = "<eos>"
    bigger.add_tokens(["chess"])
    bigger.save_pretrained(llama_folder)
    with pytest.raises(ModelError, match="'chess' lies beyond the 258 tokens that the model has embeddings for"):
        load_model(llama_folder, device="cpu")


# --- a checkpoint's own code


OWN_CODE = """
from transformers import LlamaForCausalLM

class Own(LlamaForCausalLM):
    _tied_weights_keys = None
"""


def test_a_checkpoints_own_code_is_run_where_it_is_asked_for(llama_folder):
    edit(llama_folder, "config.json", auto_map={"AutoModelForCausalLM": "own.Own"}, tie_word_embeddings=False)
    edit_weights(llama_folder, lambda w: {**w, "lm_head.weight": w["model.embed_tokens.weight"].clone()})
    with open(f"{llama_folder}/own.py", "w") as file:
        file.write(OWN_CODE)
    assert type(load_model(llama_folder, device="cpu")[0]).__name__ == "LlamaForCausalLM"  # transformers' own
    assert type(load_model(llama_folder, device="cpu", trust_remote_code=True)[0]).__name__ == "Own"
    edit(llama_folder, "config.json", model_type="unheard", auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"})
    for load in (load_model, load_classifier):
        with pytest.raises(ModelError, match=rf"code of its own.*call {load.__name__}\(.*trust_remote_code=True\)"):
            load(llama_folder, device="cpu")


# --- encoders

T5 = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=1)
WIDE = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
ENCODERS = {  # kind -> config, tokens that it takes
    "bert": (BertConfig(**PLACES), 40),
    "roberta": (RobertaConfig(**PLACES), 38),
    "esm, absolute": (EsmConfig(**PLACES, position_embedding_type="absolute", mask_token_id=4), 38),
    "esm, rotary": (EsmConfig(**PLACES, position_embedding_type="rotary", mask_token_id=4), 40),
    "mpnet": (MPNetConfig(**PLACES), 38),
    "longformer": (LongformerConfig(**PLACES, attention_window=8), 38),
    "deberta-v2": (DebertaV2Config(**PLACES), 40),
    "distilbert": (DistilBertConfig(vocab_size=64, max_position_embeddings=40, **WIDE), 40),
    "electra": (ElectraConfig(**PLACES, embedding_size=32), 40),
    "modernbert": (ModernBertConfig(**PLACES, cls_token_id=0, sep_token_id=2, bos_token_id=0, eos_token_id=2), 40),
    "t5": (T5, 1024),
    "mobilebert": (MobileBertConfig(**PLACES, embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32), 40),
    "layoutlm": (LayoutLMConfig(**PLACES), 40),  # calls its pooler whatever it is
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_takes_as_many_tokens_as_it_says_and_reads_no_padding(folder, kind):
    config, most = ENCODERS[kind]
    model, tokenizer = load_classifier(folder(config), dtype="fp32", device="cpu")
    assert longest(model, tokenizer, Labels()) == most and longest(model, tokenizer, Labels(max_length=20)) == 20
    texts = (LETTERS * 80, "ACDEF,GHI|KLM")
    encoded = [encode_chains(tokenizer, text, most) for text in texts]
    assert len(encoded[0].ids) == most
    with torch.no_grad():
        together = model.features(*to_tensors(encoded, tokenizer.pad_token_id, model.device))
        alone = [model.features(*to_tensors([one], tokenizer.pad_token_id, model.device)) for one in encoded]
    assert (together - torch.cat(alone)).abs().max() < 1e-5


def test_prot_t5_has_no_first_token_and_marks_its_residues(folder, tmp_path):
    tokenizer = residues(begin=None, mark="\u2581")
    model, tokenizer = load_classifier(folder(T5ForConditionalGeneration(T5), tokenizer), dtype="fp32", device="cpu")
    assert type(model.encoder).__name__ == "T5EncoderModel"
    one = encode_chains(tokenizer, "AC|DX", 20)
    assert tokenizer.convert_ids_to_tokens(one.ids) == ["\u2581A", "\u2581C", "[SEP]", "\u2581D", "[UNK]", "[SEP]"]
    assert one.residues == [True, True, False, True, True, False]
    assert len(encode_chains(tokenizer, LETTERS, 12).ids) == 12
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, _ = load_classifier(str(tmp_path / "saved"), dtype="fp32", device="cpu")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_an_encoder_of_another_kind_needs_a_first_token(folder):
    with pytest.raises(ModelError, match="lacks a token for the beginning"):
        load_classifier(folder(BertConfig(**PLACES), residues(begin=None)), device="cpu")


def test_a_tokenizer_without_padding_gets_what_the_encoder_pads_with(folder):
    _, tokenizer = load_classifier(folder(RobertaConfig(**PLACES), residues(pad=None)), device="cpu")
    assert tokenizer.pad_token_id == 1


def test_outputs_may_be_plain_tuples(folder):
    path = folder(BertConfig(**PLACES))
    model, tokenizer = load_classifier(path, dtype="fp32", device="cpu")
    batch = to_tensors([encode_chains(tokenizer, LETTERS, 30)], 1, model.device)
    expected = model.features(*batch)
    model.encoder.config.return_dict = False
    assert torch.equal(model.features(*batch), expected)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BigBirdConfig(**PLACES), 'draws at random what it attends to .*attention_type to "original_full"'),
        (FNetConfig(**PLACES), "reads its padding"),
        (ConvBertConfig(**PLACES, embedding_size=32), "reads its padding"),
        (
            BartConfig(d_model=32, encoder_layers=1, decoder_layers=1, vocab_size=64),
            "whose encoder transformers does not",
        ),
    ],
)
def test_encoders_that_cannot_be_right_are_refused(folder, config, reason):
    with pytest.raises(ModelError, match=reason):
        load_classifier(folder(config), dtype="fp32", device="cpu")


def test_a_leak_that_bf16_would_hide_is_found(folder):
    with pytest.raises(ModelError, match="reads its padding"):
        load_classifier(folder(NystromformerConfig(**PLACES)), dtype="bf16", device="cpu")


def test_states_that_differ_each_time_are_refused(folder, monkeypatch):
    real = BertModel.forward

    def noisy(self, *given, **more):
        found = real(self, *given, **more)
        found.last_hidden_state.add_(torch.rand(1).item())
        return found

    path = folder(BertConfig(**PLACES))
    monkeypatch.setattr(BertModel, "forward", noisy)
    with pytest.raises(ModelError, match="gives other states each time"):
        load_classifier(path, dtype="fp32", device="cpu")
