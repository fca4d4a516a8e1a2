"""One check for every public setting when it is given: its type, its range, that it is finite; one kind of error.

    @dataclass(frozen=True)
    @checked
    class GRPO:
        prompts: Count = 16         GRPO(prompts=0) raises BoostError("GRPO(prompts=0): must be a whole number ...")

pydantic judges the values; the classes stay plain dataclasses, so a run's identity is what it was. Values are kept as
given, but for NumPy's numbers, which become Python's, and lists, which become tuples where these are asked for. A bool
is no number, and a number in quotes is none.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import fields
from os import PathLike
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from boostlib.common.errors import BoostError

T = TypeVar("T")


def _named(path: str | PathLike) -> str | PathLike:
    if not isinstance(path, (str, PathLike)) or str(path).strip() in ("", "."):
        raise ValueError
    return path


MOST = 10**9  # of anything that is counted
Count = Annotated[int, Field(ge=1, le=MOST, strict=True, description="a whole number of at least 1 (and at most 1e9)")]
Whole = Annotated[int, Field(ge=0, le=MOST, strict=True, description="a whole number of at least 0 (and at most 1e9)")]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True, description="a whole number from 0 to 2^63 - 1")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True, description="a number above 0")]
AtLeastZero = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True, description="a number of at least 0")]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False, strict=True, description="above 0 and below 1")]
Flag = Annotated[bool, Field(strict=True, description="True or False")]
AnyPath = str | PathLike
File = Annotated[AnyPath, BeforeValidator(_named), Field(description="the name of a file or folder, not empty")]
Name = Annotated[str, Field(min_length=1, strict=True, description="a text that is not empty")]
Names = Annotated[tuple[Name, ...], Field(strict=True, description='a tuple of texts, such as ("test",)')]


def checked(settings: type[T]) -> type[T]:
    """To go below `dataclass`: fields are checked by their annotations before its own `__post_init__` looks at them.

    Fields of other classes must be instances of these. Raises BoostError for the first that is not as it should be.
    """
    own = getattr(settings, "__post_init__", None)

    def check(self) -> None:
        for name, kind in kinds(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            object.__setattr__(self, name, valid(f"{type(self).__name__}({name}=", value, kind))
        if own:
            own(self)

    settings.__post_init__ = check  # type: ignore[attr-defined]
    return settings


def checks(function: Callable[..., T]) -> Callable[..., T]:
    """A function whose arguments are checked where they are annotated by the names above; the others are its own."""
    signature = inspect.signature(function)
    kinds = {name: kind for name, kind in get_type_hints(function, include_extras=True).items() if _description(kind)}

    @functools.wraps(function)
    def call(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        for name in bound.arguments.keys() & kinds.keys():
            bound.arguments[name] = valid(f"{function.__name__}({name}=", bound.arguments[name], kinds[name])
        return function(*bound.args, **bound.kwargs)

    return call


def valid(where: str, value: Any, kind: Any) -> Any:
    """`value`, as it is kept. Raises BoostError where it is not of `kind`; where: "Class(field=", for the message."""
    kept, wanted = judged(value, kind)
    if wanted:
        raise BoostError(f"{where}{short(kept)}): must be {wanted}")
    return kept


def judged(value: Any, kind: Any) -> tuple[Any, str]:
    """(`value` as it is kept, what it should be where it is not of `kind`, else "")."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list) and "tuple" in str(kind):
        value = tuple(value)
    try:
        _judge(value, kind)
    except (ValidationError, TypeError):
        return value, _wanted(kind)
    return value, ""


def short(value: Any, most: int = 80) -> str:
    """`value` as a message shows it, on one line."""
    try:
        shown = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return f"a number of more than {sys.get_int_max_str_digits()} digits"
    return shown if len(shown) < most else f"{shown[: most - 4]}..."


def _judge(value: Any, kind: Any) -> None:
    """A class asks for its instances (pydantic would make one of a dict); all else is pydantic's to judge."""
    if value is None and type(None) in get_args(kind):
        return
    parts = [part for part in get_args(kind) if isinstance(part, type) and part is not type(None)]
    classes = (kind,) if isinstance(kind, type) else tuple(parts) if isinstance(kind, UnionType) else ()
    if not classes:
        _adapter(kind).validate_python(value)
    elif not isinstance(value, classes) or (isinstance(value, bool) and bool not in classes):
        raise TypeError


@functools.cache
def kinds(settings: type) -> list[tuple[str, Any]]:
    """(name, annotation) of each field that is given when an object is made."""
    hints = get_type_hints(settings, include_extras=True)
    return [(field.name, hints[field.name]) for field in fields(settings) if field.init]


@functools.cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind, config={"arbitrary_types_allowed": True, "revalidate_instances": "never"})


def _description(kind: Any) -> str | None:
    """What an annotation by the names above says; with None added, where that is allowed too."""
    found = [getattr(meta, "description", None) for meta in getattr(kind, "__metadata__", ())]
    return next((text for text in found if text), None) or next(
        (text for part in get_args(kind) if (text := _description(part))), None
    )


def _wanted(kind: Any) -> str:
    """In words, what a value of `kind` is."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    also = " or None" if type(None) in get_args(kind) else ""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    text = _description(kind)
    if text:
        return text + also
    return " or ".join(getattr(part, "__name__", str(part)) for part in (parts or [kind])) + also
