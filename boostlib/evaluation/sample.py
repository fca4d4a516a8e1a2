"""Samples that depend on what they are for, and on nothing else.

    u = uniform(seed, step, prompt, sample, position)        token = the first w with  p(1) + .. + p(w) > u * sum(p)

Every completion has a stream of uniform numbers of its own, from the counter-based generator that all random choices of
a run come from. Which others are decoded beside it, in what order, in how many processes, or whether they have left the
batch already does not touch it. What remains is rounding: a matrix product of other shapes gives other last bits, and
where u falls within them of a boundary between two tokens, the other one is taken.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from boostlib.common.stable import uniforms

# logits (R, V), the row at which each completion stands (S,), the completions' numbers (S,), position -> tokens (S,)
Pick = Callable[[Tensor, Tensor, Tensor, int], Tensor]
SAMPLER = "philox"  # what a run's identity calls it; runs recorded before it have no such entry
BLOCK = 256  # tokens whose probabilities are added up first: a running sum over a whole vocabulary is slower


@dataclass(frozen=True)
class Draws:
    """The uniform numbers of some completions: a stream each, named by what they are for and a completion's number.

    first: the number of the first completion, where other processes sample those before it.
    """

    purpose: Sequence[int | str] = ("sample",)
    first: int = 0

    def numbers(self, completions: Iterable[int], positions: int) -> Tensor:
        """(completions, positions) fp64 in [0, 1)."""
        return torch.from_numpy(uniforms(((*self.purpose, self.first + i) for i in completions), positions))

    def of(self, completions: Iterable[int], positions: int, temperature: float) -> Pick:
        """How the tokens of a batch of these completions are taken."""
        u = self.numbers(completions, positions)

        def pick(logits: Tensor, at: Tensor, numbers: Tensor, position: int) -> Tensor:
            return choose(logits / temperature, at, u[numbers.cpu(), position].to(logits.device))

        return pick


def most_likely(logits: Tensor, at: Tensor, numbers: Tensor, position: int) -> Tensor:
    """Greedy decoding, as a Pick."""
    return logits.argmax(dim=-1)[at]


def choose(logits: Tensor, at: Tensor, u: Tensor) -> Tensor:
    """Tokens (S,): softmax's inverse distribution function of logits (R, V) at row at (S,), for u (S,) fp64 in [0, 1).

    Raises FloatingPointError where the softmax of a row is not finite.
    """
    weights = (logits.float() if logits.element_size() < 4 else logits).clone()
    weights = weights.sub_(weights.amax(-1, keepdim=True)).exp_()  # (R, V)
    blocks = F.pad(weights, (0, -weights.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))  # (R, V / BLOCK, BLOCK)
    masses = blocks.sum(-1).double()
    if not masses.sum(-1).isfinite().all():
        raise FloatingPointError("the softmax of a row is not finite")
    masses = masses[at]
    ends = masses.cumsum(-1)  # (S, V / BLOCK)
    goal = u[:, None] * ends[:, -1:]  # (S, 1)
    block = _first_above(ends, goal)
    rest = goal - ends.gather(1, block) + masses.gather(1, block)
    inside = blocks[at, block[:, 0]].double().cumsum(-1)  # (S, BLOCK)
    return (block * BLOCK + _first_above(inside, rest))[:, 0]


def _first_above(ends: Tensor, goal: Tensor) -> Tensor:
    """Index (B, 1) of the first of `ends` (B, n), a running sum, above goal (B, 1); at most the last where it grows, so
    that rounding never leads to what has no probability."""
    grown = (ends < ends[:, -1:]).sum(-1, keepdim=True)
    return torch.minimum(torch.searchsorted(ends, goal, right=True), grown)
