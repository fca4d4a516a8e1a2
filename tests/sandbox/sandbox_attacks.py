"""What hostile code tries, as data, and a driver that tries it: in this process, or as a script for another user.

Acts define `attack()`, which returns "done" once the act has succeeded and raises otherwise. Forgeries try to pass
tests that their `f` does not meet. `harmless` ones are also let through once, without containment, to show that they
work: acts with `unsafe=True`, forgeries in a runner that shares one interpreter with the code, as most do.

Standard library and the sandbox alone: the interpreter of the other user may have nothing else.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from boostlib.sandbox import CodeResult, CodeSandbox, CodeTask, Limits

LIMITS = Limits(wall_s=4.0, cpu_s=6)  # generous: a busy machine must not turn a denial into a timeout
FREE = Limits(wall_s=20.0, cpu_s=20, memory_mb=8192, file_kb=100_000, open_files=600)  # for what is let through
PRELOAD = ("mmap", "resource")  # tools that some acts need
HONEST = ("def f(x):\n    return 2 * x", CodeTask("assert f(2) == 4", ("f",)))


@dataclass(frozen=True)
class Attack:
    name: str
    code: str
    ends: str  # the status, and what the detail says, such as "candidate_error PermissionError"
    tests: str = "assert attack() == 'done'"
    harmless: bool = False
    root: bool = False  # the control needs root


def act(name: str, body: str, ends: str = "candidate_error PermissionError", **more: bool) -> Attack:
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    imports = "import ctypes, fcntl, mmap, os, signal, socket, subprocess, sys, threading, time\n"
    return Attack(name, f"{imports}def attack():\n{lines}    return 'done'\n", ends, **more)


CALL = """
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    result = libc.syscall(*args)
    if result == -1: raise OSError(ctypes.get_errno(), 'denied')
    return result
"""

ACTS = [
    act("read_passwd", "open('/etc/passwd').read()", harmless=True),
    act("read_test_data", "assert 'secret' in open(SECRET).read()", harmless=True),
    act("list_folder", "os.listdir('/')", harmless=True),
    act("stat", "os.stat('/etc')", harmless=True),
    act("parent_environ", "open(f'/proc/{os.getppid()}/environ', 'rb').read()", harmless=True),
    act("parent_memory", "open(f'/proc/{os.getppid()}/mem', 'rb')", harmless=True),
    act("own_memory_map", "open('/proc/self/maps').read()", harmless=True),
    act("write_outside", "open(SECRET + '.new', 'w').close()", harmless=True),
    act("write_60_mb", "open(SECRET + '.big', 'wb').write(b'x' * 60_000_000)", harmless=True),
    act("delete_outside", "os.remove(VICTIM)", harmless=True),
    act("rename_outside", "os.rename(SECRET, SECRET + '.moved'); os.rename(SECRET + '.moved', SECRET)", harmless=True),
    act("chmod_outside", "os.chmod(SECRET, 0o644)", harmless=True),
    act("symlink", "os.symlink('/etc', SECRET + '.link')", harmless=True),
    act("mkdir", "os.mkdir(SECRET + '.folder')", harmless=True),
    act("chdir", "os.chdir('/tmp')", harmless=True),
    act("tcp", "socket.create_connection(('127.0.0.1', TCP), timeout=2)", harmless=True),
    act("tcp_listen", "socket.create_server(('127.0.0.1', 0))", harmless=True),
    act("udp", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', UDP))", harmless=True),
    act("abstract_socket", "socket.socket(socket.AF_UNIX).connect(ABSTRACT)", harmless=True),
    act("socketpair", "socket.socketpair()", harmless=True),
    act("resolve_name", "socket.getaddrinfo('localhost', 80)", "candidate_error gaierror", harmless=True),
    act(
        "50_forks",
        """
for _ in range(50):
    if os.fork() == 0: os._exit(0)
    os.wait()
