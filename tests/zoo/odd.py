"""Models that are more, less or other than a language model or an encoder: towers, shared and coded weights, wrappers,
layers that do not use their weight as it is, and folders with a fault."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

from zoo.kinds import KINDS, Kind, add, causal, given, seeded, small


def tower(kind: str, vision: dict, text: dict, **settings) -> Callable[[], nn.Module]:
    """A vision-language model: a small tower of images beside a small language model, `text["model_type"]`."""

    def make():
        inner = small(text["model_type"], **{k: v for k, v in text.items() if k != "model_type"}).to_dict()
        config = AutoConfig.for_model(kind, text_config=inner, vision_config=vision, **settings)
        return seeded(lambda: AutoModelForImageTextToText.from_config(config))

    return make


IMAGES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16,
              patch_size=8, projection_dim=32, vision_use_head=False)  # fmt: skip
CLIP, SIGLIP = {**IMAGES, "model_type": "clip_vision_model"}, {**IMAGES, "model_type": "siglip_vision_model"}
QWEN = dict(depth=2, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=2, patch_size=8, intermediate_size=48,
            out_hidden_size=32, fullatt_block_indexes=[1])  # fmt: skip
ROPE = dict(rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4})
TOKENS = dict(image_token_id=257, video_token_id=256, vision_start_token_id=255, vision_end_token_id=254)
TOWERS = {
    "llava": tower("llava", CLIP, {"model_type": "llama"}, image_token_index=257, pad_token_id=0, eos_token_id=1),
    "gemma3": tower("gemma3", SIGLIP, {"model_type": "gemma3_text"}, mm_tokens_per_image=1, image_token_index=257,
                    boi_token_index=256, eoi_token_index=255),
    "paligemma": tower("paligemma", SIGLIP, {"model_type": "gemma"}, image_token_index=257, projection_dim=32,
                       hidden_size=32),
    "qwen2_vl": tower("qwen2_vl", QWEN, {"model_type": "qwen2_vl_text", **ROPE}, **TOKENS),
    "qwen2_5_vl": tower("qwen2_5_vl", QWEN, {"model_type": "qwen2_5_vl_text", **ROPE}, **TOKENS),
}  # fmt: skip
for name, make in TOWERS.items():
    given(name, make)
for name in ("gemma3", "llava"):
    add(Kind(f"{name} by name", TOWERS[name]))


def shared_parameter() -> nn.Module:
    model = causal("llama")
    one, other = (layer.mlp for layer in model.model.layers)
    other.up_proj.weight = one.up_proj.weight
    return model


def shared_storage() -> nn.Module:
    model = causal("llama")
    one, other = (layer.mlp for layer in model.model.layers)
    other.up_proj.weight = nn.Parameter(one.up_proj.weight.data)
    return model


def shared_module() -> nn.Module:
    model = causal("llama")
    one, other = model.model.layers
    other.mlp = one.mlp
    return model


class Coded(nn.Linear):
    """A linear layer whose weight holds codes, which its forward pass decodes, as quantized layers do."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight.float() / 100)


def codes(kind: torch.dtype) -> Callable[[], nn.Module]:
    """A model some of whose weights are codes of that type."""

    def make():
        model = custom(Coded)()
        for layer in model.model.layers:
            data = (layer.mlp.up_proj.weight.data * 100).to(kind)
            layer.mlp.up_proj.weight = nn.Parameter(data, requires_grad=False)
        return model

    return make


def offloaded() -> nn.Module:

    return cpu_offload(causal("llama"))


def wrapped() -> nn.Module:
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(causal("llama"), settings).eval()


def half() -> nn.Module:
    return causal("llama").half()


def compiled() -> nn.Module:
    model = causal("llama")
    model.forward = torch.compiler.disable(model.forward)  # a wrapper is what counts, and compiling takes long
    return torch.compile(model, backend="eager")


class Unseen(nn.Module):
    """Uses the weight of its linear layer without calling the layer, as Mamba does with `dt_proj`."""

    def __init__(self, mlp):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (
            mlp.gate_proj,
            mlp.up_proj,
            mlp.down_proj,
            mlp.act_fn,
        )

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * nn.functional.linear(x, self.up_proj.weight))


def unseen() -> nn.Module:
    model = causal("llama")
    for layer in model.model.layers:
        layer.mlp = Unseen(layer.mlp)
    return model


def normed() -> nn.Module:
    model = causal("llama")
    for layer in model.model.layers:
        nn.utils.parametrizations.weight_norm(layer.mlp.up_proj)
    return model


class Scaled(nn.Linear):
    """A linear layer whose output is more than its weight times the input."""

    def forward(self, x):
        return 2 * super().forward(x)


class ScaledWeight(nn.Linear):
    """A linear layer that multiplies by something else than its weight."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight / self.weight.norm(), self.bias)


def custom(kind: type[nn.Linear]):
    def make():
        model = causal("llama")
        for layer in model.model.layers:
            old = layer.mlp.up_proj
            layer.mlp.up_proj = kind(old.in_features, old.out_features, bias=False)
            layer.mlp.up_proj.weight.data.copy_(old.weight.data)
        return model.eval()

    return make


given("shared parameter", shared_parameter)
given("shared storage", shared_storage)
given("shared module", shared_module)
given("int8 weights", codes(torch.int8))
given("fp8 weights", codes(torch.float8_e4m3fn))
given("offloaded", offloaded)
given("PEFT-wrapped", wrapped)
given("fp16", half)
given("compiled", compiled)
given("weight read, layer not called", unseen)
given("weight norm", normed)
given("scaled output", custom(Scaled))
given("scaled weight", custom(ScaledWeight))
SIDES = dict(decoder_ffn_dim=48, encoder_ffn_dim=48, decoder_layers=2, encoder_layers=2, decoder_attention_heads=4,
             encoder_attention_heads=4, decoder_start_token_id=0)  # fmt: skip
T5 = dict(d_kv=8, d_ff=48, num_decoder_layers=2, num_heads=4, decoder_start_token_id=0)
given("t5 as a language model", lambda: seeded(lambda: AutoModelForSeq2SeqLM.from_config(small("t5", **T5))))
given("bart as a language model", lambda: seeded(lambda: AutoModelForSeq2SeqLM.from_config(small("bart", **SIDES))))


# --- folders with a fault


def without_a_weight(folder) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "layer" in name and name.endswith("weight") and tensors[name].dim() == 2)
    save_file({key: value for key, value in tensors.items() if key != name}, path, {"format": "pt"})


def without_an_end(folder) -> None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("eos_token")
    path.write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def with_settings(folder) -> None:
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    settings.update(
        min_p=0.2, no_repeat_ngram_size=1, suppress_tokens=list(range(2, 100)), num_beams=3, use_cache=False
    )
    path.write_text(json.dumps(settings))


def changed(name: str, of: str, before: Callable[[Path], None]) -> None:
    """Kind `of`, whose folder is changed before it is loaded."""
    add(replace(KINDS[of], name=name, before=before))


changed("missing weight", "llama", without_a_weight)
changed("no end token", "llama", without_an_end)
changed("own generation settings", "llama", with_settings)

changed("missing weight", "encoder bert", without_a_weight)
