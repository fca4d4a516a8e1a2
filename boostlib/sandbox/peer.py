"""One end of the line between a judge and a candidate: requests, answers, and opaque handles.

Each side keeps its own objects and gives the other numbers for them. The judge asks the candidate to call, iterate or
read what a number stands for; the candidate can only call the functions that a test passed to it. Both may ask while
they are being asked, so that a candidate's `map(f, xs)` reaches a test's `f`.

A candidate that answers by hand gains nothing: its answers are data in any case, and it never sees what they are
compared with.
"""

import builtins
import operator
import os
from collections.abc import Callable, Iterator

from boostlib.sandbox import codec

PLAIN = (str, int, float, bool, type(None))


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
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
    "isinstance": lambda kind, value: isinstance(value, kind),
}


class Opaque:
    """`Opaque(peer, handle, name)`, a handle on something of the other side's that is not data: each use is a request.

    It can be called, iterated, indexed, asked for its length, truth, text and attributes. On purpose it equals nothing
    but itself and takes part in no arithmetic, ordering or search: any of these would hand the expected value to the
    candidate and let it decide. `in` falls back on iteration, which compares on the test's side.
    """

    __slots__ = ("_handle", "_name", "_peer")

    def __init__(self, peer, handle: int, name: str) -> None:
        for slot, value in (("_peer", peer), ("_handle", handle), ("_name", name)):
            object.__setattr__(self, slot, value)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # copy, pickle and inspect look for these on anything
            raise AttributeError(name)
        return self._peer.request("getattr", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._peer.request("setattr", self, name, value)

    def __getitem__(self, key: object) -> object:
        return self._peer.request("getitem", self, key)

    def __setitem__(self, key: object, value: object) -> None:
        self._peer.request("setitem", self, key, value)

    def __iter__(self) -> Iterator[object]:
        iterator = self._peer.request("iter", self)
        while True:
            try:
                yield self._peer.request("next", iterator)
            except StopIteration:
                return

    def __next__(self) -> object:
        return self._peer.request("next", self)

    def __len__(self) -> int:
        return self._peer.request("len", self)

    def __bool__(self) -> bool:
        return self._peer.request("bool", self) is True

    def __str__(self) -> str:
        return self._peer.request("str", self)

    def __repr__(self) -> str:
        return f"<opaque {self._name}>"

    def __instancecheck__(self, value: object) -> bool:
        return type(value) in (Opaque, OpaqueFunction) and self._peer.request("isinstance", self, value) is True


class OpaqueFunction(Opaque):
    """One that can be called: a class of its own, so that `callable` tells them apart."""

    __slots__ = ()

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._peer.request("call", self, args, kwargs)


class Peer:
    """`Peer(fd, ops)`: serves the named operations to whoever holds the other end, and asks for them."""

    def __init__(self, fd: int, ops: dict[str, Callable]) -> None:
        self._fd, self._ops = fd, ops
        self._mine: list[object] = []  # by handle; kept for ever, so that an id is never used twice
        self._handles: dict[int, int] = {}  # id of an object of mine -> its handle
        self._theirs: dict[int, Opaque] = {}
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
            if kind == "raised" and len(rest) == 3:
                raise _rebuilt(*rest)
            self._answer(kind, rest)

    def serve(self) -> None:
        """Answers until the line is closed."""
        while True:
            kind, *rest = self._read()
            self._answer(kind, rest)

    def _answer(self, op: str, args: list) -> None:
        if op not in self._ops:
            self._break(Malformed(f"asked for {str(op)[:40]!r}, which is not offered"))
        try:
            frame = codec.dumps(("ok", self._ops[op](*args)), self._export)
        except LineError:
            raise
        except BaseException as error:  # SystemExit too: it must end neither side
            frame = codec.dumps(("raised", *_taken_apart(error)), self._export)
        self._write(frame)

    def _export(self, thing: object) -> list:
        if isinstance(thing, Opaque):
            return ["yours", thing._handle]
        if "getattr" not in self._ops and not callable(thing):
            raise NotPassable(f"a test passes a {type(thing).__name__}, which is neither data nor a function")
        handle = self._handles.setdefault(id(thing), len(self._mine))
        if handle == len(self._mine):
            self._mine.append(thing)
        return ["object", handle, type(thing).__name__[:100], callable(thing)]

    def _resolve(self, wire: list) -> object:
        if wire[0] == "yours":
            if type(wire[1]) is not int or wire[1] < 0:
                raise codec.CodecError("malformed message: no such handle")
            return self._mine[wire[1]]
        _, handle, name, is_callable = wire
        if type(handle) is not int or type(name) is not str:
            raise codec.CodecError("malformed message: no handle")
        kind = OpaqueFunction if is_callable is True else Opaque
        return self._theirs.setdefault(handle, kind(self, handle, name[:100]))

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


def _taken_apart(error: BaseException) -> tuple[str, str, list]:
    """An exception as data: its type's name, the nearest built-in exception's, and its arguments."""
    bases = (kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
    try:
        args = list(error.args) if all(type(arg) in PLAIN for arg in error.args) else [str(error)]
    except BaseException:  # a candidate's own __str__ may do anything
        args = []
    return type(error).__name__[:100], next(bases), [arg[:1000] if type(arg) is str else arg for arg in args]


def _rebuilt(name: object, base: object, args: object) -> Exception:
    """The nearest built-in exception, marked as the other side's; SystemExit and the like come as a RuntimeError."""
    kind = getattr(builtins, base, None) if type(base) is str else None
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    try:
        error = kind(*(args if type(args) is list else []))
    except (TypeError, ValueError):
        error = RuntimeError(str(args))  # one that takes other arguments, such as UnicodeDecodeError
    error.raised_by_peer = str(name)[:100]
    return error
