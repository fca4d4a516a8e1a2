"""One end of the line between a judge and a candidate: requests, answers, and opaque handles.

Each side keeps its own objects and gives the other numbers for them. The judge asks the candidate to call, iterate or
read what a number stands for; the candidate can only call the functions that a test passed to it. Both may ask while
they are being asked, so that a candidate's `map(f, xs)` reaches a test's `f`.

A candidate that answers by hand gains nothing: its answers are data in any case, and it never sees what they are
compared with.
"""

import contextlib
import operator
import os
import sys
import types
from collections.abc import Callable
from functools import cache

from boostlib.sandbox import codec

MAX_NESTED = 100  # questions within questions, such as a test's function that calls the candidate that calls it
MAX_HANDLES = 1 << 18  # of one side: a list of instances that fills a message has fewer
MAX_CHAIN = 16  # exceptions within exceptions: causes, and members of a group
MAX_TEXT = 1000  # characters of an exception's argument
FIELDS = ("name", "path", "filename", "filename2")  # what built-in exceptions keep beside their arguments
MAX_PART = codec.MAX_FRAME >> 4  # bytes of an exception's arguments, or of one attribute
# what a test may look at among the names that copy, pickle and inspect ask anything for
FORWARDED = ("__name__", "__qualname__", "__doc__", "__dict__", "__annotations__")
OWN = ("tests", "candidate", "boostlib")  # modules whose exceptions are not the other side's to name
# exact types of the interpreter that a handle may show as its class
VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
SHOWN = (types.GeneratorType, map, filter, zip, enumerate, reversed, *VIEWS)


class LineError(BaseException):
    """The line is of no use any more; not an Exception, so that a test's `except Exception` lets it through."""


class Gone(LineError):
    """The other side closed the line, or died."""


class NotPassable(TypeError):
    """A test passes something that cannot cross: the task's fault."""


class Malformed(LineError):
    """The other side sent something that is not a message."""


OPS: dict[str, Callable] = {
    "call": lambda function, args, kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
    "isinstance": lambda kind, value: isinstance(value, kind),
}


