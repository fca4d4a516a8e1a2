"""What makes two calls the same run, and where and when a run was started.

Identity is model, data, adapter, trainer, evaluation and seed: a run directory is continued only by a call that agrees
in all of them. Free to change: more rounds, the number of processes, paths.
"""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from boostlib.adapter import AdapterConfig
from boostlib.basis import SVDBasis
from boostlib.common import world
from boostlib.common.errors import BoostError, RunError
from boostlib.common.settings import Count, Flag, Name, Names, Seed, checked
from boostlib.common.stable import fingerprint_json, fingerprint_tensors
from boostlib.evaluation.vllm import VLLM, require_vllm
from boostlib.records.ledger import Ledger
from boostlib.strategies.gate import Gate
from boostlib.strategies.greedy import Greedy
from boostlib.strategies.lora import LoRAConfig
from boostlib.tasks.base import Task, require_unique_ids

LAST_BITS = ("device", "threads", "capability", "torch", "numpy")  # of an environment: what may change them


@dataclass(frozen=True)
@checked
class BoostConfig:
    """Settings of a run beside those of the trainer.

    rounds: how many in all; may be raised later. lora: rounds of LoRA instead of `adapter`, which is then ignored.
    train_on: "failures", or "all" for TinyLoRA's way.
    held_out: splits scored after every round. targets: parts of the names of modules to adapt, such as "q_proj" or
    "vision_tower", default every linear layer of the language blocks (see common/targets.py).
    batch_size: prompts decoded together in evaluation. w0_device: where the copy of W0 is kept ("cpu" saves GPU memory
    and costs a transfer per fold); default: with the model. greedy: how strategy="greedy" chooses; the others ignore
    it. drafts: check the last round's completions in one forward pass each and decode only those that no longer stand
    (see evaluation/drafts.py); not for classifiers, which decode nothing. vllm: evaluate with vLLM (see
    evaluation/vllm.py), which replaces `drafts`; where it runs may change in a run.
    """

    rounds: Count = 20
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    seed: Seed = 0
    train_on: Literal["failures", "all"] = "failures"
    held_out: Names = ("test",)
    targets: Names | None = None
    batch_size: Count = 64
    w0_device: Name | None = None
    greedy: Greedy = field(default_factory=Greedy)
    drafts: Flag = False
    vllm: VLLM | None = None
    lora: LoRAConfig | None = None

    @property
    def learner(self) -> AdapterConfig | LoRAConfig:
        """The settings of every round's adapter."""
        return self.lora or self.adapter

    def __post_init__(self):
        if "train" in self.held_out or len(set(self.held_out)) < len(self.held_out):
            raise BoostError(
                f"BoostConfig(held_out={self.held_out!r}): splits that are scored beside the training split, each once"
            )
        if self.targets == ():
            raise BoostError("BoostConfig(targets=()): nothing would be trained; None adapts every linear layer")
        if self.w0_device is not None:
            try:
                torch.device(self.w0_device)
            except RuntimeError:
                raise BoostError(f'BoostConfig(w0_device={self.w0_device!r}): must be "cpu" or "cuda"') from None
            if self.w0_device.startswith("cuda") and not torch.cuda.is_available():
                raise BoostError(f"BoostConfig(w0_device={self.w0_device!r}): torch sees no GPU here; leave it out")
        if self.vllm:
            require_vllm(f"BoostConfig(vllm={self.vllm})")
        if self.vllm and self.drafts:
            raise BoostError("BoostConfig(vllm=..., drafts=True): vLLM decodes everything; use one of the two")
        if self.adapter.strategy == "greedy" and self.lora:
            raise BoostError(
                f"BoostConfig(lora={self.lora}): a greedy strategy chooses among TinyLoRA's blocks; use one of the two"
            )
        if self.adapter.strategy == "greedy" and self.rounds > self.adapter.blocks:
            raise BoostError(
                f"BoostConfig(rounds={self.rounds}): greedy takes a new block of directions every round, and there are "
                f"{self.adapter.blocks}: raise AdapterConfig(blocks=...)"
            )


