"""A helper process: small, started afresh, and forks one locked child for each candidate or each judge.

It holds the preloaded modules, since a child can open no file. It runs nothing untrusted and nothing of a task; it
watches its child from outside, keeps the end of its output, and kills its whole group at the deadline.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import os
import random
import resource
import select
import signal
import socket
import sys
import time

from boostlib.sandbox import candidate, judge
from boostlib.sandbox.harden import Hardening
from boostlib.sandbox.line import Closed, receive, send

# with what they load only when used: a child can open no file
STDLIB = """
    __future__ _strptime abc argparse array ast base64 binascii bisect builtins calendar cmath codecs collections.abc
    contextlib copy csv ctypes dataclasses datetime decimal difflib doctest enum errno
    fractions functools gc getpass glob graphlib hashlib heapq hmac html inspect io ipaddress itertools json keyword
    locale logging math numbers operator os pathlib pickle platform pprint queue random re reprlib sched secrets select
    shlex shutil signal socket statistics string struct subprocess sys tempfile textwrap threading time timeit traceback
    types typing unicodedata unittest urllib.parse uuid warnings weakref zlib
"""
ENCODINGS = """
    ascii base64_codec cp1252 cp437 hex_codec idna latin_1 punycode raw_unicode_escape rot_13 unicode_escape utf_16
    utf_16_be utf_16_le utf_32 utf_32_be utf_32_le utf_8_sig
"""
ROLES = {"candidate": candidate.run, "judge": judge.run}
STACK = 2 << 20  # bytes: more than the deepest nesting that the interpreter's own limit allows
MADV_DONTNEED = 4
RPC, NOTE = 3, 4  # a child's descriptors beside the standard three; the note carries a failed start or the verdict


def main(role: str, control: int, preload: list[str], contained: bool) -> None:
    """Serves jobs until the sandbox closes the line or dies."""
    sys.modules["_hashlib"] = None  # hashlib does without OpenSSL, which every fork would pay for
    for name in (*STDLIB.split(), *(f"encodings.{name}" for name in ENCODINGS.split()), *preload):
        importlib.import_module(name)
    sys.path.clear()  # where the caller keeps its packages is not for a candidate, which could open none of them
    line = socket.socket(fileno=fcntl.fcntl(control, fcntl.F_DUPFD_CLOEXEC, 16))
    os.close(control)
    for place in (RPC, NOTE):  # taken, so that nothing of the helper's lies where a child puts its own
        os.dup2(0, place)
    _deepen_stack()
    hardening = Hardening(contained)
    for stream in (sys.stdout, sys.stderr):  # line by line, so that a kill loses nothing and both keep their order
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
    gc.collect()
    gc.freeze()  # a child's collector leaves these pages shared
    sandbox = os.getppid()
    with contextlib.suppress(Closed):
        send(line, {"ready": True})
        while True:
            # the line stays open in any process that the sandbox's own has forked: look for its death as well
            while not select.select([line], [], [], 2)[0]:
                if os.getppid() != sandbox:
                    return
            job, fd = receive(line)
            if fd is not None:  # else a `stop` for a child that had ended already
                send(line, Child(role, job, fd, hardening).watch(line))


def _deepen_stack() -> None:
    """Lets the stack grow now, by an argument that lies on it: in a child whose memory is used up it could not.

    The pages go back at once, since every fork would pay for them: it is the address space that the child needs.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    size = STACK if soft == resource.RLIM_INFINITY else min(STACK, soft // 2)
    argument = type("Argument", (ctypes.Structure,), {"_fields_": [("bytes", ctypes.c_char * size)]})
    libc = ctypes.CDLL(None)
    libc.getpid(argument())
    with open("/proc/self/maps") as maps:
        bottom = next((int(line.partition("-")[0], 16) for line in maps if line.endswith("[stack]\n")), None)
    if bottom is not None:
        libc.madvise(ctypes.c_void_p(bottom), ctypes.c_size_t(size - size // 8), MADV_DONTNEED)


class Child:
    """One locked child, from fork to report."""

    def __init__(self, role: str, job: dict, rpc: int, hardening: Hardening) -> None:
        self._limits, self._grace = job["limits"], job["grace"]
        self._out, out = os.pipe2(os.O_NONBLOCK)
        self._note, note = os.pipe2(os.O_NONBLOCK)
        os.set_blocking(out, True)
        self._tail, self._verdict = b"", b""
        self._start = time.monotonic()
        helper = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _run_locked(role, job, (rpc, out, note), hardening, helper)
        for fd in (rpc, out, note):
            os.close(fd)

    def watch(self, line: socket.socket) -> dict:
        """Waits for its end, or brings it about: at the deadline, or when told to; then the report."""
        pidfd = os.pidfd_open(self._pid)
        deadline = self._start + self._limits["wall_s"] + self._grace
        timed_out = stopped = False
        fds = {pidfd, line.fileno(), self._out, self._note}
        while not (timed_out or stopped):
            ready = select.select(fds, [], [], max(0.0, deadline - time.monotonic()))[0]
            timed_out = not ready
            for fd in (self._out, self._note):
                if fd in ready and not self._keep(fd):
                    fds.discard(fd)
            if pidfd in ready:
                break
            stopped = line.fileno() in ready
            timed_out = timed_out or time.monotonic() > deadline
        if stopped:
            receive(line)
        os.close(pidfd)
        return self._report(timed_out, stopped)

    def _keep(self, fd: int) -> bool:
        """Reads what is there; False at the end of it."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        if fd == self._note:
            self._verdict += data
        else:
            self._tail = (self._tail + data)[-max(1, self._limits["output_kb"] * 1024) :]
        return bool(data)

    def _report(self, timed_out: bool, stopped: bool) -> dict:
        for kill in (os.killpg, os.kill):  # the group is not there yet if it was only just forked
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self._pid, signal.SIGKILL)
        _, status, usage = os.wait4(self._pid, 0)
        wall = time.monotonic() - self._start
        for fd in (self._out, self._note):
            for _ in range(4):  # a pipe holds 64 KiB
                self._keep(fd)
            os.close(fd)
        code = os.waitstatus_to_exitcode(status)
        return {
            "exit": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "timed_out": timed_out,
            "stopped": stopped,
            "wall_s": wall,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "max_rss_kb": usage.ru_maxrss,
            "output": self._tail.decode("utf-8", "replace") if self._limits["output_kb"] else "",
            "note": self._verdict.decode("utf-8", "replace"),
        }


def _run_locked(role: str, job: dict, ends: tuple[int, int, int], hardening: Hardening, helper: int) -> None:
    """In the child: takes its descriptors, locks itself in, does its part, and never returns."""
    try:
        rpc, out, note = ends
        for fd, place in ((out, 1), (out, 2), (rpc, RPC), (note, NOTE)):
            os.dup2(fd, place)
        hardening.apply(job["limits"], helper, keep=NOTE + 1)
        random.seed(0)  # forking has reseeded it, and a verdict should not depend on luck
    except BaseException as error:
        os.write(NOTE, f"a child could not be locked in: {error!r}".encode())
        os._exit(1)
    try:
        ROLES[role](job, RPC, NOTE)
    finally:
        os._exit(0)
