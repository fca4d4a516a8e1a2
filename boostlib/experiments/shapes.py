"""What a model's shapes alone say about memory: nothing is loaded, the model is built on torch's meta device.

Bytes that the backward pass through one layer waits for, per token (h hidden, a = heads * head size, i intermediate,
e bytes a number, L tokens a row, m adapted weights of rank r). Weights are frozen, so no linear keeps its input:

    Llama, Qwen   8h (the fp32 input of two RMSNorms) + 4ae (q, k, v, attention's output) + 3ie (gate, silu(gate), up)
    BERT          2he (the input of two LayerNorms)   + 4ae                               + ie  (GELU's input)
    ESM2          2he                                 + 4ae                               + 3ie (GELU written out)
    all           + Le (the mask, once more in every layer) + 4rm (Vh x of every adapted weight, fp32)

Keys and values are counted a each: grouped heads are repeated before attention wherever rows are padded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig

from boostlib.basis import target_modules
from boostlib.common.errors import ModelError
from boostlib.models.classifier import SequenceClassifier

# the models of the presets, so that their shapes are known before anything is fetched
SETTINGS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
            "vocab_size", "max_position_embeddings")  # fmt: skip
KNOWN: Mapping[str, tuple[str, tuple[int, ...], Mapping[str, Any]]] = {  # kind, SETTINGS, what else matters
    "smollm2": ("llama", (576, 30, 9, 3, 1536, 49152, 8192), {"tie_word_embeddings": True}),
    "antiberty": ("bert", (512, 8, 8, 8, 2048, 25, 512), {}),
    "Qwen/Qwen2.5-3B-Instruct": ("qwen2", (2048, 36, 16, 2, 11008, 151936, 32768), {"tie_word_embeddings": True}),
    "facebook/esm2_t33_650M_UR50D": (
        "esm",
        (1280, 33, 20, 20, 5120, 33, 1026),
        {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 32},
    ),
}


@dataclass(frozen=True)
class Shapes:
    """Sizes that memory depends on. targets: (out, in) of every adapted weight; attention: heads * head size."""

    parameters: int
    targets: tuple[tuple[int, int], ...]
    layers: int
    hidden: int
    intermediate: int
    attention: int
    keys: int  # key-value heads * head size: what a cache holds, twice, per token and layer
    vocab: int
    longest: int  # tokens that the model takes
    kind: str  # "gated", "esm" or "plain": which line of the formula holds

    @property
    def target_numbers(self) -> int:
        """Numbers in all adapted weights."""
        return sum(out * into for out, into in self.targets)

    @property
    def sides(self) -> int:
        """Sum of out + in over the adapted weights: a factor pair of rank 1 has as many numbers."""
        return sum(out + into for out, into in self.targets)

    @property
    def widest(self) -> int:
        """Numbers in the largest adapted weight."""
        return max(out * into for out, into in self.targets)

    def saved(self, e: int, length: int, rank: int) -> int:
        """Bytes per token that one layer's backward pass waits for, at rows of `length` tokens. See the formula."""
        h, a, i = self.hidden, self.attention, self.intermediate
        norms = 8 * h if self.kind == "gated" else 2 * h * e
        inside = i * e * (1 if self.kind == "plain" else 3)
        modules = len(self.targets) / self.layers
        return round(norms + 4 * a * e + inside + length * e + 4 * rank * modules)

    def passing(self, e: int, adapted: bool) -> int:
        """Bytes per token that are there for the moment of one linear. adapted: its hook's fp32 input, branch, sum."""
        if not adapted:
            return 8 * self.hidden + 3 * self.intermediate * e
        return max((4 * into if e < 4 else 0) + out * (8 + e) for out, into in self.targets)


def shapes_of(model: nn.Module) -> Shapes:
    """The shapes of a language model, or of a SequenceClassifier, on whatever device, the meta device included."""
    config = model.config
    names = target_modules(model)
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    gated = any(name.endswith("gate_proj") for name in names)
    return Shapes(
        parameters=sum(p.numel() for p in model.parameters()),
        targets=tuple(tuple(model.get_submodule(name).weight.shape) for name in names),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        attention=heads * size,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
        vocab=config.vocab_size,
        longest=config.max_position_embeddings,
        kind="gated" if gated else "esm" if config.model_type == "esm" else "plain",
    )


@lru_cache
def shapes_by_name(name: str, classifier: bool = False) -> Shapes:
    """The shapes of a model of the presets, of a local folder, or of a hub id, from its config alone.

    classifier: as an encoder. Raises ModelError where there is no config to be had.
    """
    return shapes_of(on_meta(config_by_name(name), classifier))


def config_by_name(name: str) -> PretrainedConfig:
    """The config of `name`: from the table of this file, a local folder or the hub. Raises ModelError."""
    if name in KNOWN:
        kind, sizes, more = KNOWN[name]
        return AutoConfig.for_model(kind, **dict(zip(SETTINGS, sizes, strict=True)), **more)
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"the shapes of {name!r} are not known here and no config was found: {reason}") from error


def on_meta(config: PretrainedConfig, classifier: bool = False) -> nn.Module:
    """A model without numbers: shapes only."""
    with torch.device("meta"):
        if classifier:
            return SequenceClassifier(AutoModel.from_config(config))
        return AutoModelForCausalLM.from_config(config)
