"""What surrounds the loop: a run's identity, its directory, and rebuilding any round from its ledger.

Identity is model, data, adapter, trainer, evaluation and seed: a run directory is continued only by a call that agrees
in all of them. Free to change: more rounds, the number of processes, paths.
"""

import logging
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.errors import BoostError, DataError, RunError
from boostlib.ledger import Ledger
from boostlib.models import load_model
from boostlib.rounds import Base, Round
from boostlib.stable import fingerprint_json, fingerprint_tensors
from boostlib.tasks.base import Task
from boostlib.update import LowRankUpdate, Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BoostConfig:
    """Settings of a run beside those of the trainer.

    rounds: how many in all; may be raised later. train_on: "failures", or "all" for TinyLoRA's way.
    held_out: splits scored after every round. targets: module names to adapt, default every linear of the blocks.
    batch_size: prompts decoded together in evaluation. w0_device: where the copy of W0 is kept ("cpu" saves GPU memory
    and costs a transfer per fold); default: with the model.
    """

    rounds: int = 20
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    seed: int = 0
    train_on: str = "failures"
    held_out: tuple[str, ...] = ("test",)
    targets: tuple[str, ...] | None = None
    batch_size: int = 64
    w0_device: str | None = None

    def __post_init__(self):
        if self.rounds < 1:
            raise BoostError(f"BoostConfig(rounds={self.rounds}): must be at least 1")
        if self.train_on not in ("failures", "all"):
            raise BoostError(f'BoostConfig(train_on={self.train_on!r}): must be "failures" or "all"')


@dataclass
class Run:
    """A run in progress or finished: the model holds W0 + `update`."""

    model: nn.Module
    ledger: Ledger
    config: BoostConfig
    basis: SVDBasis
    weights: Weights

    @property
    def rounds(self) -> list[Round]:
        """Finished rounds."""
        return self.ledger.rounds

    @property
    def base(self) -> Base:
        """The untrained model's scores."""
        return self.ledger.base

    @property
    def update(self) -> LowRankUpdate:
        """All merged rounds as one update."""
        return self.weights.update

    @property
    def dir(self) -> Path:
        """The run directory."""
        return self.ledger.dir

    def fingerprint(self) -> str:
        """SHA-256 of the target weights as the model holds them."""
        return fingerprint_tensors((name, module.weight) for name, module in self.weights.modules.items())


@contextmanager
def open_run(model: nn.Module, task: Task, trainer, config: BoostConfig, run_dir: str | Path) -> Iterator[Run]:
    """Start or continue the run in `run_dir`, holding its lock; the model ends up at the last recorded round.

    Raises RunError where the directory holds a run of another identity, is read-only or in use.
    """
    ledger = Ledger(run_dir)
    with ledger.locked():
        identity = run_identity(model, task, trainer, config)
        basis = SVDBasis.from_model(model, config.adapter.basis_rank(config.rounds), config.targets)
        if (ledger.dir / "run.json").exists():
            check_identity(ledger, identity)
        else:
            ledger.create({"identity": identity, "basis": _basis_record(basis), "environment": environment(model)})
        run = Run(model, ledger, config, basis, Weights(model, list(basis), config.w0_device))
        rounds = ledger.verify()
        run.weights.set(rebuild(ledger, basis, config.adapter, len(rounds)))
        _report_match(run, rounds)
        try:
            yield run
        except BaseException:  # whatever stopped a round, the model is left at the last recorded one
            run.weights.set(rebuild(ledger, basis, config.adapter, len(ledger.rounds)))
            raise


def rebuild(ledger: Ledger, basis: SVDBasis, adapter: AdapterConfig, count: int) -> LowRankUpdate:
    """The update of the first `count` rounds, from their recorded numbers and plans alone."""
    total = LowRankUpdate()
    for row in ledger.rounds[:count]:
        if row.merged:
            recorded = ledger.load_v(row.index)
            if recorded is None:
                raise RunError(f"{ledger.v_path(row.index)} is missing or damaged: round {row.index} cannot be rebuilt")
            one = TinyLoRA(basis, adapter, row.index, row.plan)
            one.v.data.copy_(recorded[0])
            total = total + one.update()
    return total


