"""One worker: its two helper processes, and a check from code and task to result."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from boostlib.sandbox import line
from boostlib.sandbox.harden import RLIMITS_ONLY
from boostlib.sandbox.judge import GONE, TASK_ERROR
from boostlib.sandbox.results import AssertsNothing, CodeResult, CodeTask, Limits, Status, TaskError

# All that a helper knows of its surroundings. The fixed hash seed gives candidates the same order of sets every time.
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
START_S = 60.0  # for the imports, on a machine that is busy
GRACE_S = 1.0  # the judge outlives the candidate's deadline, so that it sees the end of it
# programs that no test should pass
WRONG = ("def wrong(*_, **__): return None", "def wrong(*_, **__): return object()")
SLACK_S = 20.0  # past every deadline of its own, a silent helper counts as dead


class HelperDied(Exception):
    """A helper ended, hung, or could not lock its child in."""


class JudgeDied(Exception):
    """A judge's child ended without a verdict; `result` is what that says of the candidate, if the judge is sound."""

    def __init__(self, result: CodeResult) -> None:
        super().__init__(result.detail)
        self.result = result


class Helper:
    """One helper process, started afresh: never a fork of the caller, whose memory it would carry."""

    def __init__(self, role: str, preload: tuple[str, ...], contained: bool) -> None:
        self.role = role
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the helper
        self._line, theirs = socket.socketpair()
        config = json.dumps({"paths": _search_paths(), "preload": preload, "contained": contained})
        script = str(Path(__file__).with_name("start.py"))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-S", script, role, str(theirs.fileno()), config],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,  # Ctrl-C in a terminal is for the caller
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: dict, fd: int | None = None) -> None:
        with self._dying():
            self._line.settimeout(SLACK_S)
            line.send(self._line, message, fd)

    def receive(self, timeout: float) -> dict:
        with self._dying():
            self._line.settimeout(timeout)
            return line.receive(self._line)[0]

    @contextlib.contextmanager
    def _dying(self):
        try:
            yield
        except (line.Closed, TimeoutError) as error:
            self._errors.seek(0)
            said = self._errors.read().decode("utf-8", "replace").strip()[-2000:]
            why = "does not answer" if isinstance(error, TimeoutError) else "has died"
            raise HelperDied(f"the {self.role} helper {why}" + (f": {said}" if said else "")) from error

    def close(self) -> None:
        self._line.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()


