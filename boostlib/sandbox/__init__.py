"""Runs what a model wrote against trusted tests: contained, fast, and with a verdict that it cannot forge.

    with CodeSandbox(workers=2) as box:
        result = box.run("def double(x): return 2 * x", CodeTask("assert double(3) == 6", exports=("double",)))
        result.passed, result.status, result.detail

Two processes are started afresh for each worker. One forks a child for every candidate and never sees the tests; the
other forks a child for every check, which runs the tests and calls the candidate over a socket that carries data alone.
Each child is locked in before anything untrusted runs (`harden.py`). One interpreter for both could not be made sound:
frames and the heap would give the tests away, patched built-ins and objects that equal everything would forge a pass.

What a test should know: arguments and results cross by value, so a test does not see its arguments change: none of the
974 problems of MBPP and the 164 of HumanEval looks at a list, set or dict again that it has passed. What is not data (a
generator, an instance, a subclass of int) is a handle that can be called, iterated, indexed and asked for its length
where the thing can be, and for its attributes, and equals nothing but itself. Exceptions arrive as their own class,
with arguments, attributes, members and cause; SystemExit and its like can be caught as Exception too. Candidates import
only what is preloaded, start no threads, and find `random` seeded and the order of sets fixed.

Tests have to assert something. The first time that a task is passed, two programs that do nothing right are tried as
well: if they pass too, or the tests come to no assertion, that is a TaskError. A judge that dies twice of one candidate
and passes the self-test between is a verdict on the candidate.

What it does not cover:
- bugs of the kernel, of its seccomp or of its Landlock, and side channels between processes, timing among them;
- the machine's load: a candidate may use its whole CPU time and memory, next to all that run beside it;
- tests whose asserts are swallowed, and over which a program that does nothing right trips outside of any assert;
- a candidate that answers rightly by luck or because the tests are weak: arguments reveal what a test asks;
- tests that hand the candidate's answers to `eval` and the like, or hand `eval` to the candidate: what it writes would
  run beside the verdict;
- `unsafe=True`, which contains nothing;
- systems other than Linux on x86-64 and aarch64, where it refuses to start.
"""

from boostlib.sandbox.box import CodeSandbox, probe_isolation
from boostlib.sandbox.results import (
    AssertsNothing,
    CodeResult,
    CodeTask,
    Limits,
    SandboxError,
    SandboxInfrastructureError,
    SandboxSelfTestError,
    SandboxUnavailable,
    Status,
    TaskError,
)

__all__ = [
    "AssertsNothing",
    "CodeResult",
    "CodeSandbox",
    "CodeTask",
    "Limits",
    "SandboxError",
    "SandboxInfrastructureError",
    "SandboxSelfTestError",
    "SandboxUnavailable",
    "Status",
    "TaskError",
    "probe_isolation",
]