""",
        harmless=True,
    ),
    act("raw_clone", CALL + "if call(56, 17, 0, 0, 0, 0) == 0: os._exit(0)"),
    act("raw_clone3", CALL + "call(435, (ctypes.c_uint64 * 11)(), 88)"),
    act("thread", "threading.Thread(target=print).start()", "candidate_error can't start new thread", harmless=True),
    act("subprocess", "subprocess.run(['/bin/true'], check=True)", harmless=True),
    act("shell", "if os.system('true') != 0: raise PermissionError('no shell')", harmless=True),
    act("exec", "os.execv('/bin/true', ['true'])"),
    act(
        "background_process",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(6)
    os._exit(0)
""",
        harmless=True,
    ),
    act("4_gib", "mmap.mmap(-1, 4 << 30)", "candidate_error Cannot allocate memory", harmless=True),
    act("4_gib_in_pieces", "kept = [bytearray(1 << 20) for _ in range(4096)]", "candidate_error MemoryError"),
    act("endless_loop", "while True: pass", "timeout"),
    act("endless_sleep", "while True: time.sleep(10)", "timeout"),
    act(
        "catching_the_timeout",
        """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
""",
        "timeout",
    ),
    Attack("hang_while_loading", "while True: pass", "timeout"),
    act("descriptors", "[os.dup(1) for _ in range(500)]", "candidate_error Too many open files", harmless=True),
    act(
        "raise_limits",
        "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
        "candidate_error not allowed",
        harmless=True,
    ),
    act("segfault", "ctypes.string_at(0)", "crashed signal 11"),
    act(
        "stack_overflow",
        """
sys.setrecursionlimit(10**8)
nest = ()
for _ in range(200_000): nest = (nest,)
repr(nest)
""",
        "crashed signal 11",
    ),
    act("abort", "os.abort()", "crashed killed by signal"),
    act("kill_parent", "os.kill(os.getppid(), signal.SIGKILL)"),
    act("kill_caller", "os.kill(CALLER, signal.SIGKILL)"),
    act("signal_parent", "os.kill(os.getppid(), 0)", harmless=True),
    act("kill_own_group", "os.killpg(0, signal.SIGKILL)"),
    act("own_the_line", "fcntl.fcntl(3, fcntl.F_SETOWN, os.getppid())", harmless=True),
    act("signal_by_io", "fcntl.fcntl(3, fcntl.F_SETSIG, signal.SIGKILL)", harmless=True),
    act("ptrace_parent", CALL + "call(101, 16, os.getppid(), 0, 0)"),
    act("ptrace_me", CALL + "call(101, 0, 0, 0, 0)", harmless=True),
    act("read_parent_memory", CALL + "call(310, os.getppid(), 0, 0, 0, 0, 0)", harmless=True),
    act("pidfd_of_parent", "os.pidfd_open(os.getppid())", harmless=True),
    act("user_namespace", CALL + "call(272, 0x10000000)", harmless=True, root=True),
    act("mount", CALL + "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)"),
    act("chroot", "os.chroot('/')", harmless=True, root=True),
    act("set_user", "os.setuid(os.getuid())", harmless=True),
    act("io_uring", CALL + "call(425, 1, (ctypes.c_uint32 * 30)())", harmless=True),
    act("memory_file", "os.memfd_create('x')", harmless=True),
    act("dumpable", CALL + "call(157, 4, 1, 0, 0, 0)", harmless=True),
    act("shared_memory", CALL + "call(29, 0, 4096, 0)"),
    act("x32_calls", CALL + "call(0x40000000 + 2, b'/etc/passwd', 0)"),
    act(
        "rare_calls",
        CALL
        + """
# bpf perf_event_open keyctl add_key userfaultfd open_by_handle_at process_vm_writev seccomp init_module kexec_load
# setns unshare pivot_root swapon reboot settimeofday iopl landlock_create_ruleset openat2 quotactl memfd_secret
for number in (321, 298, 250, 248, 323, 304, 311, 317, 175, 246, 308, 272, 155, 167, 169, 164, 172, 444, 437, 179, 447):
    try: call(number, -1, 0, 0, 0, 0)
    except PermissionError: continue
    except OSError as error: raise RuntimeError(f'{number} reached the kernel: {error}')
    raise RuntimeError(f'{number} went through')
raise PermissionError('all of them')
""",
        "candidate_error PermissionError: all of them",
    ),
    act(
        "new_machine_code",
        """
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex('b814000000cd80c3'))  # getpid by int 0x80
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
""",
        harmless=True,
    ),
    act(
        "int80",
        """
start = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value & ~4095
found = ctypes.string_at(start, 200_000).find(bytes.fromhex('cd80'))  # no new code is needed: libc has the two bytes
if found < 0: os.kill(os.getppid(), 0)
ctypes.CFUNCTYPE(ctypes.c_int)(start + found)()
""",
        "",
    ),
    act("affinity_of_parent", "os.sched_getaffinity(os.getppid())", harmless=True),
    act("affinity_of_caller", "os.sched_getaffinity(CALLER)", harmless=True),
    act("affinity_of_init", "os.sched_getaffinity(1)", harmless=True),
    act(
        "affinity_by_32_bits",
        CALL + "call(204, ctypes.c_uint64(1 << 32 | os.getppid()), 128, bytes(128))",
        harmless=True,
    ),
    act("clock_of_parent", "time.clock_gettime(~os.getppid() << 3 | 2)", harmless=True),
    act("clock_of_caller", "time.clock_gettime(~CALLER << 3 | 2)", harmless=True),
    act("clock_of_init", "time.clock_gettime(~1 << 3 | 2)", harmless=True),
    act("clock_of_nobody", "time.clock_gettime(~4_000_000 << 3 | 2)"),  # the answer would say that there is none
    act("clock_of_parents_thread", "time.clock_gettime(~os.getppid() << 3 | 6)"),
    act(
        "clock_by_32_bits",
        CALL + "call(228, ctypes.c_uint64(1 << 32 | ~os.getppid() << 3 & 0xFFFFFFFF | 2), bytes(16))",
        harmless=True,
    ),
    act("clock_of_a_device", "time.clock_gettime(~3 << 3 | 3)"),
    act("resolution_of_parents_clock", "time.clock_getres(~os.getppid() << 3 | 2)", harmless=True),
    act(
        "sleep_on_parents_clock",
        CALL + "call(230, ctypes.c_uint64(~os.getppid() << 3 & 0xFFFFFFFF | 2), 0, (ctypes.c_int64 * 2)(0, 1), 0)",
    ),
    # (name, number, arguments): what takes the number of a process, the parent's here
    *(
        act(name, f"{CALL}buffer, P = bytes(4096), os.getppid()\ncall({number}, {arguments})", harmless=harmless)
        for name, number, arguments, harmless in [
            ("scheduler_of_parent", 145, "P", True),
            ("scheduling_of_parent", 143, "P, buffer", True),
            ("attributes_of_parent", 315, "P, buffer, 56, 0", True),
            ("time_slice_of_parent", 148, "P, buffer", True),
            ("priority_of_parent", 140, "0, P", True),
            ("priority_of_user", 140, "2, 0", True),
            ("limits_of_parent", 302, "P, 7, 0, buffer", True),
            ("io_priority_of_parent", 252, "1, P", True),
            ("session_of_parent", 124, "P", True),
            ("group_of_parent", 121, "P", True),
            ("robust_list_of_parent", 274, "P, buffer, buffer", False),
            ("comparison_with_parent", 312, "P, P, 0, 0, 0", False),
            ("pages_of_parent", 279, "P, 0, 0, 0, 0, 0", False),
            ("affinity_for_parent", 203, "P, 8, buffer", False),
            ("priority_for_parent", 141, "0, P, 5", False),
            ("group_for_parent", 109, "P, 0", False),
            ("signal_to_parents_thread", 200, "P, 0", True),
            ("signal_queued_for_parent", 129, "P, 0, buffer", False),
            ("signal_by_pidfd", 424, "3, 9, 0, 0", False),
            ("descriptor_by_pidfd", 438, "3, 0, 0", False),
            ("counters_of_parent", 298, "buffer, P, -1, -1, 0", False),
            ("wait_for_parent", 247, "0, P, buffer, 5, 0", False),
            ("load_of_the_machine", 99, "buffer", True),
        ]
    ),
    act("pass_descriptor", "socket.send_fds(socket.socket(fileno=os.dup(3)), [b'x'], [1])"),
]

