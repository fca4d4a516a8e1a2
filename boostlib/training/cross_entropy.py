"""Cross-entropy on one round's failures, for classifiers.

    loss = sum_i c_i log(1 + exp(-y_i z_i)) / sum_i c_i           z: logits, y: -1 or +1, c: class weights
    loss = sum_i c_i (log sum_j exp z_ij - z_iy) / sum_i c_i      of more than two classes; y: the right one

The head is frozen; only what requires a gradient trains: the attached adapter's v, or all weights in the full
fine-tuning baseline. Adam, constant learning rate. A step takes `batch` failures; each is run in micro-batches of
like length whose gradients add up to the batch's, so `micro_batch` changes memory and (rounding aside) nothing else.

Early stopping: the loss on the validation split is measured before the first step and `checks` times a round; the
numbers with the lowest loss are kept, and training ends when `patience` checks in a row brought no lower one. Where no
step helped, the round is skipped and the ledger says so: failures alone can pull a model away from what it knows.

Departures and choices that no source states: rounds train in eval mode, so that dropout is off and every loss is that
of the model which is scored; class weights come from the examples trained on, validation's from validation; all
classes that occur weigh the same where `balance` is on and there are two of them at least.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boostlib.adapter import TinyLoRA
from boostlib.common import world
from boostlib.common.errors import TrainingError, explain_oom
from boostlib.common.settings import Count, Flag, Name, Positive, checked
from boostlib.common.stable import philox
from boostlib.evaluation.evaluate import require_kind
from boostlib.models.classifier import logits
from boostlib.models.sequences import Encoded, by_length, encode_examples, to_tensors
from boostlib.models.subject import Subject
from boostlib.records.rows import Training
from boostlib.tasks.base import Example, class_ids
from boostlib.training.watch import Best, Watch


@dataclass(frozen=True)
@checked
class CrossEntropy:
    """Settings of cross-entropy training; part of a run's identity.

    A round makes `epochs` passes over its failures, at most `max_steps` steps of `batch` examples. micro_batch:
    sequences in one forward and backward pass. validation: the split that decides when to stop; None: train to the
    end.
    """

    learning_rate: Positive = 0.01
    batch: Count = 32
    micro_batch: Count = 16
    epochs: Positive = 4.0
    max_steps: Count = 40
    checks: Count = 4
    patience: Count = 2
    validation: Name | None = "validation"
    balance: Flag = True
    max_grad_norm: Positive = 1.0

    def settings(self) -> dict[str, Any]:
        """What identifies this trainer in a run."""
        return {"kind": "cross_entropy", **asdict(self)}

    def num_steps(self, failures: int) -> int:
        """Optimizer steps of a round with that many failures, at most."""
        return min(self.max_steps, math.ceil(self.epochs * failures / self.batch)) if failures else 0

    def train(
        self, subject: Subject, examples: Sequence[Example], adapter: TinyLoRA | None = None, seed: int = 0
    ) -> Training:
        """Train the subject's model on `examples`; returns what happened. adapter: attached; None: whatever requires a
        gradient trains. Raises TrainingError on NaN, lost precision or lack of memory."""
        if not examples:
            return Training(skipped="no failures left to train on")
        model, task = subject.model, subject.task
        require_kind(model, task)
        parameters = [p for p in model.parameters() if p.requires_grad]
        watch, best, trained = Watch(parameters, adapter), Best(parameters), Training(samples=1)
        held_out = _Set(subject, task.split(self.validation), self.balance) if self.validation else None
        if held_out:
            trained.validation.append(held_out.loss(adapter))
            best.see(trained.validation[0])
        data = _Set(subject, examples, self.balance)
        model.eval()
        with explain_oom("micro_batch of CrossEntropy", self.micro_batch):
            for is_check in self._steps(data, parameters, seed, trained):
                if held_out and is_check:
                    trained.validation.append(held_out.loss(adapter))
                    if best.see(trained.validation[-1]) >= self.patience:
                        break
        watch.check(had_signal=any(trained.losses))
        if held_out and not best.restore():
            trained.skipped = (
                f"no step lowered the {self.validation} loss of {trained.validation[0]:.4f} in {trained.steps} steps"
            )
        return trained

    def probe(self, subject: Subject, examples: Sequence[Example], batches: int, seed: int = 0) -> Training:
        """Backward passes over `batches` batches of training on `examples`, and no step.

        For whoever listens to gradients (strategies/core_gradient.py); the losses are those of `train`, clipping aside.
        With several processes the gradient is the mean of what each of them hears.
        """
        require_kind(subject.model, subject.task)
        data, done = _Set(subject, examples, self.balance), Training(samples=1)
        subject.model.eval()
        with explain_oom("micro_batch of CrossEntropy", self.micro_batch):
            for rows in self._batches(len(examples), batches, seed):
                done.losses.append(round(data.backward(rows, self.micro_batch), 5))
                done.tokens += data.tokens(rows)
                done.steps += 1
        return done

    def _batches(self, count: int, steps: int, seed: int) -> Iterator[np.ndarray]:
        """Rows of each step: passes over the examples, each in a new order."""
        a_pass = math.ceil(count / self.batch)
        for step in range(steps):
            if step % a_pass == 0:
                order = philox("batches", seed, step // a_pass).permutation(count)
            yield order[(step % a_pass) * self.batch :][: self.batch]

    def _steps(self, data: "_Set", parameters, seed: int, trained: Training) -> Iterator[bool]:
        """One optimizer step at a time; says whether it is time to look at the validation loss."""
        optimizer, on_step = torch.optim.Adam(parameters, lr=self.learning_rate), data.subject.on_step
        total = self.num_steps(len(data.encoded))
        looks = {math.ceil(total * k / self.checks) for k in range(1, self.checks + 1)}
        for step, rows in enumerate(self._batches(len(data.encoded), total, seed)):
            optimizer.zero_grad()
            loss = data.backward(rows, self.micro_batch)
            norm = nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
            if not math.isfinite(loss) or not torch.isfinite(norm):
                raise TrainingError(
                    f"NaN in loss or gradient at step {step}: lower learning_rate, now {self.learning_rate}"
                )
            optimizer.step()
            trained.steps += 1
            trained.losses.append(round(loss, 5))
            trained.tokens += data.tokens(rows)
            if on_step:
                on_step({"step": trained.steps, "of": total, "loss": loss})
            yield step + 1 in looks


def _average_gradients(model: nn.Module) -> None:
    if world.size() > 1:
        for p in model.parameters():
            if p.requires_grad:
                p.grad = world.mean(torch.zeros_like(p) if p.grad is None else p.grad)


class _Set:
    """Examples as tokens, with their labels and class weights."""

    def __init__(self, subject: Subject, examples: Sequence[Example], balance: bool):
        self.subject = subject
        self.encoded: list[Encoded] = encode_examples(subject, examples)
        self.labels = torch.from_numpy(class_ids(subject.task, examples))  # (n,)
        self.weights = torch.ones(len(examples))
        present, counts = self.labels.unique(return_counts=True)
        if balance and len(present) > 1:
            if len(subject.task.classes) == 2:
                positive = float(self.labels.float().mean())
                self.weights = torch.where(self.labels == 1, 0.5 / positive, 0.5 / (1 - positive))
            else:
                each = torch.zeros(len(subject.task.classes))
                each[present] = len(examples) / (len(present) * counts)
                self.weights = each[self.labels]

    def tokens(self, rows: Any) -> int:
        """How many tokens these rows have."""
        return sum(len(self.encoded[i].ids) for i in rows)

    def backward(self, rows: Any, micro_batch: int) -> float:
        """Gradient of the loss on these rows, added up over micro-batches of like length; returns the loss.

        Several processes take a share of the rows each. What a backward pass gives in one of them is N times its share
        of the gradient, so that the mean over processes is the gradient, as it is for GRPO.
        """
        model, pad = self.subject.model, self.subject.tokenizer.pad_token_id
        total, whole, mine = 0.0, float(self.weights[rows].sum()), world.share(rows)
        for part in by_length([self.encoded[i] for i in mine], micro_batch):
            chosen = [mine[i] for i in part]
            batch = to_tensors([self.encoded[i] for i in chosen], pad, model.device)
            loss = self._sum(model(*batch), chosen) / whole * world.size()
            loss.backward()
            total += float(loss.detach())
        _average_gradients(model)
        return float(world.mean(torch.tensor(total, dtype=torch.float64, device=model.device)))

    def loss(self, adapter: TinyLoRA | None) -> float:
        """The loss on all of them, with the adapter folded in."""
        with adapter.folded() if adapter is not None else nullcontext():
            found = logits(self.subject, self.encoded)
        return float(self._sum(found, range(len(self.encoded))) / self.weights.sum())

    def _sum(self, found: Tensor, rows: Sequence[int]) -> Tensor:
        labels, weights = (t[list(rows)].to(found.device) for t in (self.labels, self.weights))
        if found.dim() == 1:
            return F.binary_cross_entropy_with_logits(found, labels.float(), weight=weights, reduction="sum")
        return (weights * F.cross_entropy(found, labels, reduction="none")).sum()
