"""A run's directory and model: opening it, leaving it whole, and rebuilding any round from its ledger."""

import logging
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from boostlib.adapter import AdapterConfig
from boostlib.basis import SVDBasis
from boostlib.common import world
from boostlib.common.errors import ModelError, RunError
from boostlib.common.settings import valid
from boostlib.common.stable import fingerprint_tensors
from boostlib.common.targets import coverage, require_plain, target_modules
from boostlib.config import (
    LAST_BITS,
    BoostConfig,
    check_identity,
    circumstances,
    environment,
    recorded_config,
    run_identity,
)
from boostlib.evaluation.decode import Decoder
from boostlib.models.agreement import require_agreement
from boostlib.models.classifier import HEAD_FILE, SequenceClassifier, load_classifier
from boostlib.models.language import DTYPES, load_model
from boostlib.models.subject import Subject
from boostlib.records.bundle import Bundle, open_record
from boostlib.records.ledger import Ledger
from boostlib.records.progress import Progress
from boostlib.records.rows import Base, Round
from boostlib.records.shared import record_of
from boostlib.records.sketch import TOLERANCE, wrong_group
from boostlib.strategies.choices import Adapter, Choices, choices
from boostlib.strategies.gate import Gate
from boostlib.strategies.lora import LoRAConfig
from boostlib.update import LowRankUpdate, Weights

log = logging.getLogger(__name__)

WELL_COVERED = 0.95  # share of the blocks' numbers above which the rest, convolutions and the like, is not worth a word

# W0 of models that a finished run still holds, so that the same call on the same model finds its way back to it
_HELD: WeakKeyDictionary[nn.Module, weakref.ref[Weights]] = WeakKeyDictionary()


@dataclass
class Run(Subject):
    """A run, in progress or finished: the model holds W0 + `update`. Made without a record; `open_run` gives it one."""

    trainer: Any
    config: BoostConfig
    gate: Gate | None = None
    ledger: Ledger = field(init=False)
    basis: SVDBasis = field(init=False)
    weights: Weights = field(init=False)
    choices: Choices = field(init=False)
    progress: Progress = field(init=False)

    def __post_init__(self):
        self.config = self.gate.scoring(self.config) if self.gate else self.config
        self.choices = choices(self.config, self.gate)

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
    def decoder(self) -> Decoder:
        """How its evaluations complete texts."""
        return self.choices.decoder

    @property
    def dir(self) -> Path:
        """The run directory."""
        return self.ledger.dir

    def fingerprint(self) -> str:
        """SHA-256 of the target weights as the model holds them."""
        return fingerprint_tensors((name, module.weight) for name, module in self.weights.modules.items())

    def identity(self) -> dict[str, Any]:
        """What the same call must share to continue this run, with the model as it stands."""
        return run_identity(self.model, self.task, self.trainer, self.config, self.gate)


@contextmanager
def open_run(run: Run, run_dir: str | Path, progress: bool = True) -> Iterator[Run]:
    """Start or continue the run in `run_dir`, holding its lock; the model ends up at the last recorded round.

    Whatever stops a round (Ctrl-C, an error) leaves the model as it was given, so that the same call continues the run.
    Raises RunError where the directory holds a run of another identity, is read-only or in use.
    """
    model, config = run.model, run.config
    require_plain(model, target_modules(model, config.targets))  # before anything is read of the model, or written
    if model.dtype not in DTYPES.values():
        dtype = str(model.dtype).removeprefix("torch.")
        raise ModelError(
            f"{type(model).__name__} is in {dtype}, in which `replay` cannot load it again: load it in bf16 or fp32"
        )
    world.require_whole_models(model.device)
    run.ledger = ledger = record_of(run_dir)
    with ledger.locked():
        identity = run.identity()
        world.require_agreement("what is run", identity)
        rounds = ledger.verify()
        started = ledger.started  # a ledger without run.json is an error
        if started:
            identity = _back_to_w0(model, ledger, identity)
            check_identity(ledger, identity)
        with world.main_first():
            run.basis = config.learner.basis(model, max(config.rounds, len(rounds)), config.targets)
        if world.size() > 1:
            world.require_agreement("the basis", _basis_record(run.basis))
        if len(rounds) < config.rounds:
            require_agreement(model, run.basis, named=config.targets is not None)
            _say_coverage(run)
        if not started:
            if isinstance(model, SequenceClassifier):  # trained for this run: replay cannot load it by the model's name
                world.on_main(lambda: model.save_head(ledger.dir))
            ledger.create(
                {"identity": identity, "basis": _basis_record(run.basis), "environment": environment(model.device)}
            )
        run.weights = Weights(model, list(run.basis), config.w0_device)
        run.weights.set(rebuild(ledger, run.basis, config.learner, len(rounds)))
        _require_match(run, rounds)
        _HELD[model] = weakref.ref(run.weights)
        run.progress = Progress(config.rounds, len(rounds), progress)
        run.on_step = run.progress.step
        try:
            yield run
        except BaseException as error:
            run.weights.set(LowRankUpdate())
            if isinstance(error, KeyboardInterrupt):
                done = f"stopped after {len(run.rounds)} of {config.rounds} rounds"
                log.warning("%s: the same call continues %s", done, run.dir)
            raise
        finally:
            run.progress.close()


