"""What goes into the sandbox, what comes out, and the errors that are not a verdict.

A `Status` is a verdict on the candidate. What is not the candidate's doing is an exception: a task that cannot be run
(`TaskError`) or a sandbox that does not work (the other `SandboxError`s). A reward is never made of those.
"""

import ast
import math
import warnings
from dataclasses import dataclass
from enum import StrEnum

from boostlib.common.errors import BoostError


class SandboxError(BoostError):
    """Base of what goes wrong with the sandbox itself or with a task."""


class SandboxUnavailable(SandboxError):
    """This machine cannot contain untrusted code, and says why."""


class SandboxSelfTestError(SandboxError):
    """The sandbox started, but a known program got the wrong verdict or a forbidden act went through."""


class SandboxInfrastructureError(SandboxError):
    """A helper process died or hung, and again after its one restart."""


class TaskError(SandboxError):
    """A task that no candidate could pass, or that every one would: its own fault, not the candidate's."""


class AssertsNothing(TaskError):
    """Tests that programs pass which do nothing right."""


class Status(StrEnum):
    """The verdict on one candidate."""

    PASSED = "passed"
    FAILED = "failed"  # it ran, and a test disagrees
    CANDIDATE_ERROR = "candidate_error"  # it raised, does not compile, or lacks the entry point
    TIMEOUT = "timeout"  # wall or CPU time
    CRASHED = "crashed"  # killed by a signal, or left before the tests were done
    PROTOCOL_ERROR = "protocol_error"  # its answers were not data that a test could have asked for


@dataclass(frozen=True)
class Limits:
    """What one candidate may use. Memory comes on top of what the preloaded modules take."""

    wall_s: float = 3.0
    cpu_s: int = 4
    memory_mb: int = 512
    file_kb: int = 0
    open_files: int = 64
    output_kb: int = 4  # of output kept; more is read and dropped

    def __post_init__(self) -> None:
        if not (math.isfinite(self.wall_s) and self.wall_s > 0):
            raise ValueError(f"wall_s is {self.wall_s}: give a positive number of seconds")
        if self.cpu_s < 1 or self.memory_mb < 16 or self.open_files < 16:
            raise ValueError(f"{self}: at least 1 s of CPU, 16 MB and 16 open files are needed to run anything")
        if self.file_kb < 0 or self.output_kb < 0:
            raise ValueError(f"{self}: file_kb and output_kb cannot be negative")


@dataclass(frozen=True)
class CodeTask:
    """Trusted tests for one candidate.

    tests           asserts, or a function `check(candidate)` that is called with the candidate's `entry_point`
    exports         the names that the tests may take from the candidate; nothing else of it reaches them
    setup           source run before the tests, once the exports are there
    trusted_prompt  source run first of all; an export of the same name replaces what it defines
    """

    tests: str
    exports: tuple[str, ...]
    setup: str = ""
    trusted_prompt: str = ""
    entry_point: str | None = None

    def __str__(self) -> str:
        """How an error names it: by what it takes from a candidate."""
        return f"the task for {', '.join(self.exports)[:100]}" if self.exports else "the task"

    def __post_init__(self) -> None:
        if isinstance(self.exports, str):
            raise TaskError(f"exports is the string {self.exports!r}: give a tuple of names")
        object.__setattr__(self, "exports", tuple(self.exports))
        for part in ("trusted_prompt", "setup", "tests"):
            tree = _parse(part, getattr(self, part))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        calls_nothing = all(isinstance(node, (ast.FunctionDef, ast.Import, ast.ImportFrom)) for node in tree.body)
        if calls_nothing and self.entry_point is None:  # they would pass whatever the candidate does
            raise TaskError("the tests assert nothing: give asserts, or check(candidate) and an entry_point")
        if self.entry_point is not None:
            if self.entry_point not in self.exports:
                raise TaskError(f"entry_point {self.entry_point!r} is not among the exports {self.exports}")
            if "check" not in names:
                raise TaskError(f"entry_point {self.entry_point!r} is given, but the tests define no check(candidate)")


def _parse(part: str, source: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # published tests hold escapes such as "\\d"
            tree = ast.parse(source)
            compile(tree, part, "exec")  # what parses may still not compile, such as a lone `return`
        return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TaskError(f"the task's {part} does not compile: {error}") from error


@dataclass(frozen=True)
class CodeResult:
    """One verdict, and what the candidate used on the way to it."""

    status: Status
    detail: str  # why, in one line
    stdout_tail: str  # the end of what it printed, on either stream
    signal: int | None  # that ended it, if one did before the verdict
    wall_s: float
    cpu_s: float
    max_rss_kb: int
    isolation: str  # as `probe_isolation()` describes it, or "rlimits only"

    @property
    def passed(self) -> bool:
        return self.status is Status.PASSED
