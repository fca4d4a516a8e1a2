"""How the zoo's models are made: one tiny random model a kind, from transformers' configs, seeded, fp32.

`KINDS` holds them all once language.py, encoders.py and odd.py have been imported, as `zoo` does. The contexts of the
checks are longer than every sliding window here (16 and less), and shorter than every table of positions (128).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

VOCABULARY = 258  # of the byte tokenizer in tests/conftest.py: 0 is padding, 1 the end

# What is set where a config knows it: two layers of 32, a window shorter than the checks' contexts.
SMALL = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=128, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    n_embd=32, n_layer=2, n_head=4, n_positions=128, ffn_dim=48, num_layers=2, d_model=32, num_experts=4,
    num_local_experts=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, sliding_window=16,
    q_lora_rank=12, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, n_shared_experts=1,
    n_group=1, topk_group=1, shared_expert_intermediate_size=24, linear_num_key_heads=2, linear_num_value_heads=4,
    linear_key_head_dim=8, linear_value_head_dim=8, embedding_size=32,
)  # fmt: skip


def small(kind: str, **settings: Any):
    """The config of model type `kind`, of the sizes above, with `settings` on top."""
    known = AutoConfig.for_model(kind)
    names = (
        {name for name in dir(type(known)) if not name.startswith("_")} | set(vars(known)) | set(known.attribute_map)
    )
    sizes = {name: value for name, value in SMALL.items() if name in names and name not in settings}
    if getattr(type(known), "head_dim", None).__class__ is property:
        sizes.pop("head_dim", None)
    return AutoConfig.for_model(kind, **{**sizes, **{k: v for k, v in settings.items() if v is not DROP}})


DROP = object()  # a setting of SMALL that this kind is to have its own default of


def seeded(make: Callable[[], nn.Module], gain: float = 1.0) -> nn.Module:
    """What `make` gives from fixed random numbers, enlivened, in fp32 and eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().float().eval()
        enliven(model, gain)
    return model


@torch.no_grad()
def enliven(model: nn.Module, gain: float) -> None:
    """Weights that make a difference: drawn anew, so that outputs are about as large as inputs, times `gain`.

    transformers starts from a standard deviation of 0.02, with which a model of width 32 repeats its last token.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(0, gain * module.weight.shape[1] ** -0.5)
        elif isinstance(module, Conv1D):
            module.weight.normal_(0, gain * module.weight.shape[0] ** -0.5)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0, 0.3)
        if name.rsplit(".", 1)[-1] == "experts":
            for parameter in module.parameters(recurse=False):
                if parameter.dim() == 3:
                    parameter.normal_(0, 32**-0.5)
    for name, parameter in model.named_parameters():
        if name.endswith("_scale") and not parameter.any():  # else what it scales would count for nothing
            parameter.fill_(1.0)


@dataclass(frozen=True)
class Kind:
    """A kind of model. make: a fresh model, the same each time.

    named: it is loaded by the name of a folder that it was saved to; otherwise the model itself is given. targets: as
    BoostConfig has them. before: changes the folder before it is loaded.
    """

    name: str
    make: Callable[[], nn.Module]
    encoder: bool = False
    named: bool = True
    targets: tuple[str, ...] | None = None
    before: Callable[[Path], None] | None = None


KINDS: dict[str, Kind] = {}


def add(kind: Kind) -> None:
    """Into the zoo; an encoder as "encoder NAME", since some kinds are both."""
    kind = replace(kind, name=f"encoder {kind.name}") if kind.encoder else kind
    assert kind.name not in KINDS, kind.name
    KINDS[kind.name] = kind


def language(name: str, kind: str = "", gain: float = 1.0, targets: tuple[str, ...] | None = None, **settings) -> None:
    """A language model of model type `kind`, by default `name`, with these settings on top of SMALL."""
    add(Kind(name, lambda: causal(kind or name, gain, **settings), targets=targets))


def causal(kind: str, gain: float = 1.0, **settings) -> nn.Module:
    """A language model of that model type."""
    return seeded(lambda: AutoModelForCausalLM.from_config(small(kind, **settings)), gain)


def encoder(name: str, kind: str = "", build=AutoModel.from_config, **settings) -> None:
    """An encoder for the protein tokenizer in tests/conftest.py, which has 25 tokens."""
    settings = {"vocab_size": 25, "pad_token_id": 0, **settings}
    add(Kind(name, lambda: seeded(lambda: build(small(kind or name, **settings))), encoder=True))


def given(name: str, make: Callable[[], nn.Module], encoder: bool = False) -> None:
    """A kind whose model is given as an object, as no folder brings it."""
    add(Kind(name, make, encoder=encoder, named=False))