def _say_coverage(run: Run) -> None:
    """A warning where much of the blocks is left as it is, and nobody asked for that with `targets`."""
    covered = coverage(run.model)
    if run.config.targets is None and covered.share < WELL_COVERED:
        log.warning("%s: only %s", type(run.model).__name__, covered)


def _back_to_w0(model: nn.Module, ledger: Ledger, identity: dict[str, Any]) -> dict[str, Any]:
    """The identity of `model`, put back to W0 where it is this very run that moved it away from there."""
    wanted = ledger.header["identity"]["model"]["fingerprint"]
    held = _held(model)
    if held is None or identity["model"]["fingerprint"] == wanted:
        return identity
    present = held.update
    held.set(LowRankUpdate())
    found = fingerprint_tensors(model.named_parameters())
    if found != wanted:
        held.set(present)
        return identity
    return {**identity, "model": {**identity["model"], "fingerprint": found}}


def rebuild(ledger: Ledger, basis: SVDBasis, learner: AdapterConfig | LoRAConfig, count: int) -> LowRankUpdate:
    """The update of the first `count` rounds, from their recorded numbers and plans alone."""
    rounds = rebuilt_rounds(ledger, basis, learner, count)
    return sum((one.update() for one in rounds), start=LowRankUpdate())


def rebuilt_rounds(
    ledger: Ledger, basis: SVDBasis, learner: AdapterConfig | LoRAConfig, count: int
) -> Iterator[Adapter]:
    """The adapter of each merged round among the first `count`, with its numbers; the others add nothing.

    Every round is compared with its sketch, or, where it was recorded without one, with its norm: raises RunError where
    one was rebuilt wrongly.
    """
    for row in ledger.rounds[:count]:
        if row.merged:
            recorded = ledger.load_numbers(row.index)
            if recorded is None:
                raise RunError(f"{ledger.v_path(row.index)} is missing or damaged: round {row.index} cannot be rebuilt")
            one = learner.adapter(basis, row.index, row.plan)
            if not one.restore(recorded[0]):
                found = ", ".join(f"{name} {tuple(numbers.shape)}" for name, numbers in list(recorded[0].items())[:2])
                raise RunError(
                    f"{ledger.v_path(row.index)} holds numbers of other shapes ({found}) than run.json asks for "
                    f"({learner}): one of them was changed; restore it"
                )
            _require_as_recorded(ledger, row, one)
            yield one


def _require_as_recorded(ledger: Ledger, row: Round, one: Adapter) -> None:
    update, recorded = one.update(), ledger.sketch(row)
    if recorded is not None:
        group = wrong_group(update, one.groups(), recorded)
        found = None if group is None else f"group {group} of tied modules does not match its sketch"
    else:  # recorded before rounds had one
        norm = update.norm()
        same = abs(norm - row.adapter_norm) <= TOLERANCE * row.adapter_norm
        found = None if same else f"its norm is {norm:.6g}, and was {row.adapter_norm:.6g}"
    if found:
        versions = ", ".join(f"{key} {ledger.header.get('environment', {}).get(key)}" for key in LAST_BITS)
        raise RunError(
            f"{ledger.dir}: round {row.index} was rebuilt wrongly ({found}). Was run.json edited? If not, clear the "
            f"cache of bases (`<cache>/basis`), and use what the run records: {versions}"
        )


def each_round(run: Run) -> Iterator[Round]:
    """Every recorded round in turn, with the model at W0 + rounds 0..that one while it is looked at."""
    adapters = rebuilt_rounds(run.ledger, run.basis, run.config.learner, len(run.rounds))
    rebuilt, total = {one.round: one.update() for one in adapters}, LowRankUpdate()
    for row in run.rounds:
        total = total + rebuilt.get(row.index, LowRankUpdate())
        run.weights.set(total)
        yield row


def replay(run_dir: str | Path, round: int | None = None, model: nn.Module | None = None) -> nn.Module:
    """The model after `round` (default: the last; -1: untrained), rebuilt from the ledger: W0 + rounds 0..round.

    run_dir: a run's directory, or a bundle. model: the run's untrained model, where it cannot be loaded by its recorded
    name, or the model that `boost` gave back: it goes back to W0 first. Bit for bit where the basis, device type,
    versions and thread count are the run's (the log says so), else within 1e-5 relative.
    """
    return replay_run(open_record(run_dir), round, model).model


