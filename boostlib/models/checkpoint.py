"""What a checkpoint must be: judged by its config, before any weights are fetched, and by what loading says of them.

transformers loads nearly everything and warns: it fills missing weights at random, reads a masked model as a causal one
that sees its own answer, and keeps quantised weights as codes. None of these can be boosted, so each is one ModelError
here, with the remedy. What loading reports is judged so:

    missing        a weight of the model that the checkpoint lacks: it would be random. Tied weights are not missing
    mismatched     a weight of another shape
    left over      weights of the checkpoint that the model has no place for. Heads and poolers that are not wanted are
                   harmless; a further block of a kind that the model has means that config.json cuts the model short
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from boostlib.common.errors import ModelError

BOTH_WAYS = ("xlnet", "cpmant", "bert-generation")  # of transformers' causal models, those that see both sides
T5_KIN = ("T5", "MT5", "UMT5", "LongT5", "SwitchTransformers")  # whose encoder has a class of its own
UNQUANTISED = "use an unquantised checkpoint of the same model"
DEQUANTISED = {  # what transformers unpacks while it loads
    "mxfp4": "Mxfp4Config(dequantize=True)",
    "fp8": "FineGrainedFP8Config(dequantize=True)",
}


def refusal(config: PretrainedConfig, generates: bool) -> str:
    """Why a model of this config is neither loaded as a language model nor (generates=False) as an encoder; else ""."""
    kind, method = config.model_type, quantisation(config)
    if method:
        how = DEQUANTISED.get(method)
        unpacked = f", or load it with transformers and quantization_config={how} and pass that model" if how else ""
        codes = f"is quantised ({method}): its weights are codes, which have no singular directions"
        return f"{codes}; {UNQUANTISED}{unpacked}"
    if getattr(config, "attention_type", "") == "block_sparse":
        return f'draws at random what it attends to ({kind}): set attention_type to "original_full" in config.json'
    if not generates:
        return _no_encoder(config, kind)
    if config.is_encoder_decoder:
        also = "; its encoder alone loads with load_classifier" if encoder_class(config) is not AutoModel else ""
        return f"is an encoder-decoder model ({kind}), not a language model of one stack such as Llama or Qwen{also}"
    if _sees_both_sides(config):
        return f"is no causal language model ({kind}): it sees what follows: use load_classifier"
    own_code = getattr(config, "auto_map", None) or {}
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in own_code:
        return (
            f"is of a kind ({kind}) that transformers does not load as a language model: use the "
            "checkpoint of its text model, or load it with its own class and pass the model"
        )
    return ""


def _no_encoder(config: PretrainedConfig, kind: str) -> str:
    if config.is_encoder_decoder and encoder_class(config) is AutoModel:
        return f"is an encoder-decoder model ({kind}) whose encoder transformers does not load alone: use an encoder"
    if getattr(config, "is_decoder", False) or (
        type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not _sees_both_sides(config)
    ):
        return (
            f"is a causal language model ({kind}): its state of a residue knows nothing of what follows. Use an "
            "encoder, or load_model for tasks that ask for texts"
        )
    return ""


def _sees_both_sides(config: PretrainedConfig) -> bool:
    """Whether a state depends on what follows. BERT's kin say by `is_decoder` that it does not, XLM by `causal`."""
    one_sided = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    return (type(config) in MODEL_FOR_MASKED_LM_MAPPING or config.model_type in BOTH_WAYS) and not one_sided


def quantisation(config: PretrainedConfig) -> str:
    """The method by which a checkpoint was quantised, also one of its parts; "" where it was not."""
    parts = [config, *(getattr(config, name) for name in getattr(config, "sub_configs", {}))]
    found = [settings for part in parts if (settings := getattr(part, "quantization_config", None))]
    if not found:
        return ""
    method = found[0].get("quant_method") if isinstance(found[0], dict) else getattr(found[0], "quant_method", None)
    return str(getattr(method, "value", method) or "by a method that config.json does not name")


def encoder_class(config: PretrainedConfig) -> type:
    """What loads an encoder: of T5 and its kin the class of the encoder alone, else AutoModel."""
    name = type(config).__name__.removesuffix("Config")
    return getattr(transformers, f"{name}EncoderModel", AutoModel) if name in T5_KIN else AutoModel