class Opaque:
    """`Opaque(peer, handle, name)`, a handle on something of the other side's that is not data: each use is a request.

    It can be asked for its truth, text and attributes, and called, iterated, indexed and asked for its length where the
    thing itself can be: `_opaque` adds those methods, so that `callable`, `hasattr` and the abstract classes of
    `collections` tell them apart. On purpose it equals nothing but itself and takes part in no arithmetic or ordering:
    any of these would hand the expected value to the candidate and let it decide. `in` iterates, whatever the thing's
    own `__contains__` says, and compares on the test's side.
    """

    __slots__ = ("_handle", "_name", "_peer")

    def __init__(self, peer, handle: int, name: str) -> None:
        for slot, value in (("_peer", peer), ("_handle", handle), ("_name", name)):
            object.__setattr__(self, slot, value)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name not in FORWARDED:
            raise AttributeError(name)
        return self._peer.request("getattr", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._peer.request("setattr", self, name, value)

    def __bool__(self) -> bool:
        return self._peer.request("bool", self) is True

    def __str__(self) -> str:
        return self._peer.request("str", self)

    def __repr__(self) -> str:
        return f"<opaque {self._name}>"

    def __instancecheck__(self, value: object) -> bool:
        return issubclass(type(value), Opaque) and self._peer.request("isinstance", self, value) is True


def _iterate(self):
    iterator = self._peer.request("iter", self)
    while True:
        try:
            yield self._peer.request("next", iterator)
        except StopIteration:
            return


# the special methods that a handle has where the thing's type has them; their places are bits on the wire
SPECIAL: dict[str, Callable] = {
    "__call__": lambda self, *args, **kwargs: self._peer.request("call", self, args, kwargs),
    "__iter__": _iterate,
    "__next__": lambda self: self._peer.request("next", self),
    "__len__": lambda self: self._peer.request("len", self),
    "__contains__": lambda self, item: any(own is item or own == item for own in _iterate(self)),
    "__getitem__": lambda self, key: self._peer.request("getitem", self, key),
    "__setitem__": lambda self, key, value: self._peer.request("setitem", self, key, value),
    "__delitem__": lambda self, key: self._peer.request("delitem", self, key),
}


@cache
def _abilities(kind: type) -> int:
    """What a handle on an instance of `kind` shows: a bit per special method, and above them a place in SHOWN."""
    own = {name: method for base in reversed(kind.__mro__) for name, method in vars(base).items() if name in SPECIAL}
    bits = sum(1 << i for i, name in enumerate(SPECIAL) if own.get(name) is not None)  # None switches one off
    return bits | (SHOWN.index(kind) + 1 if kind in SHOWN else 0) << len(SPECIAL)


@cache
def _opaque(abilities: int) -> type[Opaque]:
    """The class of a handle on a thing with these abilities."""
    body = {name: method for i, (name, method) in enumerate(SPECIAL.items()) if abilities >> i & 1}
    body["__doc__"] = property(lambda self: self._peer.request("getattr", self, "__doc__"))
    if shown := abilities >> len(SPECIAL):
        body["__class__"] = property(lambda self: SHOWN[shown - 1])
    return type("Opaque", (Opaque,), {"__slots__": (), **body})


class TheirException(type):
    """The class of the other side's exception classes: classes of this side too, for `except`; for the rest handles."""

    def __call__(cls, *args: object, **kwargs: object) -> object:
        if cls._peer.is_candidate:  # which raises what it makes, and may ask the judge for no instance
            return super().__call__(*args)
        return cls._peer.request("call", cls, args, kwargs)

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls._peer.request("getattr", cls, name)

    def __instancecheck__(cls, value: object) -> bool:
        if issubclass(type(value), Opaque):
            return cls._peer.request("isinstance", cls, value) is True
        return super().__instancecheck__(value)


class Peer:
    """`Peer(fd, ops)`: serves the named operations to whoever holds the other end, and asks for them."""

    def __init__(self, fd: int, ops: dict[str, Callable]) -> None:
        self._fd, self.ops = fd, ops
        self._mine: list[object] = []  # by handle; kept for ever, so that an id is never used twice
        self._handles: dict[int, int] = {}  # id of an object of mine -> its handle
        self._theirs: dict[int, object] = {}
        self._classes: dict[type, int] = {}  # an exception class of theirs -> its handle
        self._nested = 0
        self.broken: LineError | None = None  # stays, whatever a test swallows
        self.asked = 0  # requests so far

    def request(self, op: str, *args: object) -> object:
        """What the other side answers; raises what it raised."""
        self.asked += 1
        self._write(codec.dumps((op, *args), self._export))
        while True:
            kind, *rest = self._read()
            if kind == "ok" and len(rest) == 1:
                return rest[0]
            if kind == "raised" and len(rest) == 1:
                raise self._rebuilt(rest[0])
            self._answer(kind, rest)

    def serve(self) -> None:
        """Answers until the line is closed."""
        while True:
            kind, *rest = self._read()
            self._answer(kind, rest)

    def handed_over(self, thing: object) -> bool:
        """Whether `thing` itself has been given to the other side, which holds a handle on it."""
        handle = self._handles.get(id(thing), -1)
        return handle >= 0 and self._mine[handle] is thing

    @property
    def is_candidate(self) -> bool:
        """Whether this side answers everything; the other runs the tests and calls what they handed over, no more."""
        return "getattr" in self.ops

    def _answer(self, op: str, args: list) -> None:
        if op not in self.ops:
            self._break(Malformed(f"asked for {str(op)[:40]!r}, which is not offered"))
        self._nested += 1
        try:
            if self._nested > MAX_NESTED:
                raise RecursionError(f"more than {MAX_NESTED} questions within one another")
            frame = codec.dumps(("ok", self.ops[op](*args)), self._export)
        except LineError:
            raise
        except BaseException as error:  # SystemExit too: it must end neither side
            frame = self._raised(error)
        finally:
            self._nested -= 1
        self._write(frame)

    def _export(self, thing: object) -> list:
        kind = type(thing)
        if issubclass(kind, Opaque):
            return ["yours", thing._handle]
        if issubclass(kind, type) and issubclass(thing, BaseException):
            if thing in self._classes:
                return ["yours", self._classes[thing]]
            if _known(thing.__module__, thing.__name__) is thing:
                return ["known", thing.__module__, thing.__name__]
        if not self.is_candidate and not callable(thing):
            raise NotPassable(f"a test passes a {kind.__name__}, which is neither data nor a function")
        handle = self._handles.setdefault(id(thing), len(self._mine))
        if handle == len(self._mine):
            if handle == MAX_HANDLES:
                raise MemoryError(f"more than {MAX_HANDLES} objects may not cross")
            self._mine.append(thing)
        if issubclass(kind, type) and issubclass(thing, BaseException):
            bases = [self._export(base) for base in thing.__bases__ if issubclass(base, BaseException)]
            return ["error", handle, thing.__name__[:MAX_TEXT], bases]
        return ["object", handle, kind.__name__[:100], _abilities(kind)]

    def _resolve(self, wire: list) -> object:
        tag, handle, *about = wire
        if tag == "known":
            return _known(handle, *about) or Exception
        if type(handle) is not int or handle < 0:
            raise codec.CodecError("malformed message: no such handle")
        if tag == "yours":
            return self._mine[handle]
        if handle not in self._theirs:
            if len(self._theirs) == MAX_HANDLES:
                raise codec.CodecError(f"more than {MAX_HANDLES} objects may not cross")
            name, parts = about
            if type(name) is not str:
                raise codec.CodecError("malformed message: no handle")
            made = self._class(handle, name, parts) if tag == "error" else self._handle(handle, name, parts)
            self._theirs[handle] = made
        return self._theirs[handle]

    def _handle(self, handle: int, name: str, abilities: object) -> Opaque:
        if not isinstance(abilities, int) or not 0 <= abilities < (len(SHOWN) + 1) << len(SPECIAL):
            raise codec.CodecError("malformed message: no handle")
        return _opaque(abilities)(self, handle, name[:100])

    def _class(self, handle: int, name: str, bases: object) -> type:
        """An exception class of the other side's, below the same built-in ones, and always below Exception."""
        found = [self._resolve(base) for base in bases] if type(bases) is list else [bases]
        if not all(issubclass(type(base), type) and issubclass(base, BaseException) for base in found):
            raise codec.CodecError("malformed message: no exception class")
        body = {"__module__": "candidate", "_peer": self, "__str__": lambda error: error.__dict__.get("_text", "")}
        kind = TheirException(name[:100], tuple(map(_caught, found)), body)
        self._classes[kind] = handle
        return kind

    def _read(self) -> tuple:
        size = int.from_bytes(self._take(4), "little")
        if size > codec.MAX_FRAME:
            self._break(Malformed(f"a message of {size} bytes, and {codec.MAX_FRAME} may cross"))
        try:
            message = codec.loads(self._take(size), self._resolve)
        except codec.CodecError as error:
            self._break(Malformed(str(error)))
        if type(message) is not tuple or not message or type(message[0]) is not str:
            self._break(Malformed("malformed message: neither a request nor an answer"))
        return message

    def _take(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = os.read(self._fd, size - len(data))
            except OSError:
                piece = b""
            if not piece:
                self._break(Gone("the line was closed"))
            data += piece
        return bytes(data)

    def _write(self, frame: bytes) -> None:
        data = memoryview(len(frame).to_bytes(4, "little") + frame)
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError:
                self._break(Gone("the line was closed"))

    def _break(self, error: LineError) -> None:
        self.broken = self.broken or error
        raise error

    def refuse(self, what: str) -> None:
        """The other side has done what it may not: the line is of no use any more."""
        self._break(Malformed(what))

    def _raised(self, error: BaseException) -> bytes:
        """The message that says so; of an exception that cannot cross, its text."""
        with contextlib.suppress(Exception):
            return codec.dumps(("raised", self._taken_apart(error)), self._export)
        return codec.dumps(("raised", [RuntimeError, [_text(error)], {}, "", None]), self._export)

    def _taken_apart(self, error: BaseException, chain: int = 0) -> list:
        """An exception as data: [class, arguments, attributes, text, cause]; what cannot cross is left out."""
        text, cause = _text(error), error.__cause__
        if isinstance(error, BaseExceptionGroup) and chain < MAX_CHAIN:
            args = [error.message[:MAX_TEXT], [self._taken_apart(member, chain + 1) for member in error.exceptions]]
        else:
            args = [arg[:MAX_TEXT] if type(arg) in (str, bytes) else arg for arg in error.args]
        fields = {name: getattr(error, name) for name in FIELDS if getattr(error, name, None) is not None}
        state = fields | vars(error)
        state = {name: value for name, value in state.items() if type(name) is str and self._crosses(value)}
        if cause is not None:
            cause = self._taken_apart(cause, chain + 1) if chain < MAX_CHAIN else None
        return [type(error), args if self._crosses(args) else [text], state, text, cause]

    def _crosses(self, value: object) -> bool:
        try:
            return len(codec.dumps(value, self._export)) <= MAX_PART
        except Exception:
            return False

    def _rebuilt(self, parts: object) -> Exception:
        """The exception that the other side took apart, marked as its own. One that is no Exception, such as
        SystemExit, is made one as well: it must not end the judge."""
        if type(parts) is not list or list(map(type, parts[1:4])) != [list, dict, str] or len(parts) != 5:
            self.refuse("malformed message: no exception")
        kind, args, state, text, cause = parts
        if not (issubclass(type(kind), type) and issubclass(kind, BaseException)):
            kind = RuntimeError
        if issubclass(kind, BaseExceptionGroup) and len(args) == 2 and type(args[1]) is list:
            args = [args[0], [self._rebuilt(member) for member in args[1]]]
        error = _made(_caught(kind), args)
        for name, value in state.items():
            if name in FIELDS:
                with contextlib.suppress(AttributeError, TypeError):
                    setattr(error, name, value)
            elif type(name) is str:
                error.__dict__[name] = value
        error._text, error.raised_by_peer = text, kind.__name__[:100]
        error.__cause__ = None if cause is None else self._rebuilt(cause)
        return error


def _text(error: BaseException) -> str:
    try:
        return str(error)[:MAX_TEXT]
    except BaseException:  # a candidate's own __str__ may do anything
        return ""


def _known(module: object, name: object) -> type | None:
    """The exception class of that name in a module that both sides have, their own code left out."""
    if type(module) is not str or type(name) is not str or module.partition(".")[0] in OWN:
        return None
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    return found if issubclass(type(found), type) and issubclass(found, BaseException) else None


@cache
def _caught(kind: type) -> type:
    """`kind`, or where it is no Exception a class that is both."""
    if issubclass(kind, Exception):
        return kind
    return Exception if kind is BaseException else type(kind.__name__, (kind, Exception), {})


def _made(kind: type, args: list) -> Exception:
    """An instance, made by the `__init__` of its built-in base, which sets what C code reads, not by its own."""
    built_in = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    try:
        error = kind.__new__(kind, *args)
        built_in.__init__(error, *args)
    except Exception:
        error = RuntimeError(*args)
    return error