# what one interpreter for code and tests, the usual way, would take for a pass: it ran to its end, or said so
NAIVE = """
import sys
code, tests = sys.argv[1:]
scope = {"__name__": "candidate"}
exec(compile(code, "candidate", "exec"), scope)
exec(compile(tests, "tests", "exec"), scope)
print("PASSED")
"""


def forge(name: str, code: str, ends: str = "failed", tests: str = "assert f(2) == 4", harmless: bool = True) -> Attack:
    return Attack(name, code, ends, tests, harmless)


EQUAL = """
class Equal({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
def f(x): return Equal()
"""
FRAME = "({k} for {k} in reversed(sys._getframe({depth}).f_code.co_consts) if type({k}) is int)"
HAND = (
    "import json, os\ndef send(m):\n    m = json.dumps(m).encode()\n    os.write(3, len(m).to_bytes(4, 'little') + m)\n"
)
SERVE = (
    HAND
    + """
def some(count):
    data = b''
    while len(data) < count:
        piece = os.read(3, count - len(data))
        if not piece: os._exit(0)
        data += piece
    return data
def take(): return json.loads(some(int.from_bytes(some(4), 'little')))
def ask(function, *args, kwargs=['dict']): send(['tuple', 'call', function, ['tuple', *args], kwargs])
def ok(value): send(['tuple', 'ok', value])
def raised(kind, *args, cause=None): send(['tuple', 'raised', ['list', kind, ['list', *args], ['dict'], 'x', cause]])
ME, HANDED = ['object', 0, 'x', 255], ['yours', 0]
take()
ok(['dict', 'f', ME])
"""
)
OFFERED = "protocol_error which is not offered"
HANDED_OVER = "protocol_error what no test handed over"
MALFORMED = "protocol_error malformed message"