class Worker:
    """Checks one candidate at a time."""

    def __init__(self, preload: tuple[str, ...], isolation: str) -> None:
        self._preload, self.isolation = preload, isolation
        self._helpers: list[Helper] = []

    @property
    def pids(self) -> list[int]:
        return [helper.pid for helper in self._helpers]

    def launch(self) -> None:
        """Starts both helpers without waiting for them."""
        contained = self.isolation != RLIMITS_ONLY
        self._helpers = [Helper(role, self._preload, contained) for role in ("candidate", "judge")]

    def await_ready(self) -> None:
        for helper in self._helpers:
            helper.receive(START_S)

    def close(self) -> None:
        for helper in self._helpers:
            helper.close()
        self._helpers = []

    def check(self, code: str, task: CodeTask, limits: Limits) -> CodeResult:
        """The verdict on one candidate. HelperDied or JudgeDied if there is none, TaskError if the task is to blame."""
        judged, ran = self._run(code, task, limits)
        status, detail = _verdict(task, judged, ran, limits)
        result = CodeResult(
            status=status,
            detail=detail,
            stdout_tail=ran["output"],
            signal=None if _ended_by_us(ran) else ran["signal"],
            wall_s=ran["wall_s"],
            cpu_s=ran["cpu_s"],
            max_rss_kb=ran["max_rss_kb"],
            isolation=self.isolation,
        )
        if not judged["verdict"] and status is not Status.TIMEOUT:
            raise JudgeDied(result)
        return result

    def require_assertion(self, code: str, task: CodeTask, limits: Limits) -> None:
        """Raises TaskError where `code` has passed tests that assert nothing: every program would.

        Some wrong program must fail at an assertion. If none does, and not all of them pass, the tests trip over them
        before they assert anything: then `code` has to come to an assertion.
        """
        seen = []
        for wrong in WRONG:
            stub = "\n".join([wrong, *(f"{name} = wrong" for name in task.exports if name.isidentifier())])
            judged, _ = self._run(stub, task, limits, watch=True)
            verdict = judged["verdict"] or {"status": "", "reached": True}
            if verdict["status"] != Status.PASSED and verdict["reached"]:
                return
            seen.append(verdict["status"])
        if any(status != Status.PASSED for status in seen):
            judged, _ = self._run(code, task, limits, watch=True)
            verdict = judged["verdict"]
            if not verdict or verdict["status"] != Status.PASSED or verdict["reached"]:
                return
        raise AssertsNothing(f"{task} asserts nothing: programs pass that do nothing right")

    def _run(self, code: str, task: CodeTask, limits: Limits, watch: bool = False) -> tuple[dict, dict]:
        """What the helpers report of the judge's child, with its "verdict", and of the candidate's."""
        candidate, judge = self._helpers
        ours, theirs = socket.socketpair()
        job = {"limits": asdict(limits), "grace": 0.0}
        with ours, theirs:
            candidate.send({**job, "code": code}, ours.fileno())
            judge.send({**job, **asdict(task), "grace": GRACE_S, "watch": watch}, theirs.fileno())
        judged = judge.receive(limits.wall_s + GRACE_S + SLACK_S)
        candidate.send({"stop": True})
        ran = candidate.receive(limits.wall_s + SLACK_S)
        if ran["note"]:
            raise HelperDied(ran["note"])
        try:
            judged["verdict"] = json.loads(judged["note"] or "null")
        except json.JSONDecodeError:
            raise HelperDied(f"a judge ended without a verdict: {judged['note']}") from None
        return judged, ran


def _verdict(task: CodeTask, judged: dict, ran: dict, limits: Limits) -> tuple[Status, str]:
    """The judge's verdict; where it could reach none, how the candidate ended; without one, how the judge did."""
    verdict = judged["verdict"]
    if not verdict:
        if judged["timed_out"] or _out_of_cpu(judged, limits):
            return Status.TIMEOUT, "the tests did not end on what the candidate returned"
        how = f"by signal {judged['signal']}" if judged["signal"] else "without a verdict"
        return Status.PROTOCOL_ERROR, f"its answers ended the tests {how}"
    if verdict["status"] == TASK_ERROR:
        raise TaskError(f"{task} fails by itself: {verdict['detail']}")
    if verdict["status"] != GONE:
        return Status(verdict["status"]), verdict["detail"]
    if ran["timed_out"]:
        return Status.TIMEOUT, f"ran for more than {limits.wall_s} s"
    if _out_of_cpu(ran, limits):
        return Status.TIMEOUT, f"used more than {limits.cpu_s} s of CPU time"
    if _ended_by_us(ran):
        return Status.PROTOCOL_ERROR, "closed the line to the tests"
    how = f"killed by signal {ran['signal']}" if ran["signal"] else f"exited with code {ran['exit']}"
    return Status.CRASHED, f"{how} before the tests were done"


def _out_of_cpu(ran: dict, limits: Limits) -> bool:
    """By the signal for it, or a second later by the one that cannot be caught."""
    return ran["signal"] == signal.SIGXCPU or (ran["signal"] == signal.SIGKILL and ran["cpu_s"] > limits.cpu_s)


def _ended_by_us(ran: dict) -> bool:
    """One that was on its way out when told to stop keeps the exit code or signal of its own."""
    return ran["signal"] == signal.SIGKILL and (ran["stopped"] or ran["timed_out"])


def _search_paths() -> list[str]:
    """Where this process finds packages, for those that a helper preloads."""
    own = [Path(importlib.util.find_spec(name).origin).parents[1] for name in ("seccompy", "landlockpy")]
    return list(dict.fromkeys(str(Path(path).resolve()) for path in (*own, *filter(os.path.isdir, sys.path))))
