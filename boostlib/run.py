"""A run's directory and model: opening it, leaving it whole, and rebuilding any round from its ledger."""

import logging
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.classifier import HEAD_FILE, SequenceClassifier, load_classifier
from boostlib.errors import RunError
from boostlib.gate import Gate
from boostlib.identity import BoostConfig, check_identity, environment, run_identity
from boostlib.ledger import Ledger
from boostlib.models import load_model
from boostlib.rounds import Base, Round
from boostlib.stable import fingerprint_tensors
from boostlib.tasks.base import Task
from boostlib.update import LowRankUpdate, Weights

log = logging.getLogger(__name__)

# W0 of models that a finished run still holds, so that the same call on the same model finds its way back to it
_HELD: WeakKeyDictionary[nn.Module, weakref.ref[Weights]] = WeakKeyDictionary()


@dataclass
class Run:
    """A run in progress or finished: the model holds W0 + `update`."""

    model: nn.Module
    ledger: Ledger
    config: BoostConfig
    basis: SVDBasis
    weights: Weights
    gate: Gate | None = None

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
def open_run(
    model: nn.Module, task: Task, trainer, config: BoostConfig, run_dir: str | Path, gate: Gate | None = None
) -> Iterator[Run]:
    """Start or continue the run in `run_dir`, holding its lock; the model ends up at the last recorded round.

    Whatever stops a round (Ctrl-C, an error) leaves the model as it was given, so that the same call continues the run.
    Raises RunError where the directory holds a run of another identity, is read-only or in use.
    """
    ledger = Ledger(run_dir)
    with ledger.locked():
        identity = run_identity(model, task, trainer, config, gate)
        rounds = ledger.verify()
        started = (ledger.dir / "run.json").exists() or ledger.path.exists()  # a ledger without run.json is an error
        if started:
            identity = _back_to_w0(model, ledger, identity)
            check_identity(ledger, identity)
        basis = SVDBasis.from_model(model, config.adapter.basis_rank(max(config.rounds, len(rounds))), config.targets)
        if not started:
            if isinstance(model, SequenceClassifier):
                model.save_head(ledger.dir)  # trained for this run: replay cannot load it by the model's name
            ledger.create(
                {"identity": identity, "basis": _basis_record(basis), "environment": environment(model.device)}
            )
        run = Run(model, ledger, config, basis, Weights(model, list(basis), config.w0_device), gate)
        run.weights.set(rebuild(ledger, basis, config.adapter, len(rounds)))
        _report_match(run, rounds)
        _HELD[model] = weakref.ref(run.weights)
        try:
            yield run
        except BaseException:
            run.weights.set(LowRankUpdate())
            raise


def _back_to_w0(model: nn.Module, ledger: Ledger, identity: dict[str, Any]) -> dict[str, Any]:
    """The identity of `model`, put back to W0 where it is this very run that moved it away from there."""
    wanted = ledger.header["identity"]["model"]["fingerprint"]
    held = _HELD[model]() if model in _HELD else None
    if held is None or identity["model"]["fingerprint"] == wanted:
        return identity
    present = held.update
    held.set(LowRankUpdate())
    found = fingerprint_tensors(model.named_parameters())
    if found != wanted:
        held.set(present)
        return identity
    return {**identity, "model": {**identity["model"], "fingerprint": found}}


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
        model, _ = load_recorded(ledger)
    elif isinstance(model, SequenceClassifier):
        model.load_head(ledger.dir)
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


def load_recorded(ledger: Ledger):
    """(model, tokenizer) that a run started from, by its recorded name; a classifier with the run's head."""
    name, dtype = (ledger.header["identity"]["model"][key] for key in ("name", "dtype"))
    if not (ledger.dir / HEAD_FILE).is_file():
        return load_model(name, dtype=dtype)
    model, tokenizer = load_classifier(name, dtype=dtype)
    model.load_head(ledger.dir)
    return model, tokenizer


def _basis_record(basis: SVDBasis) -> dict[str, Any]:
    return {"rank": basis.rank, "hash": basis.hash(basis.rank)}


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
