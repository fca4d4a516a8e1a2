"""Greedy rounds: of all adapters that a round could train, take the one that its first gradient favours most.

    gain(b, c) = | a |,  a_i = sum over the group's modules of <P_i(c), G[b, b]>        i = 1..u
    (block b, candidate c) = argmax of gain - guard * harm over the group's unused blocks and its candidates for P

This project's own, not the paper's: boosting picks the weak learner most correlated with the residual, and here the
weak learners are the (block, P) pairs, the residual is the gradient of the training loss on the failures. G are the
core gradients of `core_gradient.py`, stretched as the adapter's scaling asks, so a is dL/dv of that adapter at v = 0
and |a| the slope of its steepest descent. Blocks that a group took in merged rounds are used up: ranks add as for
rotate.

A candidate stands for all u P's of a group, since they are drawn together: for u > 1 the pair whose P's capture most of
the gradient wins. (Choosing u candidates one by one would need a plan of u numbers a group, 2,688 in the largest runs,
where a plan is one pair.) Modules of a group share the pair, as they share v.

harm = max(0, -<a, h>/|a|), h as a, but of the loss on examples that are answered correctly: how fast it rises along the
steepest descent on the failures. A group without any gradient takes its first unused block and candidate 0.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from boostlib.adapter import AdapterConfig
from boostlib.basis import SVDBasis
from boostlib.errors import BoostError, TrainingError, require_settings
from boostlib.stable import normals

CHOOSE = ("both", "block", "candidate")


@dataclass(frozen=True)
class Greedy:
    """How a greedy round chooses; part of a greedy run's identity.

    candidates: draws of P to choose from, per group. probe_batches: training batches whose gradient decides (and as
    many again on correct examples where guard > 0). choose: "both", or for ablations "block" (candidate 0) or
    "candidate" (in the first unused block, as rotate). guard: weight of the harm to correct examples; 0: none. start:
    |v| of each group at the start, against the probed gradient; 0: v starts at 0, as in the paper.
    """

    candidates: int = 256
    probe_batches: int = 2
    choose: str = "both"
    guard: float = 0.0
    start: float = 0.0

    def __post_init__(self):
        require_settings(self, counts=("candidates", "probe_batches"), positive=())
        if self.choose not in CHOOSE:
            raise BoostError(f"Greedy(choose={self.choose!r}): must be one of {', '.join(CHOOSE)}")
        for name in ("guard", "start"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BoostError(f"Greedy({name}={getattr(self, name)}): must be a number of at least 0")


@dataclass(frozen=True)
class Choice:
    """What one group takes: its pair of the plan, a (u,) fp64 = dL/dv at v = 0, and the mean |a| of what it chose
    from."""

    pair: tuple[int, int]
    slopes: np.ndarray
    mean: float


def choose_plan(
    gradients: Mapping[str, Tensor],
    basis: SVDBasis,
    config: AdapterConfig,
    greedy: Greedy,
    round: int,
    used: Sequence[Collection[int]] | None = None,
    guard: Mapping[str, Tensor] | None = None,
) -> list[Choice]:
    """The best pair of every group, the first of equals; depends on nothing but its arguments.

    gradients: {module: G (K, K)} of the loss on the failures, K >= rank * blocks; guard: the same on correct examples.
    used: blocks that each group has taken already, default none. Raises BoostError where a group has none left,
    TrainingError where a gradient is not finite.
    """
    names = list(basis)
    _require_finite(gradients)
    _require_finite(guard or {})
    choices = []
    for group in range(config.groups(len(names))):
        members = names[group * config.n_tie : (group + 1) * config.n_tie]
        taken = used[group] if used else ()
        blocks = [block for block in range(config.blocks) if block not in taken]
        if not blocks:
            raise BoostError(f"group {group} has taken all {config.blocks} blocks: raise AdapterConfig(blocks=...)")
        blocks = blocks[:1] if greedy.choose == "candidate" else blocks
        count = 1 if greedy.choose == "block" else greedy.candidates
        a, h = slopes([gradients, guard or {}], members, basis, config, round, blocks, count)
        gain = np.linalg.norm(a, axis=-1)  # (blocks, candidates)
        score = gain - greedy.guard * _harm(a, h, gain)
        b, c = np.unravel_index(score.argmax(), score.shape)
        choices.append(Choice((blocks[b], int(c)), a[b, c], float(gain.mean())))
    return choices


def block_norms(gradients: Mapping[str, Tensor], basis: SVDBasis, config: AdapterConfig) -> np.ndarray:
    """(modules, blocks) Frobenius norms of dL/dR: where in each weight's spectrum the gradient lies."""
    blocks = range(config.blocks)
    found = [_blocks(gradients[name], s, config, blocks) for name, (_, s, _) in basis.items()]
    return np.linalg.norm(np.stack(found), axis=-1)


def slopes(kinds, members, basis, config, round, blocks, count) -> list[np.ndarray]:
    """For each of `kinds`, gradients as in `choose_plan`, a (blocks, count, u) fp64 = dL/dv at v = 0 of a group.

    members: names of the group's modules, over which a is summed. blocks: indices; count: candidates 0 .. count - 1.
    Zeros where a kind is empty."""
    found = [np.zeros((len(blocks), count, config.u)) for _ in kinds]
    for name in members:
        keys = (config.noise_key(round, candidate, name) for candidate in range(count))
        p = normals(keys, (config.u, config.rank**2)) / math.sqrt(config.rank)  # (count, u, r * r)
        for total, gradients in zip(found, kinds, strict=True):
            if name in gradients:
                total += np.tensordot(_blocks(gradients[name], basis[name][1], config, blocks), p, axes=(1, 2))
    return found


def _blocks(gradient: Tensor, s: Tensor, config: AdapterConfig, blocks: Sequence[int]) -> np.ndarray:
    """(blocks, r * r) fp64: dL/dR of an adapter in each block."""
    r, g = config.rank, gradient.detach().double().cpu()
    spans = [slice(block * r, (block + 1) * r) for block in blocks]
    stretched = [g[span, span] * config.stretch(s, block) for block, span in zip(blocks, spans, strict=True)]
    return torch.stack(stretched).flatten(1).numpy()


def _harm(a: np.ndarray, h: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """(blocks, candidates): how fast the guarded loss rises along the steepest descent on the failures."""
    along = (a * h).sum(axis=-1) / np.where(gain > 0, gain, 1.0)
    return np.maximum(0.0, -along)


def _require_finite(gradients: Mapping[str, Tensor]) -> None:
    bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    if bad:
        raise TrainingError(f"NaN in the probed gradient of {bad[0]}: the model has diverged; lower learning_rate")