def by_hand(name: str, code: str, ends: str, tests: str = "assert f(lambda x: 3) == 4") -> Attack:
    """`code` runs once the judge has asked for its `f`; a function that a test hands over is `HANDED`."""
    return forge(name, f"{SERVE}take()\n{code}\ntake()\nos._exit(0)", ends, tests, harmless=False)


KILLER = """
ask({what}, ME)
while True:
    op = take()[1]
    if op == 'len': ok(30_000_000)
    elif op == 'raised': os._exit(0)
    else: ask({what}, ME)
"""
FORGERIES = [
    forge("exit_while_loading", "import os\nos._exit(0)", "crashed exited with code 0"),
    forge("exit_in_call", "import os\ndef f(x): os._exit(0)", "crashed exited with code 0"),
    forge("system_exit_while_loading", "import sys\nsys.exit(0)", "candidate_error SystemExit"),
    forge("system_exit_in_call", "def f(x): raise SystemExit(0)", "candidate_error SystemExit"),
    forge(
        "exit_under_a_test_that_swallows",
        "import os\ndef f(x): os._exit(0)",
        "crashed exited with code 0",
        "try:\n    f(2)\nexcept BaseException:\n    pass",
    ),
    forge(
        "atexit",
        "import atexit, os\natexit.register(lambda: (print('PASSED', flush=True), os._exit(0)))\ndef f(x): return 3",
    ),
    forge("printing_the_marker", "print('PASSED', flush=True)\ndef f(x): return 3"),
    forge("excepthook", "import sys, os\nsys.excepthook = lambda *_: os._exit(0)\ndef f(x): return 3"),
    forge("always_equal", EQUAL.format(base="object")),
    *(forge(f"{base}_subclass", EQUAL.format(base=base)) for base in ("int", "float", "str", "list", "dict", "tuple")),
    forge(
        "false_class",
        "class Fake:\n    __class__ = int\ndef f(x): return Fake()",
        tests="assert isinstance(f(2), int)",
    ),
    forge(
        "arithmetic_that_helps",
        "class Near:\n    def __sub__(self, other): return 0.0\n    __rsub__ = __sub__\ndef f(x): return Near()",
        tests="assert abs(f(2) - 4) < 1e-6",
    ),
    forge(
        "ordering_that_helps",
        "class Any:\n    __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True\ndef f(x): return Any()",
        tests="assert 3 < f(2) < 5",
    ),
    forge(
        "contains_that_helps",
        "class All:\n    def __contains__(self, item): return True\ndef f(x): return All()",
        "candidate_error not iterable",
        tests="assert 4 in f(2)",
    ),
    forge(
        "patched_builtins",
        "import builtins\nbuiltins.abs = lambda x: 0\ndef f(x): return 3",
        tests="assert abs(f(2) - 4) < 1e-6",
    ),
    forge(
        "patched_module",
        "import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 3",
        tests="import math\nassert math.isclose(f(2), 4)",
    ),
    forge(
        "constants_of_the_caller",
        f"import sys\ndef f(x): return next({FRAME.format(k='k', depth=1)}, None)",
    ),
    forge(
        "frame_walk",
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        tests = frame.f_globals.get('tests')\n"
        "        if isinstance(tests, str): return int(tests.split('==')[1])\n"
        "        frame = frame.f_back",
    ),
    forge(
        "heap_scan",
        "import gc, re\ndef f(x):\n    for thing in gc.get_objects():\n"
        "        for value in (list(thing.values()) if type(thing) is dict else ()):\n"
        "            found = type(value) is str and re.match(r'asser[t] f.2. == (\\d+)', value)\n"
        "            if found: return int(found[1])",
    ),
    forge(
        "environment",
        "import os\ndef f(x): return 4 if 'SANDBOX_TEST_SECRET' in os.environ else 3",
    ),
    forge("rewritten_arguments", "import sys\nsys.argv[:] = ['', '', '']\ndef f(x): return 3", harmless=False),
    forge(
        "verdict_on_every_descriptor",
        'import os\nfor fd in range(64):\n    try: os.write(fd, b\'{"status": "passed", "detail": ""}\')\n'
        "    except OSError: pass\ndef f(x): return 3",
        "protocol_error",
        harmless=False,
    ),
    forge(
        "a_pass_by_hand", HAND + "send(['tuple', 'passed', ''])\ndef f(x): return 3", "protocol_error", harmless=False
    ),
    forge(
        "answers_by_hand",
        HAND
        + "send(['tuple', 'ok', ['dict', 'f', ['object', 0, 'x', True], 'check', 1]])\nsend(['tuple', 'ok', True])\n"
        "def f(x): return 3",
        harmless=False,
    ),
    forge(
        "globals_of_a_test_function",
        HAND + "def f(g):\n    send(['tuple', 'getattr', ['yours', 0], '__globals__'])\n    return 4",
        "protocol_error getattr",
        "assert f(lambda: 5) == 4 and f(2) == 5",
        harmless=False,
    ),
    forge(
        "not_json", "import os\nos.write(3, b'\\x03\\0\\0\\0abc')\ndef f(x): return 3", "protocol_error", harmless=False
    ),
    forge(
        "4_gib_announced", "import os\nos.write(3, b'\\xff' * 4)\ndef f(x): return 3", "protocol_error", harmless=False
    ),
    forge(
        "deep_nesting_by_hand",
        "import os\nm = b'[' * 1_000_000\nos.write(3, len(m).to_bytes(4, 'little') + m)\ndef f(x): return 3",
        "protocol_error",
        harmless=False,
    ),
    by_hand(
        "judge_killed_by_len_and_nesting",
        KILLER.format(what=["type", "list"]),
        HANDED_OVER,
    ),
    by_hand("nesting_in_a_tests_function", KILLER.format(what="HANDED"), "crashed", "assert f(lambda x: x(1)) == 4"),
    by_hand("nesting_in_a_built_in", KILLER.format(what="HANDED"), "crashed", "assert f(sorted) == 4"),
    by_hand(
        "nesting_on_a_full_memory",
        KILLER.format(what="HANDED"),
        "crashed",
        "def g(x):\n    return [list(x), x(1)]\nassert f(g) == 4",
    ),
    *(
        by_hand(f"calling_{name}", f"ask({what!r})", HANDED_OVER)
        for name, what in {
            "int": ["type", "int"],
            "range": ["type", "range"],
            "an_exception": ["known", "builtins", "SystemExit"],
            "its_own_handle": ["object", 7, "x", 255],
            "a_class_of_its_own": ["error", 8, "x", [["known", "builtins", "ValueError"]]],
            "a_text": "print",
        }.items()
    ),
    by_hand("calling_a_handle_that_is_not", "ask(['yours', 5])", MALFORMED),
    by_hand("calling_a_handle_from_the_end", "ask(['yours', -1])", MALFORMED),
    by_hand("arguments_that_are_a_handle", "send(['tuple', 'call', HANDED, ME, ['dict']])", MALFORMED),
    by_hand("keywords_that_are_a_list", "ask(HANDED, kwargs=['list'])", MALFORMED),
    *(
        by_hand(f"asking_for_{op}", f"send(['tuple', {op!r}, HANDED, '__globals__', 1])", OFFERED)
        for op in ("setattr", "getitem", "iter", "next", "len", "str", "isinstance", "exports")
    ),
    by_hand(
        "endless_handles",
        "for k in range(40):\n"
        "    ask(HANDED, ['list', *(['object', 10_000 * k + i, 'x', 0] for i in range(10_000))])\n    take()",
        "protocol_error more than",
    ),
    by_hand("abilities_that_are_none", "ok(['object', 1, 'x', 1 << 40])", MALFORMED),
    by_hand("a_fraction_of_a_handle", "ok(['Fraction', ME, 1])", MALFORMED),
    by_hand("a_timezone_of_a_handle", "ok(['datetime', '2020-01-01', ME, 0])", MALFORMED),
    by_hand("a_factory_that_is_none", "ok(['defaultdict', 3])", MALFORMED),
    by_hand("a_deque_of_no_length", "ok(['deque', -5, 1])", MALFORMED),
    by_hand("raising_a_handle", "raised(HANDED)", "candidate_error RuntimeError"),
    by_hand("raising_nothing", "send(['tuple', 'raised', 3])", MALFORMED),
    by_hand("raising_the_end_of_the_line", "raised(['known', 'boostlib.sandbox.peer', 'Gone'])", "candidate_error"),
    by_hand("raising_the_tasks_fault", "raised(['known', 'boostlib.sandbox.peer', 'NotPassable'])", "candidate_error"),
    by_hand(
        "raising_an_exception_of_the_tests",
        "raised(['known', 'tests', 'Done'])",
        "candidate_error",
        "class Done(Exception): pass\ntry:\n    f(2)\n    assert False\nexcept Done: pass",
    ),
    by_hand(
        "raising_a_cause_without_end",
        "c = None\nfor _ in range(90): c = ['list', 1, ['list'], ['dict'], '', c]\nraised(1, cause=c)",
        MALFORMED,
    ),
    by_hand("a_class_below_a_function", "ok(['error', 1, 'x', [HANDED]])", MALFORMED),
    by_hand(
        "a_class_of_two_layouts",
        "ok(['error', 1, 'x', [['known', 'builtins', 'OSError'], ['known', 'builtins', 'SyntaxError']]])",
        MALFORMED,
    ),
    forge("two_surrogates", "def f(x): return '\\ud83d\\ude00'", tests="assert f(2) == '\\U0001f600'", harmless=False),
    forge(
        "two_surrogates_in_the_code",
        "def f(x): return '\ud83d\ude00'",
        "candidate_error",
        tests="assert f(2) == '\\U0001f600'",
        harmless=False,
    ),
    *(
        forge(
            f"a_handle_that_is_{name}",
            "def f(x): return object()",
            tests=f"import collections.abc, types\n{test}",
            harmless=False,
        )
        for name, test in {
            "an_iterator": "assert isinstance(f(2), collections.abc.Iterator)",
            "iterable": "assert isinstance(f(2), collections.abc.Iterable)",
            "sized": "assert isinstance(f(2), collections.abc.Sized)",
            "a_container": "assert isinstance(f(2), collections.abc.Container)",
            "a_generator": "assert isinstance(f(2), types.GeneratorType)",
            "said_to_have_next": "assert hasattr(f(2), '__next__')",
            "said_to_have_a_length": "assert hasattr(f(2), '__len__')",
        }.items()
    ),
    forge(
        "a_name_like_generator",
        "class generator: pass\ndef f(x): return generator()",
        tests="import types\nassert isinstance(f(2), types.GeneratorType)",
        harmless=False,
    ),
    forge("a_docstring_of_the_handle", "def f(x): return 4", tests="assert f.__doc__", harmless=False),
    forge("closed_line", "import os, time\nos.close(3)\ntime.sleep(10)", "protocol_error closed", harmless=False),
]
ATTACKS = {attack.name: attack for attack in (*ACTS, *FORGERIES)}


