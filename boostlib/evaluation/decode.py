"""How a pass over many prompts is decoded greedily: the protocol, and the plain way.

Other ways are checked drafts (drafts.py) and vLLM (vllm.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from boostlib.common.settings import Count, checked
from boostlib.evaluation.generate import generate
from boostlib.models.subject import Subject


class Decoder(Protocol):
    """Writes the greedy completion of every prompt. `ready` and `complete` are called in every process of a run."""

    def ready(self, subject: Subject) -> None:
        """Prepare what takes long, before the prompts are shared out among processes."""

    def complete(
        self, subject: Subject, prompt_ids: Sequence[list[int]], on_batch: Callable[[int], None]
    ) -> list[list[int]]:
        """Token ids of each completion, up to and with the end token; on_batch is told how many prompts are done."""

    def entry(self) -> dict:
        """What a ledger's line says of the passes since the last call, under `extra`; {} for nothing."""


@dataclass
@checked
class Decode:
    """Every completion from its first token on, `batch_size` prompts together."""

    batch_size: Count = 64

    def ready(self, subject: Subject) -> None:
        """Nothing to prepare."""

    def complete(self, subject, prompt_ids, on_batch) -> list[list[int]]:
        """See `Decoder`."""
        task = subject.task
        return generate(
            subject.model, subject.tokenizer, prompt_ids, task.max_new_tokens,
            batch_size=self.batch_size, on_batch=on_batch, stop=task.stop,
        )  # fmt: skip

    def entry(self) -> dict:
        """Nothing to say."""
        return {}
