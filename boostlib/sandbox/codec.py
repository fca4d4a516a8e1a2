"""Values as tagged JSON: what may cross between a candidate and its judge.

Only data of an exact type crosses, by value: a subclass of int whose `==` always holds is not an int. Whatever else
turns up goes through `export` and arrives as an opaque handle. Departures from JSON: NaN and the infinities are
numbers, every array starts with a tag, there are no objects, a lone surrogate is three bytes of its own (as an escape,
two of them in a row would be read as one character), and sizes and depth are capped on both sides.
"""

import json
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

MAX_FRAME = 4 << 20  # bytes of one message
MAX_DEPTH = 64
RESOLVED = ("object", "yours", "error", "known")  # arrays that stand for what is not data
HOLDERS = ("slice", "deque", "defaultdict")  # made of parts that may be anything

SEQUENCES = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
MAPPINGS = {dict: "dict", Counter: "Counter", OrderedDict: "OrderedDict"}
# type -> its tag, the parts that it is made of, and how it is made of them
SCALARS: dict[type, tuple[str, Callable, Callable]] = {
    bytes: ("bytes", lambda x: [x.hex()], bytes.fromhex),
    bytearray: ("bytearray", lambda x: [x.hex()], bytearray.fromhex),
    complex: ("complex", lambda x: [x.real, x.imag], complex),
    range: ("range", lambda x: [x.start, x.stop, x.step], range),
    slice: ("slice", lambda x: [x.start, x.stop, x.step], slice),
    Fraction: ("Fraction", lambda x: [x.numerator, x.denominator], Fraction),
    Decimal: ("Decimal", lambda x: [str(x)], Decimal),
    datetime: ("datetime", lambda x: _moment(x), lambda *parts: _at(datetime, *parts)),
    date: ("date", lambda x: [x.isoformat()], date.fromisoformat),
    time: ("time", lambda x: _moment(x), lambda *parts: _at(time, *parts)),
    timedelta: ("timedelta", lambda x: [x.days, x.seconds, x.microseconds], timedelta),
    timezone: ("timezone", lambda x: x.__getinitargs__(), timezone),
    deque: ("deque", lambda x: [x.maxlen, *x], lambda maxlen, *items: deque(items, maxlen)),
    defaultdict: (
        "defaultdict",
        lambda x: [x.default_factory, *_flat(x)],
        lambda make, *flat: defaultdict(make, _pairs(flat)),
    ),
    type(...): ("ellipsis", lambda _: [], lambda: ...),
    type(NotImplemented): ("NotImplementedType", lambda _: [], lambda: NotImplemented),
}
TYPES = {kind.__name__: kind for kind in (type(None), object, bool, int, float, str, *SEQUENCES, *MAPPINGS, *SCALARS)}
_MAKE_SEQUENCE = {tag: kind for kind, tag in SEQUENCES.items()}
_MAKE_MAPPING = {tag: kind for kind, tag in MAPPINGS.items()}
_MAKE_SCALAR = {tag: make for tag, _, make in SCALARS.values()}


class CodecError(ValueError):
    """A value or a message that may not cross: too large, too deep, or not made of the known tags."""


def dumps(value: object, export: Callable[[object], list]) -> bytes:
    """One message; `export(thing)` gives the tagged array that stands for anything that is not data."""
    text = json.dumps(_encode(value, export, [MAX_FRAME], MAX_DEPTH), separators=(",", ":"), ensure_ascii=False)
    frame = text.encode("utf-8", "surrogatepass")
    if len(frame) > MAX_FRAME:
        raise CodecError(f"a value of {len(frame)} bytes, and {MAX_FRAME} may cross")
    return frame


def loads(frame: bytes, resolve: Callable[[list], object]) -> object:
    """The value of one message, however hostile; `resolve(array)` gives the thing behind an exported one."""
    try:
        return _decode(json.loads(frame.decode("utf-8", "surrogatepass")), resolve, MAX_DEPTH)
    except CodecError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, MemoryError) as error:
        raise CodecError(f"malformed message: {type(error).__name__}") from None


def _encode(value, export: Callable, room: list[int], depth: int) -> object:
    kind = type(value)
    room[0] -= len(value) if kind in (str, bytes, bytearray) else 1
    if room[0] < 0:
        raise CodecError(f"more than {MAX_FRAME} bytes, and no more may cross")
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        # hexadecimal beyond 64 bits: json's decimal stops at 4,300 digits
        return value if value.bit_length() < 64 else ["int", hex(value)]
    if depth == 0:
        raise CodecError(f"nested more than {MAX_DEPTH} deep, or within itself")
    if kind in SEQUENCES:
        return [SEQUENCES[kind], *[_encode(item, export, room, depth - 1) for item in value]]
    if kind in MAPPINGS:
        return [MAPPINGS[kind], *[_encode(part, export, room, depth - 1) for part in _flat(value)]]
    if kind in SCALARS and type(getattr(value, "tzinfo", None)) in (type(None), timezone):
        tag, parts, _ = SCALARS[kind]
        return [tag, *[_encode(part, export, room, depth - 1) for part in parts(value)]]
    if isinstance(value, type) and TYPES.get(value.__name__) is value:
        return ["type", value.__name__]
    return export(value)


def _decode(wire: object, resolve: Callable, depth: int) -> object:
    if wire is None or type(wire) in (bool, int, float, str):
        return wire
    if type(wire) is not list or not wire or depth < 0:
        raise CodecError("malformed message: not a tagged array")
    tag = wire[0]
    if tag in RESOLVED:
        return resolve(wire)
    if tag == "int":
        return int(wire[1], 16)
    if tag == "type":
        return TYPES[wire[1]]
    fields = [_decode(item, resolve, depth - 1) for item in wire[1:]]
    if tag in _MAKE_SEQUENCE:
        return _MAKE_SEQUENCE[tag](fields)
    if tag in _MAKE_MAPPING:
        return _MAKE_MAPPING[tag](dict(_pairs(fields)))
    if tag not in HOLDERS and any(type(item) is list and item[0] in RESOLVED for item in wire[1:]):
        raise CodecError(f"malformed message: a {tag} of what is not data")  # it would be asked what it is worth
    return _MAKE_SCALAR[tag](*fields)


def _flat(mapping) -> list:
    return [part for item in mapping.items() for part in item]


def _pairs(flat) -> Iterable:
    return zip(flat[::2], flat[1::2], strict=True)


def _moment(value) -> list:
    """A datetime or a time: what its clock shows, its timezone, and which of two equal hours it means."""
    return [value.replace(tzinfo=None).isoformat(), value.tzinfo, value.fold]


def _at(kind: type, iso: str, zone: timezone | None, fold: int):
    return kind.fromisoformat(iso).replace(tzinfo=zone, fold=fold)
