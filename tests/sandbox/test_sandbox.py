"""The sandbox's promises: verdicts, what crosses between candidate and judge, limits, bad input, its own failures."""

import contextlib
import datetime
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_attacks import leftovers

import boostlib.sandbox
from boostlib.common.errors import BoostError
from boostlib.sandbox import (
    CodeResult,
    CodeSandbox,
    CodeTask,
    Limits,
    SandboxError,
    SandboxInfrastructureError,
    SandboxSelfTestError,
    SandboxUnavailable,
    Status,
    TaskError,
    box,
    codec,
    probe_isolation,
    worker,
)

pytestmark = pytest.mark.skipif(not probe_isolation(), reason="no seccomp here: nothing can be contained")
ADD = CodeTask("assert add(1, 2) == 3", ("add",))
GOOD = "def add(a, b):\n    return a + b"


@pytest.fixture(scope="module")
def sandbox():
    with CodeSandbox(workers=2, limits=Limits(wall_s=15, cpu_s=15)) as opened:  # a busy machine must not time out
        yield opened


@pytest.fixture(scope="module")
def hurried():
    with CodeSandbox(workers=1, limits=Limits(wall_s=2.5, cpu_s=4, memory_mb=128, output_kb=1)) as opened:
        yield opened


def check(sandbox: CodeSandbox, code: str, tests: str, exports: str = "f", **more) -> CodeResult:
    return sandbox.run(code, CodeTask(tests, tuple(exports.split()), **more))


# --- verdicts


@pytest.mark.parametrize(
    "code, status, detail",
    [
        (GOOD, Status.PASSED, ""),
        ("def add(a, b):\n    return a - b", Status.FAILED, "assert add(1, 2) == 3"),
        ("def add(a, b):\n    return None", Status.FAILED, "assert add(1, 2) == 3"),
        ("def add(a, b):\n    return a + c", Status.CANDIDATE_ERROR, "NameError: name 'c' is not defined"),
        ("def add(a):\n    return a", Status.CANDIDATE_ERROR, "TypeError"),
        ("def add(a, b:\n    return a", Status.CANDIDATE_ERROR, "SyntaxError"),
        ("def plus(a, b):\n    return a + b", Status.CANDIDATE_ERROR, "does not define add"),
        ("import no_such_module", Status.CANDIDATE_ERROR, "ModuleNotFoundError"),
        ("class Odd(Exception): pass\ndef add(a, b): raise Odd('so')", Status.CANDIDATE_ERROR, "Odd: so"),
        ("def add(a, b): return add(a, b)", Status.CANDIDATE_ERROR, "RecursionError"),
    ],
)
def test_verdicts(sandbox, code, status, detail):
    result = sandbox.run(code, ADD)
    assert result.status is status and detail in result.detail
    assert result.passed == (status is Status.PASSED)
    assert result.signal is None and result.isolation == probe_isolation()
    assert 0 < result.cpu_s < 1 and 0 < result.wall_s < 15 and result.max_rss_kb > 1000


def test_results_come_in_the_order_of_the_checks(sandbox):
    codes = [f"def add(a, b):\n    return {value}" for value in (3, 4, 3, 3, 5, 3)] * 3
    statuses = [result.status for result in sandbox.run_many((code, ADD) for code in codes)]
    assert statuses == [Status.PASSED if "3" in code else Status.FAILED for code in codes]
    assert sandbox.run_many([]) == []


def test_check_function_is_called_with_the_entry_point(sandbox):
    task = CodeTask("def check(candidate):\n    assert candidate(1, 2) == 3\n", ("add",), entry_point="add")
    assert sandbox.run(GOOD, task).passed
    assert sandbox.run(GOOD.replace("+", "-"), task).status is Status.FAILED
    missing = sandbox.run("x = 1", task)
    assert missing.status is Status.CANDIDATE_ERROR and missing.detail == "does not define add"


def test_trusted_prompt_and_setup_run_beside_the_tests(sandbox):
    prompt = "def helper(x):\n    return x + 1\ndef f(x):\n    '''To be written.'''\n"
    more = {"trusted_prompt": prompt, "setup": "import math"}
    tests = "assert f(1) == helper(1)\nassert math.pi > 3"
    assert check(sandbox, "def helper(x): return 0\ndef f(x): return x + 1", tests, **more).passed
    assert check(sandbox, "def g(x): return x", tests, **more).status is Status.FAILED  # the prompt's own f is empty


def test_only_exports_reach_the_tests(sandbox):
    code = "def f(x): return x\nvalue = 3\ndef len(x): return 0"
    assert check(sandbox, code, "assert f(1) == 1 and len([1]) == 1 and 'value' not in globals()").passed
    assert check(sandbox, code, "assert value == 3 and len([1]) == 0", "value len").passed


def test_main_guard_is_not_taken(sandbox):
    assert check(sandbox, "def f(): return 1\nif __name__ == '__main__':\n    input()", "assert f() == 1").passed


