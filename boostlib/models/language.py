"""Language models by name: one loader for the embedded model, a local folder and the hub.

    name -> an embedded model whose package is installed -> a local folder -> the hub -> one ModelError with the remedy

Departures from a plain `from_pretrained`, and why:
- `dtype="auto"` asks the machine, not the checkpoint: bf16 where the hardware computes in it, else fp32. On a CPU
  without AMX or AVX512-BF16 a bf16 linear was measured ten times slower than an fp32 one (19 against 183 GFLOPS).
- fp16 is not offered: its range is narrower than bf16's, and nothing here needs it.
- `model.config._name_or_path` is `name` as given, not the folder in a cache that the weights came from: a run records
  it and `replay` loads by it, on another machine too.
- Padding is on the left, as generation needs.
- On a CPU in fp32 the weights of linear layers lie column by column: see `lay_for_decoding`.
- What cannot be boosted is refused: see `checkpoint.py`.
- Code that comes with a checkpoint is run where `trust_remote_code=True` asks for it, and never because a record says
  so: to replay a run of such a model, load it and pass it.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from boostlib.common.errors import BoostError, ModelError, explain_oom
from boostlib.common.settings import AnyPath, Flag, checks, valid
from boostlib.models.checkpoint import load_whole, refusal, require_fitting, require_no_lora, require_none_missing
from boostlib.models.embedded import EMBEDDED, FETCH, convert, embedded_names, installed_weights

DTYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "float32": torch.float32,
}


@checks
def load_model(
    name: str,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    trust_remote_code: Flag = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer called `name`: "smollm2", a local folder or a hub id. In eval mode, on `device`.

    dtype: "auto", "bf16" or "fp32". device: "auto", "cpu", "cuda" or "cuda:1". trust_remote_code: run the code that
    comes with the checkpoint, where it needs any. Raises ModelError, with the remedy, where nothing loads by that name
    or it is no whole, unquantised, causal language model.
    """
    name, place = model_name(name), chosen_device(device)
    precision = chosen_dtype(dtype, place)
    source = kind_source(name, generates=True)
    judged_config(name, source, generates=True, trust_remote_code=trust_remote_code)
    with loading(name):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        with explain_oom("the size of the model or its dtype", f"{name} in {precision}"):
            settings = {"dtype": precision, "trust_remote_code": trust_remote_code}
            model, missing = load_whole(AutoModelForCausalLM, source, **settings)
            require_none_missing(missing, name)
            model = model.to(place).eval()
            lay_for_decoding(model)
    model.config._name_or_path = model.name_or_path = name
    tokenizer = _ready(tokenizer, name, getattr(model.generation_config, "eos_token_id", None))
    require_fitting(tokenizer, model, name)
    return model, tokenizer


def lay_for_decoding(model: PreTrainedModel) -> None:
    """Let the weights of linear layers in fp32 on a CPU lie column by column: same values, same shapes, other strides.

    A product of few rows is then 1.2 to 2 times as fast (64 to 8 rows, torch 2.13 with MKL), one of many rows as fast
    as before, and decoding is products of few rows. The head stays: it gains nothing, and may be the embedding. So do
    weights that several modules share: transformers saves them by rows alone.
    """
    head = model.get_output_embeddings()
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head and uses[id(module.weight)] == 1:
            weight = module.weight
            if (weight.device.type, weight.dtype) == ("cpu", torch.float32):
                weight.data = weight.data.T.contiguous().T


def load_config(name: str, generates: bool = True, trust_remote_code: bool = False) -> PretrainedConfig:
    """The config of `name`, without its weights. generates: as a language model, else as an encoder.

    Raises ModelError where `load_model` or `load_classifier` would, as far as a config tells.
    """
    name = model_name(name)
    return judged_config(name, kind_source(name, generates), generates, trust_remote_code)


def judged_config(name: str, source: str, generates: bool, trust_remote_code: bool) -> PretrainedConfig:
    """`load_config`, where it is known already what `from_pretrained` is given."""
    require_no_lora(source)
    with loading(name, generates):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    why = refusal(config, generates)
    if why:
        raise ModelError(f"{name!r} {why}")
    return config


def kind_source(name: str, generates: bool) -> str:
    """`weights_source`. Raises ModelError where `name` is an embedded model of the other kind."""
    if name in EMBEDDED and EMBEDDED[name].generates != generates:
        raise ModelError(
            f"{name!r} is an encoder, not a language model: use load_classifier({name!r})"
            if generates
            else f"{name!r} is a language model, not an encoder: use load_model({name!r}), or 'antiberty' here"
        )
    return weights_source(name)


