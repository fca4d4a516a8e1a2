"""Locks a freshly forked child in: the only file that knows seccompy and landlockpy.

In this order: death signal and a look at the parent, a session of its own, no descriptors but its own, rlimits, no
capabilities, no_new_privs, not dumpable, Landlock where the kernel has it, and seccomp, which is the wall: every system
call that is not listed here fails with EPERM, opening a file among them, and one of another architecture kills.
"""

import ctypes
import errno
import os
import resource
import signal
import sys

import landlockpy
import seccompy

MB = 1 << 20
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 4, 24, 38, 47
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
CAPABILITY_VERSION_3 = 0x20080522
PROT_EXEC = 4
# what duplicates or inspects a descriptor; F_SETOWN with F_SETSIG would send any signal to the caller's process
FCNTL = {"F_DUPFD": 0, "F_GETFD": 1, "F_SETFD": 2, "F_GETFL": 3, "F_DUPFD_CLOEXEC": 1030}

# no openat, socket, clone, execve or kill among them
ALLOWED = """
    read write readv writev close fstat lseek dup dup2 dup3 poll ppoll select pselect6
    munmap mremap madvise brk
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall
    futex set_robust_list rseq sched_yield nanosleep gettimeofday time times getrusage getrandom
    getpid getppid gettid getuid geteuid getgid getegid getcwd uname exit exit_group
"""

# these tell of any process by its number, or whether there is one: they may be asked about the caller alone
OF_A_CLOCK = ("clock_gettime", "clock_getres", "clock_nanosleep")
LAST_CLOCK = 11  # of the clocks that belong to no one; 2 and 3 are the caller's own
ANY_PID = 0x7FA5C3E1  # stands for the child's, which is not known when the filter is built
INT = 0xFFFFFFFF  # what the kernel reads of an int

RLIMITS_ONLY = "rlimits only"


def describe() -> str:
    """What contains a child on this machine, such as "seccomp+landlock7"; "" without seccomp."""
    try:
        if not sys.platform.startswith("linux") or not seccompy.supported():
            return ""
        seccompy.audit_arch()  # raises where there is no table of system calls
    except OSError:
        return ""
    landlock = landlockpy.abi_version()
    return f"seccomp+landlock{landlock}" if landlock else "seccomp"


class Program(ctypes.Structure):
    """The kernel's `sock_fprog`: how many instructions of eight bytes, and where."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class Hardening:
    """Built once in the helper, applied in each child it forks.

    Building it makes both packages look up libc, which opens files and starts programs: too late in a locked child.
    What can be prepared is: all that a child does, and every page that it touches, is paid for in each check.
    """

    def __init__(self, contained: bool) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._contained = contained
        self._no_capabilities = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
        self._ruleset, self._program = None, b""
        if contained:
            if "landlock" in describe():
                scope = landlockpy.Scope.ABSTRACT_UNIX_SOCKET | landlockpy.Scope.SIGNAL
                self._ruleset = landlockpy.Ruleset(scoped=scope)
            self._program = _build_filter().program
            assert all(
                self._program.count(each) == times for each, times in zip(_names(ANY_PID), (1, 3, 3), strict=True)
            )
            self._drop_bounding_set()
        with open("/proc/self/statm") as file:
            self._held = int(file.read().split()[0]) * resource.getpagesize()

    def apply(self, limits: dict, parent: int, keep: int) -> None:
        """Locks this process in, with descriptors 0 to keep - 1; raises where a step that is required fails."""
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        os.setsid()
        self._close_others(keep)
        self._set_rlimits(limits)
        if not self._contained:
            return
        self._drop_capabilities()
        self._prctl(PR_SET_NO_NEW_PRIVS, 1)
        self._prctl(PR_SET_DUMPABLE, 0)
        if self._ruleset:
            self._ruleset.restrict()
            self._ruleset.close()
        self._load_filter()

    def _load_filter(self) -> None:
        program = self._program
        for anyone, own in zip(_names(ANY_PID), _names(os.getpid()), strict=True):
            program = program.replace(anyone, own)
        instructions = Program(len(program) // 8, program)
        self._check(self._libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(instructions), 0, 0), "seccomp")

    def _close_others(self, keep: int) -> None:
        if self._ruleset:
            kept = self._ruleset.fileno()
            os.closerange(keep, kept)
            keep = kept + 1
        os.closerange(keep, 2**31 - 1)

    def _set_rlimits(self, limits: dict) -> None:
        wanted = {
            "AS": self._held + limits["memory_mb"] * MB,
            "CPU": limits["cpu_s"],
            "FSIZE": limits["file_kb"] * 1024,
            "NOFILE": limits["open_files"],
            "CORE": 0,
            "NPROC": 0,  # the kernel ignores it for root: seccomp denies clone as well
            "MSGQUEUE": 0,
            "MEMLOCK": 0,
        }
        if not self._contained:
            del wanted["NPROC"]  # counts all processes of the user, and nothing else here stops one
        for name, value in wanted.items():
            which = getattr(resource, f"RLIMIT_{name}")
            _, hard = resource.getrlimit(which)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            # past the soft CPU limit a signal that can be caught; a second later one that cannot
            resource.setrlimit(which, (value, value + 1 if name == "CPU" else value))

    def _drop_bounding_set(self) -> None:
        """What no program started from here could get back; already in the helper, whose children inherit it."""
        for capability in range(64):
            if self._libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                break  # past the last one, or not root: then there is none to drop

    def _drop_capabilities(self) -> None:
        self._prctl(PR_CAP_AMBIENT, 4)
        self._check(self._libc.capset(*self._no_capabilities), "capset")

    def _prctl(self, option: int, value: int) -> None:
        self._check(self._libc.prctl(option, value, 0, 0, 0), f"prctl {option}")

    @staticmethod
    def _check(returned: int, what: str) -> None:
        if returned != 0:
            raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _build_filter() -> seccompy.Filter:
    wall = seccompy.Filter(default=seccompy.Action.ERRNO | errno.EPERM)
    for name in ALLOWED.split():
        try:
            wall.allow(name)
        except ValueError:
            continue  # not on this architecture, such as dup2 on aarch64
    for name in ("mmap", "mprotect"):  # no new machine code
        wall.allow(name, args=[(2, seccompy.CmpOp.MASKED_EQ, 0, PROT_EXEC)])
    for command in FCNTL.values():
        wall.allow("fcntl", args={1: command})
    pid, process_clock, thread_clock = (int.from_bytes(name, "little") for name in _names(ANY_PID))
    for own in (0, pid):
        wall.allow("sched_getaffinity", args=[(0, seccompy.CmpOp.MASKED_EQ, own, INT)])
    for name in OF_A_CLOCK:
        wall.allow(name, args=[(0, seccompy.CmpOp.LE, LAST_CLOCK)])
        for own in (process_clock, thread_clock):
            wall.allow(name, args=[(0, seccompy.CmpOp.MASKED_EQ, own, INT)])
    return wall


def _names(pid: int) -> list[bytes]:
    """The number of a process, of its clock and of its only thread's, as a filter holds them."""
    return [(number & INT).to_bytes(4, "little") for number in (pid, ~pid << 3 | 2, ~pid << 3 | 6)]
