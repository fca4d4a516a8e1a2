"""Gradient isolation: a round trains on failures alone, so how far do the examples move that it never saw?

    z(W) = mean over the answer's tokens of logit[own token] - logit[runner-up]     the margin of the model's own answer
    z(W + dW) - z(W) = <grad_v z, v> + second order,    |<grad_v z, v>| <= |grad_v z| |v|  and  <= |grad_W z| |dW|

By construction a correct example adds nothing to a round's gradient; but the round moves weights that it shares, and to
first order its margin moves by the inner product. Own tokens are the model's greedy completion before the round, and
both they and the runners-up stay the same tokens after it; so z is smooth in W, and z >= 0 before. grad_v is taken
through the attached adapter at v = 0, grad_W over all target weights, norms are Frobenius over all weights together.
Departure: the margin is averaged over the completion's tokens, since the first may be a mere space.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from boostlib.adapter import TinyLoRA
from boostlib.common.errors import RunError
from boostlib.common.stable import philox
from boostlib.evaluation.generate import generate, prompts_of
from boostlib.models.subject import Subject
from boostlib.records.ledger import Ledger
from boostlib.run import rebuilt_rounds, replay_run
from boostlib.tasks.base import Example, TextTask


def isolation(
    ledger: Ledger, subject: Subject, round: int = 0, sizes: tuple[int, int] = (12, 12), seed: int = 0
) -> pd.DataFrame:
    """How margins of training problems move in a merged round, one row a problem; the model ends as before the round.

    subject: with a text task and the run's untrained model. sizes, seed: of the `sample`. Columns: id, correct, before,
    after (margins), measured (after - before), predicted (<grad_v z, v>), bound_v (|grad_v z| |v|), bound_w (|grad_W z|
    |dW|), changed (some answer token is not the most likely one any more). Raises RunError where the round merged
    nothing.
    """
    model, tokenizer, task = subject.model, subject.tokenizer, subject.task
    run = replay_run(ledger, round - 1, model)
    found = [a for a in rebuilt_rounds(ledger, run.basis, run.config.learner, round + 1) if a.round == round]
    if not found:
        raise RunError(f"{run.dir}: round {round} merged nothing, so nothing moved: choose a merged round")
    (adapter,) = found
    if not isinstance(adapter, TinyLoRA):
        raise RunError(f"{run.dir} has rounds of LoRA: this is about TinyLoRA's v, of which it has none")
    examples = sample(ledger, task, round, sizes, seed)
    prompts = prompts_of(subject, examples)
    answers = generate(model, tokenizer, prompts, task.max_new_tokens, stop=task.stop)
    update, v, before = adapter.update(), adapter.v.detach().clone(), run.weights.update
    probes = [_Margin(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    slopes = [_slopes(model, adapter, probe) for probe in probes]  # at v = 0
    run.weights.set(before + update)
    try:
        after = [probe.measure(model) for probe in probes]
    finally:
        run.weights.set(before)
    wrong, size, rows = set(ledger.rounds[round].failures), update.norm(), []
    for example, probe, (z, changed), (g_v, g_w) in zip(examples, probes, after, slopes, strict=True):
        row = {"id": example.id, "correct": example.id not in wrong, "before": probe.before, "after": z}
        row |= {"measured": z - probe.before, "predicted": float((g_v * v).sum())}
        row |= {"bound_v": float(g_v.norm() * v.norm()), "bound_w": g_w * size, "changed": changed}
        rows.append(row)
    return pd.DataFrame(rows)


def sample(ledger: Ledger, task: TextTask, round: int, sizes: tuple[int, int], seed: int) -> list[Example]:
    """Training problems that were right before the round, then some of its failures: `sizes` of them, or all where
    there are fewer."""
    wrong, chosen = set(ledger.rounds[round].failures), []
    groups = ([e for e in task.split("train") if (e.id in wrong) == side] for side in (False, True))
    for side, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        order = philox("isolation", seed, round, side).permutation(len(group))[:size]
        chosen += [group[i] for i in sorted(order)]
    return chosen


class _Margin:
    """The margin of one answer: its tokens and their runners-up, fixed by the model as it is now."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, prompt: Sequence[int], answer: Sequence[int]):
        self.ids = torch.tensor([[*prompt, *answer]], device=model.device)
        self.own = self.ids[0, len(prompt) :]  # (L,)
        logits = self.logits(model)
        others = logits.scatter(1, self.own[:, None], -torch.inf)
        self.second = others.argmax(dim=1)  # (L,)
        self.before = float(self.of(logits))

    def logits(self, model: nn.Module) -> Tensor:
        """(L, vocabulary) fp32, of the answer's tokens."""
        return model(input_ids=self.ids).logits[0, -len(self.own) - 1 : -1].float()

    def of(self, logits: Tensor) -> Tensor:
        """z from `logits`, a scalar."""
        rows = torch.arange(len(self.own), device=logits.device)
        return (logits[rows, self.own] - logits[rows, self.second]).mean()

    @torch.no_grad()
    def measure(self, model: nn.Module) -> tuple[float, bool]:
        """(margin, whether an answer token lost its first place)."""
        logits = self.logits(model)
        return float(self.of(logits)), bool((logits.argmax(dim=1) != self.own).any())


def _slopes(model: nn.Module, adapter: TinyLoRA, probe: _Margin) -> tuple[Tensor, float]:
    """(grad_v z (groups, u), |grad_W z|) at v = 0, in one backward pass."""
    kept = adapter.v.detach().clone()
    adapter.v.data.zero_()
    adapter.attach(model)
    try:
        weights = [model.get_submodule(name).weight.requires_grad_() for name in adapter.names]
        of_v, *of_weights = torch.autograd.grad(probe.of(probe.logits(model)), [adapter.v, *weights])
    finally:
        adapter.detach()
        adapter.v.data.copy_(kept)
    return of_v.cpu(), sum(float(slope.double().square().sum()) for slope in of_weights) ** 0.5
