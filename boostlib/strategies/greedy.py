"""Greedy rounds: of all adapters that a round could train, take the one that its first gradient favours most.

    probe      G = gradient of the training loss on `probe_batches` batches of the failures, no step taken
    gain(b, c) = | a |,  a_i = sum over the group's modules of <P_i(c), G[b, b]>        i = 1..u
    choose     (block b, candidate c) = argmax of gain over the group's unused blocks and its candidates for P

This project's own, not the paper's: boosting picks the weak learner most correlated with the residual, and here the
weak learners are the (block, P) pairs, the residual is the gradient of the training loss on the failures. G are the
core gradients of `core_gradient.py`, stretched as the adapter's scaling asks, so a is dL/dv of that adapter at v = 0
and |a| the slope of its steepest descent. Blocks that a group took in merged rounds are used up: ranks add as for
rotate. A group without any gradient takes its first unused block and candidate 0.

A candidate stands for all u P's of a group, since they are drawn together: for u > 1 the pair whose P's capture most of
the gradient wins. (Choosing u candidates one by one would need a plan of u numbers a group, 2,688 in the largest runs,
where a plan is one pair.) Modules of a group share the pair, as they share v.

Probing batches are drawn with a seed of their own, so training meets them as strangers: what it gains there is no echo
of the choice. Their cost is in the ledger beside the training's.
"""

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.common import world
from boostlib.common.errors import BoostError, TrainingError
from boostlib.common.settings import Count, checked
from boostlib.common.stable import normals, stable_seed
from boostlib.records.rows import Round, Training
from boostlib.strategies.core_gradient import core_gradients

log = logging.getLogger(__name__)


@dataclass(frozen=True)
@checked
class Greedy:
    """How a greedy round chooses; part of a greedy run's identity.

    candidates: draws of P to choose from, per group. probe_batches: training batches whose gradient decides. choose:
    "both", or for ablations "block" (candidate 0) or "candidate" (in the first unused block, as rotate).
    """

    candidates: Count = 256
    probe_batches: Count = 2
    choose: Literal["both", "block", "candidate"] = "both"


@dataclass(frozen=True)
class Choice:
    """What one group takes: its pair of the plan, a (u,) fp64 = dL/dv at v = 0, and the mean |a| of what it chose
    from."""

    pair: tuple[int, int]
    slopes: np.ndarray
    mean: float


class GreedyBlock:
    """The learner of greedy rounds: see `Learner` in choices.py."""

    def fresh(self, run, failures: Sequence[str]) -> tuple[TinyLoRA, dict[str, Any]]:
        """The adapter of the next round, and its choice as plain JSON with keys

        plan, seconds, batches, tokens (of probing), slope (chosen |dL/dv| of each group), mean (over all pairs that the
        group chose from), fallback (groups without any gradient, which took their first unused block).
        """
        index = len(run.rounds)
        recorded = run.ledger.load_v(index)
        if recorded is not None:
            choice = recorded[1]["choice"]
            return TinyLoRA(run.basis, run.config.adapter, index, choice["plan"]), choice
        start = time.perf_counter()
        gradients, probed = _probe(run, failures, index)
        used = used_blocks(run.rounds, run.config.adapter.groups(len(run.basis)))
        choices = world.on_main(lambda: choose_plan(gradients, run.basis, run.config, index, used))
        adapter = TinyLoRA(run.basis, run.config.adapter, index, [one.pair for one in choices])
        return adapter, _record(adapter, choices, probed, time.perf_counter() - start)


def choose_plan(
    gradients: Mapping[str, Tensor], basis: SVDBasis, config, round: int, used: Sequence[Collection[int]] | None = None
) -> list[Choice]:
    """The best pair of every group, the first of equals; depends on nothing but its arguments.

    gradients: {module: G (K, K)} of the loss on the failures, K >= rank * blocks. config: a BoostConfig, its
    `adapter` and `greedy`. used: blocks that each group has taken already, default none. Raises BoostError where a
    group has none left, TrainingError where a gradient is not finite.
    """
    adapter, greedy, names = config.adapter, config.greedy, list(basis)
    _require_finite(gradients)
    choices = []
    for group in range(adapter.groups(len(names))):
        taken = used[group] if used else ()
        blocks = [block for block in range(adapter.blocks) if block not in taken]
        if not blocks:
            raise BoostError(f"group {group} has taken all {adapter.blocks} blocks: raise AdapterConfig(blocks=...)")
        blocks = blocks[:1] if greedy.choose == "candidate" else blocks
        count = 1 if greedy.choose == "block" else greedy.candidates
        members = {name: basis[name][1] for name in names[group * adapter.n_tie : (group + 1) * adapter.n_tie]}
        a = slopes(gradients, members, adapter, round, (blocks, count))
        gain = np.linalg.norm(a, axis=-1)  # (blocks, candidates)
        b, c = np.unravel_index(gain.argmax(), gain.shape)
        choices.append(Choice((blocks[b], int(c)), a[b, c], float(gain.mean())))
    return choices


