"""What a person sees of a run while it goes on: a bar of rounds, the step that trains, and a line for each round."""

import logging

from tqdm.auto import tqdm

from boostlib.common import world
from boostlib.records.rows import Round

log = logging.getLogger(__name__)


class Progress:
    """A bar over `total` rounds of which `done` are there; nothing but warnings where `shown` is false."""

    def __init__(self, total: int, done: int, shown: bool = True):
        self.shown = shown and world.is_main()
        self._bar = tqdm(total=total, desc="rounds", unit="round", initial=done, disable=not self.shown)
        self._status: dict = {}

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.shown:
            self._bar.write(text)

    def at(self, text: str = "", **status) -> None:
        """What is being done now; `status` stays beside the steps that follow."""
        self._status = status
        self._bar.set_postfix_str(text) if text else self._bar.set_postfix(**status)

    def step(self, step: dict) -> None:
        """One optimizer step: {"step", "of", and numbers such as the reward}."""
        values = {name: f"{value:.3f}" for name, value in step.items() if isinstance(value, float)}
        self._bar.set_postfix(**self._status, step=f"{step['step']}/{step['of']}", **values)

    def round(self, row: Round) -> None:
        """A round that is on record: its line, and what a user should know about it."""
        if row.skipped:
            log.warning("round %d skipped: %s", row.index, row.skipped)
        elif row.rejected:
            log.warning("round %d not merged: %s", row.index, row.rejected)
        elif row.fold_retention < 0.9:
            log.warning(
                "round %d: only %.0f%% of the update survived the cast to the model's dtype; load the model with "
                'dtype="float32", or train with a higher learning rate',
                row.index,
                100 * row.fold_retention,
            )
        held_out = " ".join(f"{name} {scores.accuracy:.3f}" for name, scores in row.metrics.items())
        self.say(
            f"round {row.index}: {len(row.failures)} failures, fixed {len(row.fixed)}, broken {len(row.broken)}, "
            f"train {row.train_accuracy:.3f} {held_out}"
        )
        self._bar.update()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
