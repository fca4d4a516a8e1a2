"""One run on several processes, one device each: who does what, and how all of them stay alike.

    process k of N takes items k, k + N, k + 2N, ...      what each found is put back in order, in every process

Launchers (`accelerate launch`, torchrun, accelerate's `notebook_launcher`) start N processes that make the same calls
in the same order. They meet here, on accelerate's PartialState: work on many items is spread, gradients are averaged,
and what only one may do (files) is done by the first, the main process, whose result or error is everybody's.

A process by itself (no launcher, WORLD_SIZE absent or 1) does all of it on the spot: no group, nothing imported.

What this does not cover: an error that one process alone meets in training, outside of scoring, ends that process; the
others notice the closed connection, or are ended by their launcher.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from boostlib.common.errors import BoostError, RunError

T = TypeVar("T")
R = TypeVar("R")

LONGEST_WAIT = timedelta(hours=1)  # for another process, where its end goes unnoticed
LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")  # in messages of torch


def size() -> int:
    """How many processes share the run."""
    state = _state()
    return state.num_processes if state else 1


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    state = _state()
    return not state or state.is_main_process


def local_size() -> int:
    """How many of them run on this machine, as far as the launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def label() -> str:
    """Which process this is, in parentheses, for messages; empty for a process by itself."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    return f" (process {os.environ.get('RANK', 0)} of {count})" if count > 1 else ""


def share(items: Sequence[T]) -> Sequence[T]:
    """The part of `items` that this process works on."""
    state = _state()
    return items[state.process_index :: state.num_processes] if state else items


def spread(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> Sequence[R]:
    """`work(items)`, a result an item, each process doing its share. A BoostError of one process is raised in all."""
    if not _state():
        return work(items)
    parts = _everyones(lambda: list(work(share(items))) if share(items) else [])
    results: list[Any] = [None] * len(items)
    for k, part in enumerate(parts):
        results[k :: len(parts)] = part
    return results


def agreed(call: Callable[[], R]) -> R:
    """`call()` in every process, of its own things; a BoostError of one is raised in all."""
    state = _state()
    return _everyones(call)[state.process_index] if state else call()


def on_main(call: Callable[[], R]) -> R:
    """What `call` gives in the main process, in every process; a BoostError likewise. The others do not call it."""
    state = _state()
    return _everyones(lambda: call() if state.is_main_process else None)[0] if state else call()


def mean(values: Tensor) -> Tensor:
    """The mean of `values` over the processes, elementwise."""
    if not _state():
        return values
    from accelerate.utils import reduce

    with explain_loss():
        return reduce(values, "mean")


def total(count: int) -> int:
    """The sum of `count` over the processes."""
    return sum(_gather(count))


def largest(count: int) -> int:
    """The largest `count` of any process."""
    return max(_gather(count))


def require_agreement(what: str, found: Mapping[str, Any]) -> None:
    """Raises RunError in every process, naming the entries, where `found` is not the same in all of them."""
    everyone = _gather(found)
    keys = dict.fromkeys(key for one in everyone for key in one)
    different = [key for key in keys if any(one.get(key) != everyone[0].get(key) for one in everyone)]
    if different:
        raise RunError(
            f"the {len(everyone)} processes of this run disagree on {what} ({', '.join(different)}): they need the "
            "same model, data, versions and kind of device. Nothing of it was recorded: the same command continues"
        )


def require_whole_models(device: torch.device) -> None:
    """Raises RunError where the launcher splits models over processes, or set them up for another kind of device than
    the model's."""
    state = _state()
    if state and any(
        _flag(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
    ):
        raise RunError(
            "launched with FSDP, DeepSpeed, Megatron or tensor parallelism, which split a model's weights; basis and "
            "fold need them whole in every process: launch with --multi_gpu"
        )
    if state and state.device.type != device.type:
        raise RunError(
            f"the processes of this run meet on {state.device.type}, but the model is on {device.type}: load it with "
            f'device="{state.device.type}"; on a machine with GPUs, ACCELERATE_USE_CPU=true makes them meet on the CPU'
        )


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The block runs in the first process of each machine, then in the others, which find what it left in a cache.

    As accelerate's `local_main_process_first`, but an error in the first does not keep the others from meeting theirs.
    """
    state = _state()
    if state and not state.is_local_main_process:
        _wait(state)
    try:
        yield
    finally:
        if state and state.is_local_main_process:
            _wait(state)


@contextlib.contextmanager
def explain_loss() -> Iterator[None]:
    """Turns the error of a connection to a process that ended into a RunError that says so."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not _state() or not (isinstance(error, torch.distributed.DistError) or any(part in text for part in LOST)):
            raise
        raise RunError(
            "another process of this run has ended or cannot be reached; its own message, if any, says why. Every "
            "recorded round is kept: the same command continues the run, with this or another number of processes "
            f"({text.splitlines()[0]})"
        ) from error


def _state():
    """accelerate's view of the group, joined at the first call; None for a process by itself."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count < 2:
        return None
    from accelerate import PartialState

    cpu = not torch.cuda.is_available() or _flag("ACCELERATE_USE_CPU")
    try:
        state = PartialState(cpu=cpu, timeout=LONGEST_WAIT)
    except torch.distributed.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RunError(
            f"the processes of this run cannot meet at {where}: have all been started, and is the port free? The "
            f"launchers take another one ({str(error).splitlines()[0]})"
        ) from error
    if state.num_processes != count:
        raise RunError(
            f"launched as one of {count} processes, but accelerate was set up for {state.num_processes} before: make "
            "no Accelerator or PartialState of your own, and start the processes before anything is trained"
        )
    log = logging.getLogger("boostlib")
    if not state.is_main_process and log.level != logging.ERROR:
        log.setLevel(logging.ERROR)  # one process speaks
    return state


def _flag(name: str) -> bool:
    from accelerate.utils import parse_flag_from_env

    return parse_flag_from_env(name)


def _wait(state) -> None:
    with explain_loss():
        state.wait_for_everyone()


def _everyones(call: Callable[[], Any]) -> list[Any]:
    """What `call` gives in each process, in their order; the first one's BoostError is raised in all."""
    result = error = None
    try:
        result = call()
    except BoostError as found:
        error = found
    results, errors = zip(*_gather((result, error)), strict=True)
    for error in filter(None, errors):
        raise error
    return list(results)


def _gather(found: Any) -> list[Any]:
    """What each process found, in their order."""
    if not _state():
        return [found]
    from accelerate.utils import gather_object

    with explain_loss():
        return gather_object([found])