@contextlib.contextmanager
def targets():
    """What the acts aim at, as the first lines of their code: files, listeners, and the calling process."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        secret, victim = Path(folder, "tests.txt"), Path(folder, "victim")
        secret.write_text("secret")
        victim.write_text("")
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(abstract := f"\0attacks{os.getpid()}")
        unix.listen()
        values = {
            "SECRET": str(secret),
            "VICTIM": str(victim),
            "TCP": tcp.getsockname()[1],
            "UDP": udp.getsockname()[1],
            "ABSTRACT": abstract,
            "CALLER": os.getpid(),
        }
        yield "".join(f"{name} = {value!r}\n" for name, value in values.items())
        assert secret.read_text() == "secret"


def attempt(box: CodeSandbox, prelude: str, attack: Attack) -> CodeResult:
    code = attack.code if attack in FORGERIES else prelude + attack.code
    return box.run(code, CodeTask(attack.tests, ("f", "attack")))


def leftovers(box: CodeSandbox) -> list[int]:
    """Children of the helpers, and orphans of theirs; time is given to those of another sandbox that is just ending."""
    helpers = {pid for worker in box._workers for pid in worker.pids}
    deadline = time.monotonic() + 4
    while (found := _descendants(helpers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _descendants(helpers: set[int]) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            orphan = parent == 1 and b"sandbox/start.py" in (folder / "cmdline").read_bytes()
            if parent in helpers or orphan:
                found.append(int(folder.name))
    return found


def try_all(box: CodeSandbox) -> dict[str, dict]:
    """For each attack how it ended, whether the next honest run passed, and what was left running."""
    report = {}
    with targets() as prelude:
        for attack in ATTACKS.values():
            result = attempt(box, prelude, attack)
            honest = box.run(*HONEST)
            report[attack.name] = {
                "ended": f"{result.status} {result.detail}",
                "honest": honest.passed,
                "left": leftovers(box),
            }
    return report


if __name__ == "__main__":
    os.environ["SANDBOX_TEST_SECRET"] = "1"
    with CodeSandbox(workers=1, limits=LIMITS, preload=PRELOAD) as box:
        json.dump({"user": os.geteuid(), "isolation": box.isolation, "attacks": try_all(box)}, sys.stdout)