# --- what crosses

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
)
HASHABLE = st.recursive(PLAIN, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
DATA = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
        | st.lists(inner, max_size=3).map(deque)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def _refuse(thing: object) -> list:
    raise AssertionError(f"{thing!r} is not data")


@given(DATA)
def test_data_crosses_unchanged_with_its_exact_types(value):
    back = codec.loads(codec.dumps(value, _refuse), _refuse)
    assert type(back) is type(value) and back == value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        -math.inf,
        -0.0,
        10**5000,
        -(2**64),
        "\ud800 lone",
        Counter("aab"),
        OrderedDict([(2, 1), (1, 2)]),
        defaultdict(list, {1: [2]}),
        bytearray(b"\0\xff"),
        range(3, 10, 2),
        datetime.time(1, 2, 3),
        Decimal("NaN"),
        {(1, "a"): {2.5: None}, True: {b"x"}},
        [int, bool, type(None), Fraction],
        [1, 1.0, True],
    ],
    ids=lambda value: type(value).__name__,
)
def test_special_values_cross(value):
    back = codec.loads(codec.dumps(value, _refuse), _refuse)
    assert type(back) is type(value)
    assert (
        back == value if type(value) in (int, defaultdict) else repr(back) == repr(value)
    )  # repr tells NaNs and zeros apart


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_break_the_decoder_otherwise_than_by_its_own_error(frame):
    with contextlib.suppress(codec.CodecError):
        codec.loads(frame, lambda wire: None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(sorted(codec._MAKE_SCALAR)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)


@given(
    st.tuples(st.sampled_from(["list", "set", "dict", "int", "type", *codec._MAKE_SCALAR]), st.lists(JSON, max_size=3))
)
def test_no_message_breaks_the_decoder_otherwise_than_by_its_own_error(tagged):
    with contextlib.suppress(codec.CodecError):
        codec.loads(json.dumps([tagged[0], *tagged[1]]).encode(), lambda wire: None)


def test_results_are_compared_as_their_own_types(sandbox):
    code = """
import collections, decimal, math
def f(which):
    return {
        'float': 0.1 + 0.2, 'nan': math.nan, 'inf': -math.inf, 'set': {1, 2}, 'tuple': (1, (2,)), 'bytes': b'ab',
        'dict': {(1, 2): {'x': None}}, 'big': 7 ** 9000, 'complex': 1 + 2j, 'counter': collections.Counter('aab'),
        'text': 'h\\u00e9\\ud800', 'bool': True, 'type': int, 'default': collections.defaultdict(list, {1: [2]}),
    }[which]
"""
    tests = """
import math
assert abs(f('float') - 0.3) < 1e-9 and f('float') != 0.3
assert math.isnan(f('nan')) and f('inf') == -math.inf
assert f('set') == {2, 1} and isinstance(f('set'), set) and sorted(f('set')) == [1, 2]
assert f('tuple') == (1, (2,)) and f('tuple') != [1, [2]] and len(f('tuple')) == 2
assert f('bytes') == b'ab' and f('dict') == {(1, 2): {'x': None}} and f('big') == 7 ** 9000
assert f('complex') == 1 + 2j and f('counter') == {'a': 2, 'b': 1} and f('text') == 'h\\u00e9\\ud800'
assert f('bool') is True and f('type') is int and f('default') == {1: [2]}
assert f('default')[1] == [2]
"""
    result = check(sandbox, code, tests)
    assert result.passed, result.detail


def test_what_is_not_data_is_a_handle(sandbox):
    code = """
class Node:
    def __init__(self, value): self.value, self.next = value, None
    def total(self): return self.value + (self.next.total() if self.next else 0)
    def __len__(self): return 5
    def __getitem__(self, key): return key * 2
def f(kind):
    return {'generator': (x * x for x in range(3)), 'function': lambda x: x + 1, 'map': map(str, [1, 2]),
            'keys': {1: 2}.keys(), 'none': iter(())}[kind]
"""
    tests = """
assert list(f('generator')) == [0, 1, 4] and next(f('map')) == '1' and list(f('none')) == []
assert f('function')(2) == 3 and callable(f('function')) and not callable(f('keys'))
assert 1 in f('keys') and 2 not in f('keys') and len(f('keys')) == 1
assert sorted(f('map'), reverse=True) == ['2', '1']
root = Node(1)
root.next = Node(2)
assert root.total() == 3 and root.next.value == 2 and isinstance(root, Node) and not isinstance(3, Node)
assert root != Node(1) and root == root and len(root) == 5 and root[4] == 8 and hash(root) is not None
assert 'Node' in str(root) and f('generator') != [0, 1, 4] and bool(root)
"""
    result = check(sandbox, code, tests, "f Node")
    assert result.passed, result.detail


def test_functions_of_a_test_can_be_called_and_nothing_else(sandbox):
    code = "def f(g, xs): return [g(x) for x in xs]\ndef peek(g): return g.__globals__\ndef name(g): return g.some"
    assert check(sandbox, code, "assert f(lambda x: x + 1, [1, 2]) == [2, 3] and f(len, ['ab']) == [2]").passed
    raising = """
def g(x): raise KeyError(x)
try: f(g, [1])
except KeyError as error: assert error.args == (1,)
else: assert False
"""
    assert check(sandbox, code, raising).passed
    assert "AttributeError" in check(sandbox, code, "peek(lambda: 1)", "peek").detail
    assert check(sandbox, code, "name(lambda: 1)", "name").status is Status.PROTOCOL_ERROR


def test_exceptions_cross_as_the_nearest_built_in_one(sandbox):
    code = """
class Own(ValueError): pass
def f(kind):
    if kind == 'own': raise Own('own', 3)
    if kind == 'unicode': b'\\xff'.decode()
    if kind == 'exit': raise SystemExit(0)
    raise KeyError('k')
"""
    tests = """
def caught(kind, expected):
    try:
        f(kind)
    except expected as error:
        return error
    raise AssertionError(kind)
assert caught('own', ValueError).args == ('own', 3)
assert caught('key', KeyError).args == ('k',) and caught('key', LookupError)
assert caught('unicode', Exception) and caught('exit', Exception)
"""
    result = check(sandbox, code, tests)
    assert result.passed, result.detail


def test_a_handle_shows_what_its_thing_can_do_and_no_more(sandbox):
    code = """
class Plain:
    'A plain thing.'
class Many(list): pass
class Sized:
    def __len__(self): return 2
class Never:
    __iter__ = None
def f(kind):
    'Gives one.'
    return {'plain': Plain(), 'many': Many([1, 2, 3, 4]), 'sized': Sized(), 'generator': (x for x in [1, 2]),
            'keys': {1: 2}.keys(), 'map': map(str, [1]), 'never': Never()}[kind]
"""
    tests = """
import collections.abc as abc, inspect, types
kinds = (abc.Iterator, abc.Iterable, abc.Sized, abc.Container, abc.Callable)
def shown(kind): return [each.__name__ for each in kinds if isinstance(f(kind), each)]
assert shown('plain') == shown('never') == [] and shown('sized') == ['Sized']
assert shown('many') == ['Iterable', 'Sized', 'Container'] and shown('map') == ['Iterator', 'Iterable']
assert not hasattr(f('plain'), '__next__') and not hasattr(f('sized'), '__iter__') and hasattr(f('map'), '__next__')
assert isinstance(f('generator'), types.GeneratorType) and isinstance(f('generator'), abc.Generator)
assert inspect.isgenerator(f('generator')) and not inspect.isgenerator(f('map')) and isinstance(f('map'), map)
assert isinstance(f('keys'), abc.KeysView) and next(f('generator')) == 1
many = f('many')
assert list(many[1:3]) == [2, 3] and list(many[::-1]) == [4, 3, 2, 1] and list(many[:-1]) == [1, 2, 3]
del many[0]
assert list(many) == [2, 3, 4] and 3 in many and 1 not in many
assert f.__name__ == 'f' and f.__doc__ == 'Gives one.' and f('plain').__doc__ == 'A plain thing.'
assert f('plain').__dict__ == {} and f('sized').__doc__ is None
"""
    result = check(sandbox, code, tests)
    assert result.passed, result.detail


def test_data_keeps_what_belongs_to_it(sandbox):
    code = """
import collections, datetime as d
def f(kind):
    zone = d.timezone(d.timedelta(hours=5, minutes=30), 'IST')
    return {'counts': collections.defaultdict(int, a=1), 'own': collections.defaultdict(lambda: 'new'),
            'none': collections.defaultdict(None, {1: 2}), 'last': collections.deque([1, 2], maxlen=2),
            'utc': d.datetime(2020, 1, 2, tzinfo=d.timezone.utc), 'ist': d.datetime(2020, 1, 2, 3, tzinfo=zone),
            'time': d.time(1, 2, tzinfo=zone, fold=1), 'zone': zone, 'dots': ..., 'slice': slice(1, None, 2),
            'pair': '\\ud83d\\ude00', 'not': NotImplemented, 'object': object}[kind]
def same(value): return value
"""
    tests = """
import collections, datetime as d
counts, own, none, last = f('counts'), f('own'), f('none'), f('last')
assert counts['b'] == 0 and counts == {'a': 1, 'b': 0} and counts.default_factory is int
assert own[3] == 'new' and dict(own) == {3: 'new'} and none.default_factory is None and none == {1: 2}
last.append(3)
assert list(last) == [2, 3] and last.maxlen == 2
assert f('utc') == d.datetime(2020, 1, 2, tzinfo=d.timezone.utc) and f('utc').tzinfo is d.timezone.utc
assert f('ist').isoformat() == '2020-01-02T03:00:00+05:30' and f('ist').tzname() == 'IST'
assert f('time').fold == 1 and f('time').utcoffset() == f('zone').utcoffset(None) and f('zone').tzname(None) == 'IST'
assert f('dots') is ... and f('slice') == slice(1, None, 2) and f('not') is NotImplemented and f('object') is object
assert f('pair') == '\\ud83d\\ude00' and len(f('pair')) == 2 and f('pair') != '\\U0001f600'
for value in (counts, last, f('ist'), ..., '\\U0001f600', '\\ude00\\ud83d', {'\\ud83d': '\\ude00'}):
    assert same(value) == value and type(same(value)) is type(value)
assert same(own)[9] == 'new' and same(collections.deque([1], 1)).maxlen == 1
"""
    result = check(sandbox, code, tests, "f same")
    assert result.passed, result.detail


@pytest.mark.parametrize(
    ("code", "tests", "right"),
    [
        ("def f(): return ['\\ud83d', '\\ude00']", "assert ''.join(f()) == '\\ud83d\\ude00'", True),
        ("def f(): return {'\\ud83d\\ude00': 1}", "assert f() == {'\\U0001f600': 1}", False),
        ("def f(): return complex(-0.0, -0.0)", "import math\nassert math.copysign(1, f().imag) == -1", True),
        ("def f(): return complex('nan')", "x = f()\nassert x != x and type(x) is complex", True),
        (
            "def f(): return [2**63, -2**63, -(1 << 64), 3**5000]",
            "assert f() == [2**63, -2**63, -(1 << 64), 3**5000]",
            True,
        ),
        ("def f(): return 1", "assert f() is True", False),
        ("from decimal import Decimal\ndef f(): return Decimal('1.10')", "assert str(f()) == '1.10'", True),
        ("from decimal import Decimal\ndef f(): return Decimal('sNaN')", "assert f().is_snan()", True),
        ("from enum import Enum\nclass f(Enum):\n    A = 1\n    B = 2", "assert f.A.value == 1 and f(2) is f.B", True),
        (
            "from enum import Enum\nclass f(Enum):\n    A = 1\n    B = 2",
            "assert [e.name for e in f] == ['A', 'B']",
            True,
        ),
        ("class B(bytes):\n    __eq__ = lambda *_: True\ndef f(): return B(b'x')", "assert f() == b'y'", False),
        ("class L(list): pass\ndef f(): return L([1, 2, 3])", "x = f()\nx[0:2] = [9]\nassert list(x) == [9, 3]", True),
        ("class D(dict): pass\ndef f(): return D(a=1)", "assert dict(f().items()) == {'a': 1} and 'a' in f()", True),
        (
            "from collections import *\ndef f(): return ChainMap({'a': 1}, {'b': 2})",
            "assert sorted(f()) == ['a', 'b']",
            True,
        ),
        (
            "from collections import *\ndef f(): return Counter('aab')",
            "assert f()['z'] == 0 and f().most_common(1) == [('a', 2)]",
            True,
        ),
        (
            "from collections import *\nf = namedtuple('f', 'a b')",
            "x = f(1, 2)\nassert x.a == 1 and tuple(x) == (1, 2)",
            True,
        ),
        ("from array import array\ndef f(): return array('i', [1, 2])", "assert list(f()) == [1, 2]", True),
        (
            "from dataclasses import *\n@dataclass\nclass f:\n    a: int\n    b: str = 'x'",
            "p = f(1)\np.a = 5\nassert (p.a, p.b) == (5, 'x')",
            True,
        ),
        ("class f:\n    __eq__ = lambda *_: True", "assert f() == 3", False),
        ("def f():\n    x = yield 1\n    yield x", "g = f()\nassert next(g) == 1 and g.send(5) == 5", True),
        (
            "def f():\n    while True: yield 1",
            "import itertools\nassert list(itertools.islice(f(), 3)) == [1, 1, 1]",
            True,
        ),
        ("def f(): return [1]", "import types\nassert isinstance(f(), types.GeneratorType)", False),
        ("class f:\n    def __len__(self): return 2**62", "assert len(f()) == 3", False),
        ("X = object()\ndef f(): return X", "assert f() is f()", True),
        (
            "from functools import *\n@lru_cache\ndef f(n): return n",
            "assert f(3) == 3 and f.cache_info().misses == 1",
            True,
        ),
        (
            "class f:\n    p = property(lambda self: 3)\n    c = classmethod(lambda cls: cls)",
            "assert f().p == 3 and f.c() is f",
            True,
        ),
        ("def f(n): return lambda x: x + n", "assert f(2)(3) == 5", True),
        (
            "class E(Exception):\n    def __init__(self, code):\n        self.code = code\ndef f(): raise E(7)",
            "try:\n    f()\nexcept Exception as e:\n    assert e.code == 7\nelse:\n    assert False",
            True,
        ),
        (
            "def f():\n    e = ValueError(1)\n    e.__cause__ = e\n    raise e",
            "try:\n    f()\nexcept ValueError as e:\n    assert e.args == (1,)\nelse:\n    assert False",
            True,
        ),
        (
            "def f(): raise ExceptionGroup('g', [ValueError(1), TypeError(2)])",
            "n = ''\ntry: f()\nexcept* ValueError: n += 'v'\nexcept* TypeError: n += 't'\nassert n == 'vt'",
            True,
        ),
        (
            "from datetime import *\nclass D(datetime):\n    __eq__ = lambda *_: True\ndef f(): return D(2024, 1, 1)",
            "import datetime\nassert f() == datetime.datetime(2000, 1, 1)",
            False,
        ),
        (
            "from datetime import *\nclass Z(tzinfo):\n    utcoffset = dst = lambda self, _: timedelta(0)\n"
            "def f(): return datetime(2024, 1, 1, tzinfo=Z())",
            "assert f().year == 2024",
            True,
        ),
        ("def f(): return {(1, (2,)): {frozenset({3})}}", "assert f() == {(1, (2,)): {frozenset({3})}}", True),
        ("def f():\n    x = []\n    x.append(x)\n    return x", "assert f() == 1", False),
        ("def f(): return range(10**30)", "assert len(f()) == 1", False),
        ("def f(): return 10**17", "assert [0] * f() == [1]", False),
        ("def f(): return '{:>999999999}'", "assert f().format(1) == '1'", False),
    ],
)
def test_values_of_many_kinds_get_the_right_verdict(sandbox, code, tests, right):
    result = check(sandbox, code, tests)
    assert result.passed == right, result.detail


def test_surrogates_of_a_program_or_its_tests_are_not_joined(sandbox):
    assert check(sandbox, "def f(): return '\ud83d\ude00'", "assert f()").status is Status.CANDIDATE_ERROR
    assert check(sandbox, "def f(): return '\U0001f600'", "assert f() == '\U0001f600'").passed
    with pytest.raises(TaskError, match="tests does not compile"):
        CodeTask("assert f() == '\ud83d\ude00'", ("f",))


RAISES = """
import decimal, json, sys
class Base(Exception): pass
class Own(Base, ValueError):
    level = 7
    def __init__(self, balance, amount):
        super().__init__('short')
        self.balance, self.amount = balance, amount
    def __str__(self): return f'{self.amount} of {self.balance}'
class Leaving(SystemExit): pass
def f(kind):
    if kind == 'unicode': b'ab\\xff'.decode()
    if kind == 'encode': '\\u20ac'.encode('ascii')
    if kind == 'exit': sys.exit(3)
    if kind == 'leaving': raise Leaving(4)
    if kind == 'interrupt': raise KeyboardInterrupt
    if kind == 'own': raise Own(1, 2)
    if kind == 'import': import no_such_module
    if kind == 'json': json.loads('[1,')
    if kind == 'decimal': decimal.Decimal('x')
    if kind == 'group': raise ExceptionGroup('two', [ValueError(1), ExceptionGroup('in', [Own(3, 4), KeyError('k')])])
    if kind == 'all': raise BaseExceptionGroup('exit', [SystemExit(1)])
    if kind == 'os': raise FileNotFoundError(2, 'gone', 'x')
    if kind == 'stop': raise StopIteration(5)
    if kind == 'list': raise ValueError([1, {2}], b'x')
    if kind == 'cause':
        try: {}[1]
        except KeyError as error: raise Own(5, 6) from error
    raise kind
def call(g):
    return g()
def given(error): raise error('so')
"""


@pytest.mark.parametrize(
    "test",
    [
        "error = caught('unicode', UnicodeDecodeError)\nassert (error.start, error.object) == (2, b'ab\\xff')",
        "error = caught('encode', UnicodeEncodeError)\nassert error.encoding == 'ascii' and error.object == '\u20ac'",
        "assert caught('exit', SystemExit).code == 3 and caught('leaving', SystemExit).code == 4",
        "assert caught('leaving', Leaving) and caught('interrupt', KeyboardInterrupt) and caught('exit', Exception)",
        "error = caught('own', Own)\nassert (error.balance, error.amount) == (1, 2) and error.args == ('short',)\n"
        "assert str(error) == '2 of 1'",
        "assert caught('own', Base) and caught('own', ValueError) and not isinstance(caught('own', Base), KeyError)",
        "assert type(caught('own', Base)) is Own and issubclass(Own, Base) and Own.level == 7",
        "assert Own.__name__ == 'Own' and not issubclass(Own, KeyError)",
        "assert isinstance(Own(1, 2), Own) and Own(8, 9).balance == 8 and not isinstance(3, Own)",
        "import json\nerror = caught('json', json.JSONDecodeError)\nassert error.pos == 3 and error.doc == '[1,'",
        "import decimal\nassert caught('decimal', decimal.InvalidOperation)",
        "group = caught('group', ExceptionGroup)\nassert group.message == 'two' and len(group.exceptions) == 2\n"
        "assert group.subgroup(Own) and group.subgroup(KeyError) and not group.subgroup(OSError)",
        "seen = []\ntry: f('group')\nexcept* Own as own: seen.append(own)\n"
        "except* (ValueError, KeyError): seen.append(1)\nassert len(seen) == 2",
        "assert caught('all', BaseExceptionGroup).exceptions[0].code == 1",
        "error = caught('os', FileNotFoundError)\nassert error.errno == 2 and error.filename == 'x'\n"
        "assert caught('import', ModuleNotFoundError).name == 'no_such_module'",
        "assert caught('stop', StopIteration).value == 5 and caught('list', ValueError).args == ([1, {2}], b'x')",
        "assert caught('cause', Own).__cause__.args == (1,) and isinstance(caught('cause', Own).__cause__, KeyError)",
        "class Done(Exception): pass\ndef g(): raise Done(9)\ntry: call(g)\n"
        "except Done as done: assert done.args == (9,)\nelse: assert False",
        "class Mine(Exception): pass\nfor kind in (Mine, KeyError, Own):\n    try: given(kind)\n"
        "    except kind: assert kind is not Own\n    except TypeError: assert kind is Own\n    else: assert False",
    ],
)
def test_exceptions_cross_with_their_class_and_what_they_hold(sandbox, test):
    caught = """
def caught(kind, expected):
    try:
        f(kind)
    except expected as error:
        return error
    raise AssertionError(kind)
"""
    result = check(sandbox, RAISES, caught + test, "f call given Base Own Leaving")
    assert result.passed, result.detail


@pytest.mark.parametrize("kind", ["exit", "leaving", "interrupt", "own", "group", "all", "unicode"])
def test_an_exception_that_no_test_expects_is_the_candidates(sandbox, kind):
    result = check(sandbox, RAISES, f"assert f({kind!r}) == 1")
    assert result.status is Status.CANDIDATE_ERROR, result.detail


def test_arguments_cross_by_value(sandbox):
    code = "def f(xs):\n    xs.clear()\n    return len(xs)"
    assert check(sandbox, code, "xs = [1, 2]\nassert f(xs) == 0 and xs == [1, 2]").passed


def test_verdicts_do_not_depend_on_luck(sandbox):
    code = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd', 'e'}), hash('x')]"
    first = check(sandbox, code, "assert f() is None\n")
    seen = {check(sandbox, code, "raise ValueError(f())").detail for _ in range(4)}
    assert first.status is Status.FAILED and len(seen) == 1


# --- limits


def test_output_is_kept_from_its_end(hurried):
    code = "import sys\nprint('start')\ndef f():\n    print('x' * 5000)\n    print('end', file=sys.stderr, flush=True)"
    result = check(hurried, code + "\n    return 1", "assert f() == 1")
    assert result.passed and result.stdout_tail.endswith("x\nend\n") and len(result.stdout_tail) == 1024


def test_a_hundred_megabytes_of_output_are_dropped(sandbox):
    helpers = {pid: _rss_kb(pid) for opened in sandbox._workers for pid in opened.pids}
    result = check(
        sandbox, "def f():\n    for _ in range(100): print('y' * 1_000_000)\n    return 1", "assert f() == 1"
    )
    assert result.status in (Status.PASSED, Status.TIMEOUT) and len(result.stdout_tail) <= 4096
    assert all(_rss_kb(pid) < before + 5_000 for pid, before in helpers.items())


@pytest.mark.parametrize(
    "code, status",
    [
        ("def f():\n    while True: pass", Status.TIMEOUT),
        ("import time\ntime.sleep(60)", Status.TIMEOUT),
        ("def f(): return bytearray(256_000_000) and 1", Status.CANDIDATE_ERROR),
        ("import ctypes\ndef f(): ctypes.string_at(0)", Status.CRASHED),
    ],
)
def test_limits_end_a_run(hurried, code, status):
    start = time.monotonic()
    result = check(hurried, code, "assert f() == 1")
    assert result.status is status, result.detail
    assert result.signal == (signal.SIGSEGV if status is Status.CRASHED else None)
    assert time.monotonic() - start < 10


def test_cpu_time_is_limited_apart_from_wall_time():
    with CodeSandbox(workers=1, limits=Limits(wall_s=20, cpu_s=1)) as opened:
        result = check(opened, "def f():\n    while True: pass", "f()")
        assert result.status is Status.TIMEOUT and "CPU" in result.detail and 0.9 < result.cpu_s < 2.5
        caught = check(opened, "import signal\nsignal.signal(24, lambda *_: None)\nwhile True: pass", "f()")
        assert caught.status is Status.TIMEOUT and caught.cpu_s < 3.5


def test_tests_that_hang_on_a_result_are_a_timeout(hurried):
    endless = check(hurried, "import itertools\ndef f(): return itertools.count()", "assert sum(f()) == 1")
    assert endless.status is Status.TIMEOUT
    looping = check(hurried, "def f(): return 10**9", "n = f()\nwhile n: n -= 1\nassert f() == 1")
    assert looping.status is Status.TIMEOUT
    assert hurried.run(GOOD, ADD).passed


@pytest.mark.parametrize(
    "bad", [{"wall_s": 0}, {"wall_s": math.nan}, {"cpu_s": 0}, {"memory_mb": 1}, {"open_files": 3}]
)
def test_senseless_limits_are_refused(bad):
    with pytest.raises(ValueError):
        Limits(**bad)


# --- bad input


@pytest.mark.parametrize(
    "code, status",
    [
        ("", Status.CANDIDATE_ERROR),
        ("   \n\n", Status.CANDIDATE_ERROR),
        ("I am sorry, I cannot help with that.", Status.CANDIDATE_ERROR),
        ("\0", Status.CANDIDATE_ERROR),
        ("def f(): return '\ud800'", Status.CANDIDATE_ERROR),  # what non-UTF-8 bytes become in a str
        ("# \udcff\ndef f(): return 1", Status.CANDIDATE_ERROR),
        ("# " + "x" * 1_000_000 + "\ndef f(): return 1", Status.PASSED),
        ("def f(): return 1\n" + "x = 1\n" * 160_000, Status.PASSED),
        ("(" * 1_000_000, Status.CANDIDATE_ERROR),
        ("def f(): return " + "-" * 100_000 + "1", None),
        ("def f(): return 'x' * 100_000_000", Status.CANDIDATE_ERROR),
        ("def f(): return [0] * 20_000_000", Status.CANDIDATE_ERROR),
        ("def f():\n    a = []\n    a.append(a)\n    return a", Status.CANDIDATE_ERROR),
        ("class E(Exception):\n    def __str__(self): raise self\ndef f(): raise E", Status.CANDIDATE_ERROR),
        ("def f(): raise ValueError('x' * 50_000_000)", Status.CANDIDATE_ERROR),
        ("raise KeyboardInterrupt", Status.CANDIDATE_ERROR),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input_is_a_status(sandbox, code, status):
    result = check(sandbox, code, "assert f() == 1")
    assert result.status in ((status,) if status else (Status.CANDIDATE_ERROR, Status.CRASHED, Status.PASSED))
    assert len(result.detail) <= 500
    assert sandbox.run(GOOD, ADD).passed


@pytest.mark.parametrize(
    "task, message",
    [
        ({"tests": "assert f( == 1"}, "tests does not compile"),
        ({"tests": "return 1"}, "tests does not compile"),
        ({"tests": "assert f()\0"}, "tests does not compile"),
        ({"tests": "assert f()", "setup": "import"}, "setup does not compile"),
        ({"tests": "assert f()", "trusted_prompt": "def f("}, "trusted_prompt does not compile"),
        ({"tests": ""}, "assert nothing"),
        ({"tests": "def check(candidate): assert candidate() == 1"}, "assert nothing"),
        ({"tests": "assert f()", "entry_point": "f"}, "no check"),
        ({"tests": "def check(c): assert c()", "entry_point": "g"}, "not among the exports"),
        ({"tests": "assert f()", "exports": "f"}, "tuple of names"),
    ],
)
def test_tasks_that_cannot_judge_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        CodeTask(**{"exports": ("f",), **task})


@pytest.mark.parametrize(
    "task",
    [
        CodeTask("assert f()", ("f",), setup="import no_such_module"),
        CodeTask("assert f()", ("f",), trusted_prompt="1 / 0"),
        CodeTask("assert f(object())", ("f",)),
    ],
)
def test_tasks_that_fail_by_themselves_are_no_verdict(sandbox, task):
    with pytest.raises(TaskError, match="fails by itself"):
        sandbox.run("def f(*args): return 1", task)
    assert sandbox.run(GOOD, ADD).passed


CALLS = "def test():\n    assert f(2) == 4\n"


@pytest.mark.parametrize(
    "tests",
    [
        "import unittest\nclass TestF(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(2), 4)",
        "class TestF:\n    def test_f(self):\n        assert f(2) == 4",
        "async def test():\n    assert f(2) == 4\ntest()",
        f"{CALLS}if __name__ == '__main__':\n    test()",
        "if __name__ == '__main__':\n    assert f(2) == 4",
        "f(2) == 4",
        "f(2) == 4\nsorted(f([2, 1])) == [1, 2]",
        "f(2)[0] == 4\nclass TestF:\n    def test_f(self):\n        assert f(2) == 4",
        "print(f(2), 4)",
        "try:\n    assert f(2) == 4\nexcept AssertionError:\n    pass",
        "try:\n    assert f(2) == 4\nexcept:\n    print('wrong')",
        "import contextlib\nwith contextlib.suppress(Exception):\n    assert f(2) == 4",
        "assert (f(2) == 4, 'should be 4')",
        "assert 'f(2) == 4'",
        "assert (lambda: f(2) == 4)",
        "assert (f(n) == 4 for n in [2])",
        "assert f is not None and callable(f)",
        "assert all(f(n) == 4 for n in [])",
        "if False:\n    assert f(2) == 4",
        "import unittest\nclass TestF(unittest.TestCase):\n    pass\nunittest.main()",
        "assert f(2) == 4 or True",
        "assert True",
        "assert 1 + 1 == 2",
        "for x in []:\n    assert f(x) == 4",
        "def test():\n    yield\n    assert f(2) == 4\ntest()",
        f"{CALLS}test",
        "import pickle\nx = [lambda: f(2)]",
        "check = lambda: f(2) == 4\ncheck()",
    ],
)
def test_tests_that_pass_every_program_are_no_tests(sandbox, tests):
    with pytest.raises(TaskError, match="the task for f asserts? nothing|assert nothing"):
        sandbox.run("def f(x): return [4]", CodeTask(tests, ("f",)))
    assert sandbox.run(GOOD, ADD).passed


@pytest.mark.parametrize(
    "body", ["pass", "assert True", "candidate(2)", "candidate(2) == 4", "return\n    assert candidate(2) == 4"]
)
def test_a_check_that_checks_nothing_is_named(sandbox, body):
    task = CodeTask(f"def check(candidate):\n    {body}", ("f",), entry_point="f")
    with pytest.raises(TaskError, match="the task for f asserts nothing"):
        sandbox.run("def f(x): return 2 * x", task)


@pytest.mark.parametrize(
    "tests",
    [
        "if f(2) != 4:\n    raise ValueError(2)",
        "try:\n    f(None)\nexcept TypeError:\n    pass\nelse:\n    assert False",
        "import unittest\nunittest.TestCase().assertEqual(f(2), 4)",
        "import unittest\nwith unittest.TestCase().assertRaises(TypeError):\n    f(None)",
        "import sys\nif f(2) != 4:\n    sys.exit(1)",
        "import unittest\nclass TestF(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(2), 4)\n"
        "result = unittest.TestResult()\nTestF('test_f').run(result)\nassert result.wasSuccessful()",
        "out = f(2)\nhalf = out / 2\nassert half == 2",
        "for a, b in zip(f([1, 2]), [1, 2]):\n    assert a == b\nassert f(2) == 4",
        "assert True\nassert f(2) == 4",
        "import unittest\nclass TestF(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(2), 4)\n"
        "unittest.main()",
        "def test():\n    yield f(2)\nassert list(test()) == [4]",
        "assert [f(n) for n in (1, 2)] == [2, 4]",
        f"{CALLS}test()",
        "async def main():\n    assert f(2) == 4\ntry:\n    main().send(None)\nexcept StopIteration: pass",
        "match f(2):\n    case 4: pass\n    case other: raise ValueError(other)",
        "assert not f(0)",
        "assert f(0) is not None and f(2)",
    ],
)
def test_tests_that_do_assert_pass_right_programs_alone(sandbox, tests):
    assert check(sandbox, "def f(x): return x + x", tests).passed
    assert not check(sandbox, "def f(x): raise OSError", tests).passed


def test_data_of_a_candidate_can_be_all_that_a_test_asks_for(sandbox):
    assert check(sandbox, "LIMIT = 3", "assert LIMIT == 3", "LIMIT").passed
    assert check(sandbox, "LIMIT = 4", "assert LIMIT == 3", "LIMIT").status is Status.FAILED


def test_setup_that_needs_the_candidate_blames_the_candidate(sandbox):
    task = CodeTask("assert f(root) == 1", ("f", "Node"), setup="root = Node(1)")
    assert sandbox.run("def f(n): return 1", task).detail == "does not define Node"
    broken = sandbox.run("def f(n): return 1\nclass Node: pass", task)
    assert broken.status is Status.CANDIDATE_ERROR and "TypeError" in broken.detail


# --- the sandbox itself


def test_errors_are_of_one_family():
    for kind in (SandboxUnavailable, SandboxSelfTestError, SandboxInfrastructureError, TaskError):
        assert issubclass(kind, SandboxError)
    assert issubclass(SandboxError, BoostError)


def test_preloaded_modules_can_be_imported_and_others_not():
    with CodeSandbox(workers=1, preload=("colorsys",)) as opened:
        code = "import {}\ndef f(): return 1"
        assert check(opened, code.format("colorsys"), "import colorsys\nassert f() == 1").passed
        assert "ModuleNotFoundError" in check(opened, code.format("wave"), "assert f() == 1").detail


def test_a_module_that_cannot_be_preloaded_is_named():
    with pytest.raises(SandboxInfrastructureError, match="no_such_module"), CodeSandbox(1, preload=("no_such_module",)):
        pass


def test_importing_or_running_needs_no_torch():
    code = "import sys\nsys.path = sys.path\ndef f(): return [m for m in ('torch', 'numpy') if m in sys.modules]"
    with CodeSandbox(workers=1) as opened:
        assert check(opened, code, "assert f() == []").passed
    package = Path(boostlib.sandbox.__file__).parent
    script = f"import sys; sys.path.insert(0, {str(package.parents[1])!r})\n" + (
        "import types; m = types.ModuleType('boostlib'); m.__path__ = [sys.path[0] + '/boostlib']\n"
        "sys.modules['boostlib'] = m\nimport boostlib.sandbox\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_nothing_of_the_callers_surroundings_reaches_a_candidate(monkeypatch):
    monkeypatch.setenv("SOME_SECRET", "1")
    with CodeSandbox(workers=1) as opened:
        code = "import os, sys\ndef f(): return [sorted(os.environ), os.getcwd(), sys.argv, sys.path]"
        assert check(opened, code, f"assert f() == [{sorted(worker.ENVIRONMENT)}, '/', [''], []]").passed
        held = """
import os
def held(fd):
    try: return os.close(os.dup(fd)) is None
    except OSError: return False
def f(): return [fd for fd in range(64) if held(fd)]
"""
        result = check(opened, held, "assert f() == [0, 1, 2, 3]")
        assert result.passed, result.detail


def test_a_dead_helper_is_replaced_once_and_the_verdict_is_right():
    with CodeSandbox(workers=1) as opened:
        for which in (0, 1):
            before = opened._workers[0].pids
            os.kill(before[which], signal.SIGKILL)
            assert opened.run(GOOD, ADD).passed
            assert not set(before) & set(opened._workers[0].pids)
        slow = "import time\ndef add(a, b):\n    time.sleep(1)\n    return a + b"
        os.kill(opened._workers[0].pids[1], signal.SIGSTOP)
        opened._workers[0]._helpers[1].receive = lambda timeout: _times_out()
        assert opened.run(slow, ADD).passed


def _times_out():
    raise worker.HelperDied("the judge helper does not answer")


@pytest.mark.parametrize("end", ["ctypes.string_at(0)", "os._exit(0)", "os._exit(3)", "os.abort()"])
def test_a_judge_that_dies_of_one_candidate_is_a_verdict_on_it(end):
    task = CodeTask(f"import ctypes, os\nif add(1, 2) != 3: {end}\nassert add(1, 2) == 3", ("add",))
    wrong = "def add(a, b): return 4"
    with CodeSandbox(workers=1) as opened:
        before = opened._workers[0].pids
        results = opened.run_many([(GOOD, task), (wrong, task), (GOOD, ADD), (wrong, ADD), (GOOD, task)])
        expected = [Status.PASSED, Status.PROTOCOL_ERROR, Status.PASSED, Status.FAILED, Status.PASSED]
        assert [result.status for result in results] == expected
        assert "ended the tests" in results[1].detail and opened._workers[0].pids == before


def test_a_judge_that_dies_of_the_self_test_as_well_is_no_verdict(monkeypatch):
    with CodeSandbox(workers=1) as opened:
        monkeypatch.setattr(box, "KNOWN", (("a death", GOOD, "import os\nos._exit(0)", Status.PASSED),))
        with pytest.raises(SandboxInfrastructureError, match="a judge ended without a verdict"):
            opened.run(GOOD, CodeTask("import os\nos._exit(0)\nassert add(1, 2)", ("add",)))


def test_a_child_can_ask_about_itself(sandbox):
    code = """
import os, threading, time
def f():
    own = [~os.getpid() << 3 | 2, ~os.getpid() << 3 | 6, time.pthread_getcpuclockid(threading.get_ident())]
    for clock in (*range(8), 11, *own): time.clock_gettime(clock), time.clock_getres(clock)
    time.sleep(0.001)
    times = time.time, time.monotonic, time.perf_counter, time.process_time, time.thread_time
    return all(now() > 0 for now in times) and os.sched_getaffinity(0) == os.sched_getaffinity(os.getpid())
"""
    result = check(sandbox, code, "assert f()")
    assert result.passed, result.detail


def test_functions_may_call_each_other_to_a_depth(sandbox):
    code = "def f(g, n): return n and 1 + g(f, n - 1)"
    tests = "def g(h, n): return h(g, n)\nassert f(g, {0}) == {0}"
    assert check(sandbox, code, tests.format(80)).passed
    assert "RecursionError" in check(sandbox, code, tests.format(300)).detail


def test_helpers_that_keep_dying_are_an_error_and_not_a_verdict(monkeypatch):
    with CodeSandbox(workers=1) as opened:
        monkeypatch.setattr(worker, "ENVIRONMENT", {**worker.ENVIRONMENT, "PYTHONHOME": "/nowhere"})
        os.kill(opened._workers[0].pids[0], signal.SIGKILL)
        with pytest.raises(SandboxInfrastructureError, match="has died.*after a restart"):
            opened.run(GOOD, ADD)
        monkeypatch.undo()
        assert opened.run(GOOD, ADD).passed  # the next one gets new helpers


def test_a_helper_that_dies_in_the_middle_takes_its_child_along():
    with CodeSandbox(workers=1, limits=Limits(wall_s=30)) as opened:
        (own,) = opened._workers
        candidate = own.pids[0]
        killer = subprocess.Popen(
            [sys.executable, "-S", "-c", f"import os,time; time.sleep(1); os.kill({candidate}, 9)"]
        )
        start = time.monotonic()
        with pytest.raises(worker.HelperDied):
            own.check("import time\ntime.sleep(20)", ADD, opened.limits)
        assert killer.wait() == 0 and time.monotonic() - start < 15
        assert _wait_until(lambda: not leftovers(opened))


def test_self_test_refuses_a_sandbox_that_does_not_contain(monkeypatch):
    monkeypatch.setattr(box, "KNOWN", (*box.KNOWN[:1], (*box.KNOWN[1][:3], Status.PASSED)))
    with pytest.raises(SandboxSelfTestError, match="a wrong answer: failed instead of passed"), CodeSandbox(workers=1):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(worker, "RLIMITS_ONLY", probe_isolation())  # helpers are told not to contain
    with (
        pytest.raises(SandboxSelfTestError, match="acts: failed.*assert False, act  # AssertionError: open"),
        CodeSandbox(workers=1),
    ):
        pass


def test_without_seccomp_it_says_so_and_only_unsafe_goes_on(monkeypatch):
    monkeypatch.setattr(box, "describe", lambda: "")
    with pytest.raises(SandboxUnavailable, match="seccomp.*unsafe=True"):
        CodeSandbox(workers=1)
    with pytest.warns(UserWarning, match="uncontained"), CodeSandbox(workers=1, unsafe=True) as opened:
        result = opened.run(GOOD, ADD)
        assert result.passed and result.isolation == "rlimits only"
        assert opened.run("while True: pass", ADD).status is Status.TIMEOUT


def test_it_has_to_be_open():
    opened = CodeSandbox(workers=1)
    with pytest.raises(SandboxError, match="with CodeSandbox"):
        opened.run(GOOD, ADD)
    with opened:
        assert opened.run(GOOD, ADD).passed
    with pytest.raises(SandboxError, match="with CodeSandbox"):
        opened.run(GOOD, ADD)
    with pytest.raises(ValueError, match="at least one"):
        CodeSandbox(workers=0)


def test_a_fork_of_the_caller_neither_uses_nor_ends_the_sandbox():
    with CodeSandbox(workers=1) as opened:
        pid = os.fork()
        if pid == 0:
            try:
                opened.run(GOOD, ADD)
            except SandboxError:
                opened.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert opened.run(GOOD, ADD).passed


def test_an_interrupt_ends_a_batch_and_the_sandbox_goes_on(hurried):
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            hurried.run_many([("while True: pass", ADD)] * 30)
        assert time.monotonic() - start < 6
    finally:
        signal.signal(signal.SIGINT, kept)
    assert hurried.run(GOOD, ADD).passed


def test_odd_escapes_in_published_tests_make_no_noise(sandbox, recwarn):
    assert check(sandbox, "def f(): return '\\\\d'", "assert f() == '\\d'").passed
    assert not recwarn.list


def test_a_caller_that_is_killed_leaves_nothing_behind():
    script = (
        "import os, sys, time\nfrom boostlib.sandbox import *\nwith CodeSandbox(workers=1) as box:\n"
        "    print(*box._workers[0].pids, flush=True)\n"
        "    box.run('import time\\ntime.sleep(60)', CodeTask('assert f()', ('f',)))\n"
    )
    root = str(Path(boostlib.sandbox.__file__).parents[2])
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root)
    helpers = [int(pid) for pid in caller.stdout.readline().split()]
    assert len(helpers) == 2
    time.sleep(0.3)
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert _wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers), seconds=10)


# --- many runs

KINDS = {
    Status.PASSED: GOOD,
    Status.FAILED: "def add(a, b): return a",
    Status.CANDIDATE_ERROR: "def add(a, b): raise ValueError",
    Status.TIMEOUT: "while True: pass",
    Status.CRASHED: "import os\ndef add(a, b): os._exit(1)",
    Status.PROTOCOL_ERROR: "import os\nos.write(3, b'\\xff' * 8)",
}


def _mixed_runs(count: int, hangs: int) -> None:
    """Right verdicts, and afterwards no more processes, descriptors or memory than before."""
    wanted = random.Random(0).choices([kind for kind in KINDS if kind is not Status.TIMEOUT], k=count - hangs)
    wanted += [Status.TIMEOUT] * hangs
    random.Random(1).shuffle(wanted)
    with CodeSandbox(workers=2, limits=Limits(wall_s=3.0)) as opened:
        opened.run_many([(KINDS[kind], ADD) for kind in KINDS] * 3)
        helpers = [pid for each in opened._workers for pid in each.pids]
        before = {pid: (_rss_kb(pid), _descriptors(pid)) for pid in (*helpers, os.getpid())}
        results = opened.run_many([(KINDS[kind], ADD) for kind in wanted])
        wrong = [(kind, result) for kind, result in zip(wanted, results, strict=True) if result.status is not kind]
        assert not wrong
        assert [pid for each in opened._workers for pid in each.pids] == helpers  # none was restarted
        assert leftovers(opened) == []
        for pid, (rss, descriptors) in before.items():
            assert _descriptors(pid) == descriptors
            assert _rss_kb(pid) < rss + (20_000 if pid == os.getpid() else 1_000)
    assert not any(Path(f"/proc/{pid}").exists() for pid in helpers)


def test_200_mixed_runs_leave_nothing_behind():
    _mixed_runs(200, hangs=4)


@pytest.mark.slow
def test_5000_mixed_runs_leave_nothing_behind():
    _mixed_runs(5000, hangs=50)


def _rss_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _wait_until(condition, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