def replay(run_dir: str | Path, round: int | None = None, model: nn.Module | None = None) -> nn.Module:
    """The model after `round` (default: the last; -1: untrained), rebuilt from the ledger: W0 + rounds 0..round.

    model: the run's untrained model, where it cannot be loaded by its recorded name. Bit for bit where the basis,
    device type, versions and thread count are the run's (the log says so), else within 1e-5 relative.
    """
    ledger = Ledger(run_dir)
    identity, rounds = ledger.header["identity"], ledger.verify()
    last = len(rounds) - 1
    round = last if round is None else round
    if not -1 <= round <= last:
        raise RunError(f"{run_dir} has rounds 0 to {last} (-1: untrained), not {round}")
    if model is None:
        model, _ = load_model(identity["model"]["name"], dtype=identity["model"]["dtype"])
    if fingerprint_tensors(model.named_parameters()) != identity["model"]["fingerprint"]:
        raise RunError(f"this is not the model that {run_dir} started from: pass {identity['model']['name']}")
    if not isinstance(identity["adapter"], dict):
        raise RunError(f"{run_dir} is a full fine-tuning: its weights are not in the ledger and cannot be rebuilt")
    adapter = AdapterConfig(**identity["adapter"])
    basis = SVDBasis.from_model(model, adapter.basis_rank(max(last + 1, 1)), identity["targets"])
    config = BoostConfig(rounds=max(last + 1, 1), adapter=adapter)
    run = Run(model, ledger, config, basis, Weights(model, list(basis)))
    run.weights.set(rebuild(ledger, basis, adapter, round + 1))
    _report_match(run, rounds[: round + 1])
    return model


def run_identity(model: nn.Module, task: Task, trainer, config: BoostConfig) -> dict[str, Any]:
    """Everything that two calls must share to continue one run; plain JSON."""
    splits = ("train", *config.held_out)
    return {
        "model": {
            "name": model.config.name_or_path,
            "dtype": str(model.dtype).removeprefix("torch."),
            "fingerprint": fingerprint_tensors(model.named_parameters()),
        },
        "task": task.settings(),
        "data": {split: _data_hash(task, split) for split in splits},
        "adapter": asdict(config.adapter),
        "trainer": trainer.settings(),
        "targets": list(config.targets) if config.targets else None,
        "train_on": config.train_on,
        "held_out": list(config.held_out),
        "batch_size": config.batch_size,
        "seed": config.seed,
    }


def environment(model: nn.Module) -> dict[str, str]:
    """Where and when: device, versions, threads and date."""
    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    libraries = ("torch", "transformers", "trl", "numpy", "boostlib")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": f"{device.type}: {name}",
        "threads": str(torch.get_num_threads()),
        "python": sys.version.split()[0],
        **{library: version(library) for library in libraries},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [li.split(":")[1].strip() for li in info.read_text().splitlines() if "model name" in li]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


def _data_hash(task: Task, split: str) -> str:
    examples = task.split(split)
    ids: set[str] = set()
    for example in examples:
        if example.id in ids:
            raise DataError(f"task {task.name!r}, split {split!r}: id {example.id!r} occurs twice; ids must be unique")
        ids.add(example.id)
    return fingerprint_json([[e.id, e.prompt, e.answer] for e in examples])


def _basis_record(basis: SVDBasis) -> dict[str, Any]:
    return {"rank": basis.rank, "hash": basis.hash(basis.rank)}


def check_identity(ledger: Ledger, identity: dict[str, Any]) -> None:
    """Raises RunError, naming every difference, where the run is another one."""
    recorded = ledger.header["identity"]
    differences = _differences(recorded, identity)
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


def _report_match(run: Run, rounds: Sequence[Round]) -> None:
    recorded = run.ledger.header["basis"]
    rank = min(recorded["rank"], run.basis.rank)
    if rank == recorded["rank"] and run.basis.hash(rank) != recorded["hash"]:
        log.warning(
            "%s: the basis found here differs in its last bits from the run's; rounds agree within 1e-5", run.dir
        )
    if rounds and run.fingerprint() != rounds[-1].weights_fingerprint:
        log.warning(
            "%s: round %d rebuilt, but not bit for bit (other device, versions or threads)", run.dir, len(rounds) - 1
        )
    elif rounds:
        log.info("%s: round %d rebuilt bit for bit", run.dir, len(rounds) - 1)