def used_blocks(rounds: Sequence[Round], groups: int) -> list[set[int]]:
    """Blocks that each group has taken in merged rounds."""
    return [{row.plan[group][0] for row in rounds if row.merged} for group in range(groups)]


def block_norms(gradients: Mapping[str, Tensor], basis: SVDBasis, config: AdapterConfig) -> np.ndarray:
    """(modules, blocks) Frobenius norms of dL/dR: where in each weight's spectrum the gradient lies."""
    blocks = range(config.blocks)
    found = [_blocks(gradients[name], s, config, blocks) for name, (_, s, _) in basis.items()]
    return np.linalg.norm(np.stack(found), axis=-1)


def slopes(
    gradients: Mapping[str, Tensor],
    members: Mapping[str, Tensor],
    config: AdapterConfig,
    round: int,
    pairs: tuple[Sequence[int], int],
) -> np.ndarray:
    """a = dL/dv at v = 0 of one group, for every block and candidate: (blocks, count, u) fp64, summed over its modules.

    gradients: {module: G (K, K)}. members: {module of the group: its singular values S (K,)}. pairs: block indices, and
    the count of candidates 0 .. count - 1.
    """
    blocks, count = pairs
    total = np.zeros((len(blocks), count, config.u))
    for name, s in members.items():
        keys = (config.noise_key(round, candidate, name) for candidate in range(count))
        p = normals(keys, (config.u, config.rank**2)) / math.sqrt(config.rank)  # (count, u, r * r)
        total += np.tensordot(_blocks(gradients[name], s, config, blocks), p, axes=(1, 2))
    return total


def _probe(run, failures: Sequence[str], index: int) -> tuple[dict[str, Tensor], Training]:
    """{module: G (K, K)} on the CPU: the mean over the probing batches, and over the processes that share them."""
    batches, seed = run.config.greedy.probe_batches, stable_seed(run.config.seed, "probe", index) % 2**31
    with core_gradients(run.model, run.basis) as cores:
        probed = run.trainer.probe(run, run.choices.whom(run, failures), batches, seed)
    return {name: world.mean(core).cpu() / batches for name, core in cores.items()}, probed


def _record(adapter: TinyLoRA, choices: Sequence[Choice], probed: Training, seconds: float) -> dict[str, Any]:
    blind = sum(not one.slopes.any() for one in choices)
    if blind:
        log.warning(
            "round %d: no learning signal in the probing batches for %d of %d groups: they take their first unused "
            "block and candidate 0",
            adapter.round,
            blind,
            len(choices),
        )
    return {
        "plan": [list(pair) for pair in adapter.plan],
        "seconds": round(seconds, 2),
        "batches": probed.steps,
        "tokens": probed.tokens,
        "slope": [float(f"{np.linalg.norm(one.slopes):.6g}") for one in choices],
        "mean": [float(f"{one.mean:.6g}") for one in choices],
        "fallback": blind,
    }


def _blocks(gradient: Tensor, s: Tensor, config: AdapterConfig, blocks: Sequence[int]) -> np.ndarray:
    """(blocks, r * r) fp64: dL/dR of an adapter in each block."""
    r, g = config.rank, gradient.detach().double().cpu()
    spans = [slice(block * r, (block + 1) * r) for block in blocks]
    stretched = [g[span, span] * config.stretch(s, block) for block, span in zip(blocks, spans, strict=True)]
    return torch.stack(stretched).flatten(1).numpy()


def _require_finite(gradients: Mapping[str, Tensor]) -> None:
    bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    if bad:
        raise TrainingError(f"NaN in the probed gradient of {bad[0]}: the model has diverged; lower learning_rate")