def replay_run(ledger: Ledger, round: int | None = None, model: nn.Module | None = None) -> Run:
    """`replay`, with all that a run has: its update and its basis are what exports are made of."""
    identity, rounds = ledger.header["identity"], ledger.verify()
    count = rounds_until(ledger, round)
    if not isinstance(identity["adapter"], dict):
        raise RunError(
            f"{ledger.dir} trained {identity['adapter']}: its numbers are not in the ledger, so it cannot be rebuilt"
        )
    model = load_recorded(ledger)[0] if model is None else given_model(model, ledger)
    config = recorded_config(identity, len(rounds))
    basis = config.learner.basis(model, config.rounds, identity["targets"])
    held = _held(model)
    weights = held if held and list(held.modules) == list(basis) else Weights(model, list(basis))
    run = Run(model, None, None, None, config)
    run.ledger, run.basis, run.weights = ledger, basis, weights
    run.weights.set(rebuild(ledger, basis, config.learner, count))
    _HELD[model] = weakref.ref(run.weights)  # whoever keeps the run can roll its model back in place
    _require_match(run, rounds[:count])
    return run


def rounds_until(ledger: Ledger, round: int | None) -> int:
    """How many rounds there are up to `round` (None: the last; -1: none). Raises RunError where it does not exist."""
    last = len(ledger.rounds) - 1
    round = last if round is None else valid("replay(round=", round, int)
    if not -1 <= round <= last:
        raise RunError(f"{ledger.dir} has rounds 0 to {last} (-1: untrained), not {round}")
    return round + 1


def load_recorded(ledger: Ledger):
    """(model, tokenizer) that a run started from, by its recorded name; a classifier with the run's head."""
    recorded = ledger.header["identity"]["model"]
    name, dtype = recorded["name"], recorded["dtype"]
    if recorded.get("own_code"):
        raise RunError(
            f"{ledger.dir} was made with code that came with {name!r}, which a record must not run: load it with "
            "trust_remote_code=True, and pass it as model="
        )
    classifier = has_head(ledger)
    model, tokenizer = (load_classifier if classifier else load_model)(name, dtype=dtype)
    return given_model(model, ledger), tokenizer


def has_head(ledger: Ledger) -> bool:
    """Whether the run is of a classifier, whose head was trained for it."""
    return bool(ledger.head()) if isinstance(ledger, Bundle) else (ledger.dir / HEAD_FILE).is_file()


def given_model(model: nn.Module, ledger: Ledger) -> nn.Module:
    """`model` at W0, with the run's head. Raises RunError, by its fingerprint, where the run began with another one."""
    if isinstance(model, SequenceClassifier):
        if isinstance(ledger, Bundle):
            model.set_head(ledger.head() or {}, ledger.path)
        else:
            model.load_head(ledger.dir)
    wanted = ledger.header["identity"]["model"]
    held = _held(model)
    present = held.update if held else None
    if held:
        held.set(LowRankUpdate())
    found = fingerprint_tensors(model.named_parameters())
    if found != wanted["fingerprint"]:
        if held:
            held.set(present)
        raise RunError(
            f"this is not the model that {ledger.dir} started from (its fingerprint is {found[:12]}, the run's "
            f"{wanted['fingerprint'][:12]}): pass {wanted['name']} in {wanted['dtype']}, untrained"
        )
    return model


def _held(model: nn.Module) -> Weights | None:
    return _HELD[model]() if model in _HELD else None


def _basis_record(basis: SVDBasis) -> dict[str, Any]:
    return {"rank": basis.rank, "hash": basis.hash(basis.rank)}


def _require_match(run: Run, rounds: Sequence[Round]) -> None:
    """The weights are those of the last row to the last bit, or what may change these is another and is said.

    Raises RunError where nothing explains a difference.
    """
    recorded = run.ledger.header["basis"]
    rank = min(recorded["rank"], run.basis.rank)
    other_basis = rank == recorded["rank"] and run.basis.hash(rank) != recorded["hash"]
    if other_basis:
        log.warning(
            "%s: the basis found here differs in its last bits from the run's; rounds agree within 1e-5", run.dir
        )
    if not rounds:
        return
    last = len(rounds) - 1
    if run.fingerprint() == rounds[-1].weights_fingerprint:
        log.info("%s: round %d rebuilt bit for bit", run.dir, last)
    elif other_basis or _elsewhere(run, rounds):
        log.warning("%s: round %d rebuilt, but not bit for bit (other device, versions or threads)", run.dir, last)
    else:
        raise RunError(
            f"{run.dir}: round {last} was rebuilt, but its weights are not those that were recorded, though basis, "
            "device, threads and versions are the run's: was a file of it edited? Restore the run from a good copy"
        )


def _elsewhere(run: Run, rounds: Sequence[Round]) -> bool:
    """Whether any merged round was made under circumstances that may change the last bits, or does not say."""
    here = circumstances(run.basis, run.config.learner.rank, run.model.device)
    return any(row.circumstances != here for row in rounds if row.merged)