def require_no_lora(source: str) -> None:
    """Raises ModelError for a folder with a LoRA, which transformers would put on its base without being asked."""
    if (Path(source) / "adapter_config.json").is_file():
        raise ModelError(
            f"{source} holds a LoRA, not a plain model: merge it first (PEFT's merge_and_unload), save that model, and "
            "load it; or give its base model"
        )


def load_whole(loader: Any, source: str, **settings) -> tuple[PreTrainedModel, set[str]]:
    """(model, names of its weights that the checkpoint lacks) from `loader.from_pretrained`.

    Raises ModelError where weights have other shapes, or where the checkpoint has further blocks.
    """
    # sizes that differ are not ignored: they are named below, where transformers' error would not
    model, report = loader.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **settings)
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"{source}: {name} is {tuple(found)} in the checkpoint, where config.json asks for {tuple(wanted)}: the "
            "two do not belong together; restore the folder from a good copy"
        )
    further = further_blocks(report["unexpected_keys"], model)
    if further:
        raise ModelError(
            f"{source}: the checkpoint has more blocks than config.json asks for, among them {further[0]}: the model "
            "would be cut short; restore config.json"
        )
    return model, set(report["missing_keys"])


def further_blocks(left_over: Iterable[str], model: nn.Module) -> list[str]:
    """Those of the weights without a place that differ from one of the model's by the number of a block alone.

    Blocks that predict tokens further ahead (DeepSeek's, GLM's) have parts of their own and are left out on purpose.
    """
    known = {_numberless(name) for name, _ in model.named_parameters()}
    numbered = {name: match[0] for name in left_over if (match := re.match(r".*?\.\d+\.", name))}
    ahead = {block for name, block in numbered.items() if re.search(r"\.(eh_proj|enorm|hnorm|shared_head)\.", name)}
    return sorted(name for name, block in numbered.items() if block not in ahead and _numberless(name) in known)


def _numberless(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", name)


def require_none_missing(missing: Iterable[str], source: str) -> None:
    """Raises ModelError where weights would be random."""
    names = sorted(missing)
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise ModelError(
            f"{source}: the checkpoint lacks {shown}, which would be filled at random. It is incomplete, of another "
            "class, or its weights have other names: give a whole checkpoint of this model"
        )


def used_of(missing: Iterable[str], encoder: nn.Module, states: Callable[[], torch.Tensor]) -> list[str]:
    """Those of `missing` weights that the encoder still has and that `states()`, a pass of it, is made of.

    A head or a pooler that is never read may be missing; what cannot be told from a gradient counts as read.
    """
    present = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    names = [name for name in missing if name in present]
    trainable = [name for name in names if present[name].requires_grad]
    if not trainable:
        return names
    with torch.enable_grad():
        found = torch.autograd.grad(states().sum(), [present[name] for name in trainable], allow_unused=True)
    unread = {name for name, gradient in zip(trainable, found, strict=True) if gradient is None}
    return [name for name in names if name not in unread]


def require_fitting(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Raises ModelError where the tokenizer has tokens that the model has no embedding for.

    Special tokens that nothing here writes, such as the place of an image, may lie beyond.
    """
    try:
        rows = model.get_input_embeddings().weight.shape[0]
    except (NotImplementedError, AttributeError):  # a model that reads bytes, or has a table of another kind
        return
    used = {"end": tokenizer.eos_token_id, "padding": tokenizer.pad_token_id, "first": tokenizer.bos_token_id}
    used |= {"class": tokenizer.cls_token_id, "separating": tokenizer.sep_token_id}
    beyond = [f"the {what} token" for what, index in used.items() if index is not None and index >= rows]
    if not beyond and len(tokenizer) > rows:
        added = tokenizer.added_tokens_decoder
        plain = {text: i for text, i in tokenizer.get_vocab().items() if not (i in added and added[i].special)}
        beyond = [repr(text) for text, i in plain.items() if i >= rows]
    if beyond:
        raise ModelError(
            f"the tokenizer of {name!r} does not fit its model: {beyond[0]} lies beyond the {rows} tokens that the "
            f"model has embeddings for ({len(tokenizer)} tokens in all). Take the model's own tokenizer, or resize its "
            "embeddings and save both"
        )
