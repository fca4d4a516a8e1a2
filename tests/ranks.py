"""Several real processes that share one run: gloo on the CPU, started as a launcher starts them.

The processes are forked from one server that has imported everything already, so that a pair costs no more than its
work. What runs in them are functions of a module, called with plain arguments.
"""

import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch", "boostlib.training.trl", "helpers"])
KILLED = -signal.SIGKILL


def together(function: Callable, *args, processes: int = 2, patience: float = 300.0) -> list[Any]:
    """What `function(*args)` gave in each process: its result, the exception it raised, or KILLED.

    Raises where a process neither ends nor dies within `patience` seconds: nothing may hang.
    """
    with tempfile.TemporaryDirectory() as folder:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        team = [
            SERVER.Process(
                target=_process, args=(k, processes, {**os.environ, **address}, Path(folder), function, args)
            )
            for k in range(processes)
        ]
        for one in team:
            one.start()
        end = time.monotonic() + patience
        for one in team:
            one.join(max(0.0, end - time.monotonic()))
        hanging = [k for k, one in enumerate(team) if one.is_alive()]
        for one in team:
            one.kill()
        assert not hanging, f"processes {hanging} did not end within {patience} s"
        return [_outcome(Path(folder) / str(k), one.exitcode) for k, one in enumerate(team)]


def _process(rank: int, size: int, environment: dict[str, str], folder: Path, function: Callable, args: tuple) -> None:
    place = {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    os.environ.update(environment)
    if size > 1:  # one process is started by no launcher
        os.environ.update({key: str(value) for key, value in place.items()})
    torch.set_num_threads(1)
    try:
        outcome = function(*args)
    except Exception as error:
        outcome = error
    (folder / str(rank)).write_bytes(pickle.dumps(outcome))


def _outcome(path: Path, code: int | None) -> Any:
    assert path.exists() or code == KILLED, f"a process ended with {code} and no result"
    return pickle.loads(path.read_bytes()) if path.exists() else KILLED


def free_port() -> int:
    """One that nothing listens on, outside the range that the system hands out by itself. Training seeds `random`, and
    tests that run beside each other must not draw the same ones."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
