"""`CodeSandbox`: workers, self-test, and what happens when a helper dies."""

import os
import queue
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from boostlib.sandbox.harden import RLIMITS_ONLY, describe
from boostlib.sandbox.results import (
    CodeResult,
    CodeTask,
    Limits,
    SandboxError,
    SandboxInfrastructureError,
    SandboxSelfTestError,
    SandboxUnavailable,
    Status,
)
from boostlib.sandbox.worker import HelperDied, JudgeDied, Worker

# (what it shows, code, tests, the right verdict); the last only where the kernel contains
KNOWN = (
    ("a right answer", "def f(x):\n    return x + 1", "assert f(1) == 2", Status.PASSED),
    ("a wrong answer", "def f(x):\n    return x", "assert f(1) == 2", Status.FAILED),
)
DENIED = """
import os, socket
def f(act):
    {"open": lambda: open("/etc/passwd"), "socket": socket.socket, "fork": os.fork}[act]()
"""
DENIED_TESTS = """
for act in ("open", "socket", "fork"):
    try:
        f(act)
    except PermissionError:
        continue
    assert False, act
"""


def probe_isolation() -> str:
    """What contains a candidate on this machine, such as "seccomp+landlock7"; "" where seccomp is missing."""
    return describe()


class CodeSandbox:
    """Runs untrusted code against trusted tests; see the package for what it does not cover.

    workers   checks at once, each with two helper processes; the number of usable cores if None
    preload   modules that candidates and tests may import beside the usual ones of the standard library; submodules
              that load on first use have to be named too, such as ("numpy", "numpy.random")
    unsafe    rlimits alone, no containment at all: only for code that you would run yourself
    """

    def __init__(
        self,
        workers: int | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        preload: tuple[str, ...] = (),
        unsafe: bool = False,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}: at least one is needed")
        self.isolation = RLIMITS_ONLY if unsafe else probe_isolation()
        if not self.isolation:
            raise SandboxUnavailable(
                "this machine's kernel offers no seccomp filter, without which untrusted code cannot be contained: use "
                "Linux on x86-64 or aarch64, outside a container that forbids seccomp, or pass unsafe=True to run the "
                "code with resource limits alone"
            )
        self.limits = limits
        self._preload = tuple(preload)
        self._size = workers or len(os.sched_getaffinity(0))
        self._workers: list[Worker] = []
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._owner = 0
        self._asserting: set[CodeTask] = set()  # tasks whose tests are known to assert something

    def __enter__(self) -> "CodeSandbox":
        if self.isolation == RLIMITS_ONLY:
            warnings.warn("unsafe=True: candidates run with resource limits alone, uncontained", stacklevel=2)
        self._owner = os.getpid()
        self._workers = [Worker(self._preload, self.isolation) for _ in range(self._size)]
        try:
            for worker in self._workers:
                worker.launch()
            for worker in self._workers:
                worker.await_ready()
            with ThreadPoolExecutor(self._size) as pool:
                list(pool.map(self._self_test, self._workers))
        except HelperDied as error:
            self.close()
            raise SandboxInfrastructureError(f"the sandbox does not start: {error}") from error
        except BaseException:
            self.close()
            raise
        for worker in self._workers:
            self._idle.put(worker)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process of the sandbox."""
        if self._owner == os.getpid():  # a fork of the caller must not end its parent's helpers
            for worker in self._workers:
                worker.close()
        self._workers, self._idle, self._owner = [], queue.SimpleQueue(), 0

    def run(self, code: str, task: CodeTask) -> CodeResult:
        """The verdict on one candidate."""
        return self.run_many([(code, task)])[0]

    def run_many(self, checks: Iterable[tuple[str, CodeTask]]) -> list[CodeResult]:
        """The verdicts in the order of `checks`; an exception means that there are none to be had."""
        if self._owner != os.getpid():
            raise SandboxError("the sandbox is not open in this process: use it as `with CodeSandbox() as box:`")
        with ThreadPoolExecutor(self._size) as pool:
            futures = [pool.submit(self._check, code, task) for code, task in checks]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)  # those that run end within their limits
                raise

    def _check(self, code: str, task: CodeTask) -> CodeResult:
        worker = self._idle.get()
        try:
            return self._verdict(worker, code, task)
        except HelperDied as first:
            return self._check_again(worker, code, task, first)
        finally:
            self._idle.put(worker)

    def _verdict(self, worker: Worker, code: str, task: CodeTask) -> CodeResult:
        try:
            result = worker.check(code, task, self.limits)
        except JudgeDied:
            return self._blamed(worker, code, task)
        if result.passed and task not in self._asserting:
            worker.require_assertion(code, task, self.limits)
            self._asserting.add(task)
        return result

    def _blamed(self, worker: Worker, code: str, task: CodeTask) -> CodeResult:
        """The verdict on a candidate whose judge died: the judge's, if it does not die again; it has to be sound."""
        self._self_test(worker)
        try:
            return worker.check(code, task, self.limits)
        except JudgeDied as again:
            return again.result

    def _check_again(self, worker: Worker, code: str, task: CodeTask, first: HelperDied) -> CodeResult:
        """Once more with new helpers, which have to pass the self-test."""
        try:
            worker.close()
            worker.launch()
            worker.await_ready()
            self._self_test(worker)
            return self._verdict(worker, code, task)
        except HelperDied as second:
            raise SandboxInfrastructureError(f"{first}; after a restart: {second}") from second

    def _self_test(self, worker: Worker) -> None:
        known = KNOWN if worker.isolation == RLIMITS_ONLY else (*KNOWN, ("acts", DENIED, DENIED_TESTS, Status.PASSED))
        for what, code, tests, right in known:
            try:
                result = worker.check(code, CodeTask(tests, ("f",)), Limits(wall_s=30.0))
            except JudgeDied as error:
                raise HelperDied(f"a judge ended without a verdict: {error}") from error
            if result.status is not right:
                raise SandboxSelfTestError(f"{what}: {result.status} instead of {right} ({result.detail})")