def load_tokenizer(name: str, generates: bool = True, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer alone of the language model `name`, or (generates=False) of an encoder.

    Raises ModelError as `load_model` does.
    """
    with loading(name, generates):
        source = weights_source(model_name(name))
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        if not generates:
            return tokenizer
        ends = None
        if tokenizer.eos_token_id is None:  # as in a model, whose settings come from its config where they have no file
            try:
                ends = GenerationConfig.from_pretrained(source).eos_token_id
            except OSError:
                config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
                ends = config.get_text_config().eos_token_id
        return _ready(tokenizer, name, ends)


@contextlib.contextmanager
def loading(name: str, generates: bool = True) -> Iterator[None]:
    """Inside, whatever a damaged folder raises, which is dozens of types, is one ModelError: nothing loads from it."""
    try:
        yield
    except BoostError:
        raise
    except Exception as error:
        raise ModelError(load_error(name, error, generates)) from error


def _ready(tokenizer: PreTrainedTokenizerBase, name: str, ends: int | list[int] | None) -> PreTrainedTokenizerBase:
    """With an end token, a padding token, and padding on the left, as generation needs.

    ends: the model's own end tokens, for a tokenizer that names none. Without a padding token the end is padded with:
    padding is masked. Raises ModelError where no end is known.
    """
    if tokenizer.eos_token_id is None:
        first = ends[0] if isinstance(ends, list) else ends
        tokenizer.eos_token = None if first is None else tokenizer.convert_ids_to_tokens(first)
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"neither the tokenizer nor the generation_config.json of {name!r} names an end token, so that no text "
                'would ever end: save its tokenizer with one (tokenizer.eos_token = "...")'
            )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def default_device() -> torch.device:
    """The GPU of this process where there is one (several processes: one GPU each), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 where `device` computes in it at full speed, else fp32.

    A CPU does so with AMX alone: on one with AVX512-BF16, torch 2.13's bf16 linears ran at 0.5-0.7 of fp32's speed.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # a private function: absent on some builds, and then the answer is no
        fast = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32


def chosen_device(device: str | torch.device) -> torch.device:
    """The device that `device` stands for; "auto": the GPU where there is one."""
    if device == "auto":
        return default_device()
    kind = str(device).split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ModelError(f'device {str(device)!r} is not supported: use "auto", "cpu" or "cuda"')
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f'device {str(device)!r}: torch {torch.__version__} sees no GPU here, use "auto" or "cpu"')
    try:
        return torch.device(device)
    except RuntimeError:
        raise ModelError(f'device {str(device)!r} is not supported: use "auto", "cpu", "cuda" or "cuda:1"') from None


def chosen_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that `dtype` stands for on `device`; "auto": see `default_dtype`."""
    if dtype == "auto":
        return default_dtype(device)
    chosen = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise ModelError(f'dtype {str(dtype)!r} is not supported: use "auto", "bf16" or "fp32"')
    return chosen


def model_name(name: str | os.PathLike) -> str:
    """`name` as text. Raises BoostError where it is no name or path, or empty."""
    name = str(valid("load_model(", name, AnyPath))
    if not name.strip() or "\0" in name:
        raise ModelError(f"{name!r} names no model: give an embedded name such as 'smollm2', a folder or a hub id")
    return name


def weights_source(name: str) -> str:
    """What `from_pretrained` is given for `name`."""
    folder = Path(name).expanduser()
    if name in EMBEDDED and (installed_weights(name) is not None or not folder.is_dir()):
        return str(convert(name))
    return str(folder) if folder.is_dir() else name


def load_error(name: str, error: Exception, generates: bool) -> str:
    """What to tell a user when `name` does not load as a language model, or (generates=False) as an encoder."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if "trust_remote_code" in str(error):
        loader = "load_model" if generates else "load_classifier"
        return (
            f"{name!r} comes with code of its own, which is not run unasked: read it, and if you trust it, call "
            f"{loader}({name!r}, trust_remote_code=True). A run of it is replayed and exported by passing model="
        )
    if Path(name).expanduser().is_dir():
        return f"no model loads from the folder {name!r}, which needs config.json, weights and a tokenizer: {reason}"
    embedded = embedded_names(generates)
    return (
        f"model {name!r} is not embedded ({', '.join(embedded)}), not a local folder, and the hub does not give it: "
        f"{reason} Check the name; without the hub, give the folder of a downloaded copy, "
        f"or use {embedded[0]!r} (`{FETCH}` installs it)"
    )
