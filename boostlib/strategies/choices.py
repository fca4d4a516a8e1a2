"""What the paper fixes in a round and a user may choose otherwise: four small protocols, the paper's choice first.

    which adapter a round gets   `NextBlock`: the block that the strategy names    | Greedy rounds (greedy.py), LoRA
                                                                                     rounds (lora.py)
    whom it trains on            `failures_alone`                                  | `everyone`, TinyLoRA's way
    how a pass is decoded        `Decode`: every completion anew (evaluation/)     | Drafts, VLLM (evaluation/)
    whether a round is merged    `MergeAll`                                        | a Gate (gate.py)

The loop calls these and names none of the others. `run` is always the run (run.py): the model at its last recorded
round, with tokenizer, task, trainer, config, ledger and basis. Several processes make the same calls in the same order.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from boostlib.adapter import TinyLoRA
from boostlib.evaluation.decode import Decode, Decoder
from boostlib.evaluation.drafts import Drafts
from boostlib.records.rows import Base
from boostlib.strategies.gate import Gate
from boostlib.strategies.greedy import GreedyBlock
from boostlib.strategies.lora import NextLoRA
from boostlib.tasks.base import Example
from boostlib.update import LowRankUpdate, Weights


class Adapter(Protocol):
    """What a round trains and merges: a TinyLoRA or a LoRA."""

    round: int
    plan: Any  # a `Plan`; empty where an adapter has none

    @property
    def num_parameters(self) -> int:
        """How many numbers train."""

    @property
    def degrees_of_freedom(self) -> int:
        """Dimensions that they span."""

    @property
    def numbers(self) -> dict[str, Tensor]:
        """What the round's file holds, by name."""

    def restore(self, numbers: Mapping[str, Tensor]) -> bool:
        """Take up recorded `numbers`; False, and nothing changes, where they are another adapter's."""

    def groups(self) -> list[int]:
        """The group of each target module, by which a round is sketched."""

    def attach(self, model: nn.Module, weights: Weights) -> "Adapter":
        """Make it the one thing that trains."""

    def detach(self) -> None:
        """Leave the model as it was."""

    def folded(self) -> AbstractContextManager[None]:
        """Inside, the weights hold W0, what is merged, and this adapter."""

    def update(self) -> LowRankUpdate:
        """What it adds to the weights."""


class Learner(Protocol):
    """Which adapter a round gets."""

    def fresh(self, run, failures: Sequence[str]) -> tuple[Adapter, dict[str, Any]]:
        """An adapter for the next round, untrained, and plain JSON on how it was found; {} where nothing was looked at.

        A round that a killed process had trained already gets the adapter that it had.
        """


class Whom(Protocol):
    """Whom a round trains on."""

    def __call__(self, run, failures: Sequence[str]) -> Sequence[Example]:
        """Examples of the training split, in the task's order."""


class Merging(Protocol):
    """Whether a round is merged."""

    def begin(self, run, base: Base) -> None:
        """Look at the untrained model's scores before anything is trained; raises DataError where they will not do."""

    def judge(self, run, failures: Sequence[str], tried: dict, skipped: str) -> tuple[bool, dict[str, Any]]:
        """(merge it?, what the round's line says under `extra`). tried: the scores with the round merged."""

    def ended(self, run) -> str:
        """Why the run is over; "" where it goes on."""


class NextBlock:
    """The paper's: the plan follows from the round's number, by the adapter's strategy ("rotate" or "top")."""

    def fresh(self, run, failures) -> tuple[TinyLoRA, dict[str, Any]]:
        """See `Learner`."""
        return TinyLoRA(run.basis, run.config.adapter, len(run.rounds)), {}


def failures_alone(run, failures: Sequence[str]) -> Sequence[Example]:
    """The paper's: the examples that the model gets wrong."""
    wanted = set(failures)
    return [one for one in run.task.split("train") if one.id in wanted]


def everyone(run, failures: Sequence[str]) -> Sequence[Example]:
    """The whole training split, as TinyLoRA trains."""
    return run.task.split("train")


class MergeAll:
    """The paper's: every round that learned something."""

    def begin(self, run, base: Base) -> None:
        """See `Merging`."""

    def judge(self, run, failures, tried, skipped) -> tuple[bool, dict[str, Any]]:
        """See `Merging`."""
        return not skipped, {}

    def ended(self, run) -> str:
        """See `Merging`."""
        return ""


@dataclass(frozen=True)
class Choices:
    """One of each, for one run."""

    learner: Learner
    whom: Whom
    decoder: Decoder
    merging: Merging


def choices(config, gate: Gate | None = None) -> Choices:
    """What a run's settings ask for."""
    return Choices(
        learner=NextLoRA() if config.lora else GreedyBlock() if config.adapter.strategy == "greedy" else NextBlock(),
        whom=everyone if config.train_on == "all" else failures_alone,
        decoder=config.vllm or (Drafts if config.drafts else Decode)(config.batch_size),
        merging=gate or MergeAll(),
    )
