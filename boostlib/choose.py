"""A round's fresh adapter: where it looks, and, for greedy, what finding that out cost.

    rotate, top    the plan follows from the round's number
    greedy         probe: gradient of the training loss on `probe_batches` batches of the failures, no step taken
                   choose: the (block, candidate) pair of every group, see greedy.py

Probing batches are drawn with a seed of their own, so training meets them as strangers: what it gains there is no echo
of the choice. Their cost is in the ledger beside the training's. A round that a killed process had trained already
takes up its recorded plan.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from boostlib import world
from boostlib.adapter import TinyLoRA
from boostlib.core_gradient import core_gradients
from boostlib.greedy import Choice, choose_plan
from boostlib.resting import resting_ids
from boostlib.rounds import Round, Training
from boostlib.run import Run
from boostlib.stable import stable_seed
from boostlib.tasks.base import Example, Task

log = logging.getLogger(__name__)


def fresh_adapter(
    run: Run, tokenizer, task: Task, trainer, failures: Sequence[str], index: int
) -> tuple[TinyLoRA, dict[str, Any]]:
    """The adapter of round `index`, and its choice: {} for rotate and top, for greedy plain JSON with keys

    plan, seconds, batches, tokens (of probing, the guard's included), slope (chosen |dL/dv| of each group), mean (over
    all pairs that the group chose from), fallback (groups without any gradient, which took their first unused block).
    """
    config = run.config.adapter
    if config.strategy != "greedy":
        return TinyLoRA(run.basis, config, index), {}
    recorded = run.ledger.load_v(index)
    if recorded is not None:
        choice = recorded[1]["choice"]
        return TinyLoRA(run.basis, config, index, choice["plan"]), choice
    start = time.perf_counter()
    choices, probed = _choose(run, tokenizer, task, trainer, failures, index)
    adapter = TinyLoRA(run.basis, config, index, [one.pair for one in choices])
    with torch.no_grad():
        adapter.v.copy_(_start(choices, run.config.greedy.start))
    return adapter, _record(adapter, choices, probed, index, time.perf_counter() - start)


def training_examples(run: Run, task: Task, failures: Sequence[str]) -> Sequence[Example]:
    """What the next round trains on: the failures that do not rest, in the task's order, or all examples."""
    examples, wanted = task.split("train"), set(failures) - resting_now(run, failures)
    return examples if run.config.train_on == "all" else [one for one in examples if one.id in wanted]


def resting_now(run: Run, failures: Sequence[str]) -> set[str]:
    """Which of the failures the next round leaves out, see resting.py; nobody where the option is off."""
    return resting_ids(run.config.resting, run.rounds, failures) if run.config.resting else set()


def chosen(choice: dict[str, Any]) -> dict[str, Any]:
    """What a choice adds to a round's line beside its plan and its time; nothing for rotate and top."""
    return {"greedy": {key: choice[key] for key in choice if key not in ("plan", "seconds")}} if choice else {}


def used_blocks(rounds: Sequence[Round], groups: int) -> list[set[int]]:
    """Blocks that each group has taken in merged rounds."""
    return [{row.plan[group][0] for row in rounds if row.merged} for group in range(groups)]


def _choose(run, tokenizer, task, trainer, failures, index) -> tuple[list[Choice], list[Training]]:
    greedy, config, guard, probed = run.config.greedy, run.config.adapter, None, []
    failing = training_examples(run, task, failures)
    gradients = _probe(run, tokenizer, task, trainer, failing, index, "probe", probed)
    if greedy.guard:
        wrong = set(failures)
        right = [one for one in task.split("train") if one.id not in wrong]
        guard = _probe(run, tokenizer, task, trainer, right, index, "guard", probed) if right else None
    used = used_blocks(run.rounds, config.groups(len(run.basis)))
    return world.on_main(lambda: choose_plan(gradients, run.basis, config, greedy, index, used, guard)), probed


def _probe(run, tokenizer, task, trainer, examples, index, purpose: str, probed: list) -> dict[str, Tensor]:
    """{module: G (K, K)} on the CPU: the mean over the probing batches, and over the processes that share them."""
    batches, seed = run.config.greedy.probe_batches, stable_seed(run.config.seed, purpose, index) % 2**31
    with core_gradients(run.model, run.basis) as cores:
        probed.append(trainer.probe(run.model, tokenizer, task, examples, batches, seed))
    return {name: world.mean(core).cpu() / batches for name, core in cores.items()}


def _start(choices: Sequence[Choice], size: float) -> Tensor:
    """(groups, u): steps of that size against the probed gradient; 0 where there was none."""
    slopes = torch.stack([torch.from_numpy(one.slopes) for one in choices]).float()
    return -size * torch.nn.functional.normalize(slopes, dim=1)


def _record(adapter: TinyLoRA, choices, probed: Sequence[Training], index: int, seconds: float) -> dict[str, Any]:
    blind = sum(not one.slopes.any() for one in choices)
    if blind:
        log.warning(
            "round %d: no learning signal in the probing batches for %d of %d groups: they take their first unused "
            "block and candidate 0",
            index,
            blind,
            len(choices),
        )
    return {
        "plan": [list(pair) for pair in adapter.plan],
        "seconds": round(seconds, 2),
        "batches": sum(one.steps for one in probed),
        "tokens": sum(one.tokens for one in probed),
        "slope": [float(f"{torch.from_numpy(one.slopes).norm():.6g}") for one in choices],
        "mean": [float(f"{one.mean:.6g}") for one in choices],
        "fallback": blind,
    }
