"""GRPO on one round's failures: its settings, and what to do with a round that carries no signal.

    A_i = (r_i - mean(r)) / (std(r) + 1e-4) over the samples of one prompt;  loss = -sum_i A_i log pi(y_i) / tokens
    (Shao et al. 2024, arXiv 2402.03300; token normalisation as in DAPO, arXiv 2503.14476; no KL term by default)

The training itself is TRL's (`trl.py`). Where every group of a round is all right or all wrong there is nothing
to learn from: the round is tried again with more samples a prompt, then skipped, and the ledger says why.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from boostlib.adapter import TinyLoRA
from boostlib.common.errors import BoostError
from boostlib.common.settings import AtLeastZero, Count, Flag, Positive, checked
from boostlib.evaluation.sample import SAMPLER
from boostlib.evaluation.vllm import VLLM, require_vllm
from boostlib.models.subject import Subject
from boostlib.records.rows import Training
from boostlib.tasks.base import Example


@dataclass(frozen=True)
@checked
class GRPO:
    """Settings of GRPO; part of a run's identity.

    A step takes `prompts` failures and samples `samples` completions of each. A round makes `epochs` passes over its
    failures, at most `max_steps` steps, so steps fall as failures do. Where no group of a round carries an advantage
    the round is tried again with twice the samples, up to `max_samples`, and skipped after that, with the reason.

    Several processes divide a step's completions equally, so a step stays what it is with one; where they cannot, it
    takes fewer prompts (such as 15 of 16 on 3 processes, 8 samples each). The two batch settings are each process's.
    """

    learning_rate: Positive = 0.01
    prompts: Count = 16
    samples: Count = 8
    max_samples: Count = 32
    epochs: Positive = 1.0
    max_steps: Count = 8
    temperature: Positive = 1.0
    micro_batch: Count = 128  # completions per forward and backward pass: lower it for less memory, same result
    rollout_batch: Count = 512  # completions sampled together: lower it for less memory
    beta: AtLeastZero = 0.0  # weight of a KL term against the untrained model
    max_grad_norm: Positive = 1.0
    gradient_checkpointing: Flag = False
    use_vllm: Flag = False  # sample with vLLM, see evaluation/vllm.py
    vllm: VLLM = VLLM()  # where; no part of a run's identity

    def __post_init__(self):
        if self.samples < 2:
            raise BoostError("GRPO(samples=1): an advantage compares samples of one prompt; use at least 2")
        if self.use_vllm:
            require_vllm("GRPO(use_vllm=True)")

    def settings(self) -> dict[str, Any]:
        """What identifies this trainer in a run."""
        settings = {name: value for name, value in asdict(self).items() if name != "vllm"}
        return {"kind": "grpo", **settings, **({} if self.use_vllm else {"sampler": SAMPLER})}

    def num_steps(self, failures: int) -> int:
        """Optimizer steps of a round with that many failures."""
        return min(self.max_steps, math.ceil(self.epochs * failures / self.prompts)) if failures else 0

    def train(
        self, subject: Subject, examples: Sequence[Example], adapter: TinyLoRA | None = None, seed: int = 0
    ) -> Training:
        """Train the subject's model on `examples`; returns what happened. adapter: attached; None: whatever requires a
        gradient trains. Raises TrainingError on NaN, lost precision or lack of memory."""
        if not examples:
            return Training(skipped="no failures left to train on")
        from boostlib.training.trl import Pass  # TRL takes seconds to import: only when something trains

        trained, samples = Training(), self.samples
        while True:
            part = Pass(replace(self, samples=samples), subject, examples, seed).train(adapter)
            trained.steps += part.steps
            trained.tokens += part.tokens
            trained.rewards += part.rewards
            trained.signal += part.signal
            trained.samples = samples
            if any(part.signal):
                return trained
            if samples * 2 > self.max_samples:
                trained.skipped = f"no group of {len(examples)} failures had an advantage, {samples} samples a prompt"
                return trained
            samples *= 2

    def probe(self, subject: Subject, examples: Sequence[Example], batches: int, seed: int = 0) -> Training:
        """Backward passes over `batches` batches of training on `examples`, sampled anew, and no step.

        For whoever listens to gradients (strategies/core_gradient.py); the losses are those of `train`, clipping aside.
        Batches without an advantage bring a gradient of 0, and `signal` says so: there is no second try. With several
        processes the gradient is the mean of what each of them hears.
        """
        from boostlib.training.trl import Pass

        once = replace(self, max_steps=batches, epochs=float(batches * self.prompts))  # however few the examples
        return Pass(once, subject, examples, seed).probe()