def run_identity(
    model: nn.Module, task: Task, trainer, config: BoostConfig, gate: Gate | None = None
) -> dict[str, Any]:
    """Everything that two calls must share to continue one run; plain JSON."""
    config = gate.scoring(config) if gate else config
    splits = ("train", *config.held_out)
    identity = {
        "model": {
            "name": model.config.name_or_path,
            "dtype": str(model.dtype).removeprefix("torch."),
            "fingerprint": fingerprint_tensors(model.named_parameters()),
            **({"own_code": True} if has_own_code(model) else {}),
        },
        "task": task.settings(),
        "data": {split: data_hash(task, split) for split in splits},
        "adapter": config.learner.settings(),
        "trainer": trainer.settings(),
        "targets": list(config.targets) if config.targets else None,
        "train_on": config.train_on,
        "held_out": list(config.held_out),
        "batch_size": config.batch_size,
        "seed": config.seed,
        **({"gate": gate.settings()} if gate else {}),
        # only where they matter: runs recorded before there was a choice stay the runs they are
        **({"greedy": asdict(config.greedy)} if config.adapter.strategy == "greedy" else {}),
        **({"drafts": True} if config.drafts else {}),
        **({"vllm": True} if config.vllm else {}),
    }
    return json.loads(json.dumps(identity))  # as it will be read back: no tuples, string keys


def recorded_config(identity: dict[str, Any], rounds: int) -> BoostConfig:
    """What a run of that identity needs to be rebuilt: its rounds, at least one, and their learner."""
    adapter, rounds = identity["adapter"], max(rounds, 1)
    if adapter["strategy"] == "lora":
        return BoostConfig(rounds, lora=LoRAConfig(adapter["rank"]))
    return BoostConfig(rounds, AdapterConfig(**adapter))


def has_own_code(model: nn.Module) -> bool:
    """Whether the model, or the encoder that it holds, is of a class that came with its checkpoint."""
    return any(isinstance(part, PreTrainedModel) and part.is_remote_code() for part in model.modules())


def run_directory(name: str, identity: dict[str, Any], root: str | Path = "runs") -> Path:
    """`root/<name>-<hash of the identity>`: changed settings start a new run, the same ones continue the old."""
    return Path(root) / f"{name}-{fingerprint_json(identity)[:10]}"


def environment(device: torch.device) -> dict[str, str]:
    """Where and when: device, versions, threads and date."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    libraries = ("torch", "transformers", "trl", "numpy", "boostlib")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": f"{device.type}: {name}",
        "threads": str(torch.get_num_threads()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        **({"processes": str(world.size())} if world.size() > 1 else {}),
        "python": sys.version.split()[0],
        **{library: installed_version(library) for library in libraries},
    }


def circumstances(basis: SVDBasis, rank: int, device: torch.device) -> str:
    """A hash of what the last bits of a round depend on: its first `rank` directions, device, threads and versions."""
    where = environment(device)
    return fingerprint_json([basis.hash(rank), *(where[key] for key in LAST_BITS)])[:16]


def installed_version(library: str) -> str:
    """Its version, or "not installed"."""
    try:
        return version(library)
    except PackageNotFoundError:  # run from a clone without installing it
        return "not installed"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [li.split(":")[1].strip() for li in info.read_text().splitlines() if "model name" in li]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


def data_hash(task: Task, split: str) -> str:
    """SHA-256 of a split's ids, prompts and answers, as a run's identity holds it."""
    examples = require_unique_ids(task.split(split), f"task {task.name!r}, split {split!r}")
    return fingerprint_json([[e.id, e.prompt, e.answer] for e in examples])


def check_identity(ledger: Ledger, identity: dict[str, Any]) -> None:
    """Raises RunError, naming every difference, where the run is another one."""
    recorded = ledger.header["identity"]
    if "greedy" in recorded:  # two settings of before, which had no effect at 0
        kept = {key: value for key, value in recorded["greedy"].items() if key not in ("guard", "start") or value}
        recorded = {**recorded, "greedy": kept}
    differences = _differences(recorded, identity)
    if len(differences) == 1 and differences[0].startswith("model.fingerprint"):
        differences[0] += " (was this model boosted already? load it again)"
    if any(one.startswith("trainer.sampler was None") for one in differences):
        raise RunError(
            f"{ledger.dir} was begun with another sampler, torch's own, which depended on the batch: it stays as it is "
            "recorded and can be replayed, but not continued. Start anew in another run_dir"
        )
    if differences:
        raise RunError(
            f"{ledger.dir} holds a run with another identity: {'; '.join(differences)}. "
            "Use those settings to continue it, or another run_dir"
        )


def _differences(recorded: Any, given: Any, path: str = "") -> list[str]:
    if isinstance(recorded, dict) and isinstance(given, dict):
        keys: Sequence[str] = sorted(recorded.keys() | given.keys())
        return [d for k in keys for d in _differences(recorded.get(k), given.get(k), f"{path}.{k}" if path else k)]
    return [] if recorded == given else [f"{path} was {_short(recorded)}, is {_short(given)}"]


def _short(value: Any) -> str:
    return repr(value) if len(repr(value)) < 40 else repr(value)[:18] + "..."
