"""Reading and checking the rows of an error log: everything that is wrong with a file, in one message.

    id        text or whole number, unique in the log             prompt    raw text, or
    expected  text or number, or                                  messages  [{"role": ..., "content": ...}, ...]
    tests     source, or a list of asserts                        reference  a program that passes `tests` (optional)
    score     exact (default), number, regex, label; code where there are tests
    class     groups cases in reports and costs                   cost      positive number, default 1
    kind      "failure" (default), or "guard": must not break     split     train, guard or test; default by kind

A field that is null is absent. Other fields are the user's own and are left alone, but for one whose name is nearly
that of a field above which the row lacks: it is taken for a slip. A message lists the first 20 problems with their
lines and counts the rest.
"""

import functools
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from boostlib.common.errors import DataError
from boostlib.common.settings import short
from boostlib.tasks.answers import as_number
from boostlib.tasks.rows import Row, json_lines

SCORES = ("exact", "number", "regex", "label", "code")
SPLITS = ("train", "guard", "test")
ROLES = ("system", "developer", "user", "assistant", "tool")
SHOWN = 20
Numbered = tuple[str, Row]  # where it stands, and the row
Problem = tuple[str, str]  # where, and what is wrong


def read_log(path: Path) -> tuple[list[Numbered], list[Problem]]:
    """(rows, problems) of a jsonl file, or of all in a folder by name, without blank lines and fields that are null.

    Raises DataError where there is no such file, it cannot be read, or it holds no row.
    """
    inside = path.iterdir() if path.is_dir() else ()
    files = sorted(file for file in inside if file.name.lower().endswith((".jsonl", ".jsonl.gz"))) or [path]
    rows: list[Numbered] = []
    problems: list[Problem] = []
    try:
        for file in files:
            for number, row in json_lines(file):
                where = f"{file.name}, line {number}" if path.is_dir() else f"line {number}"
                if isinstance(row, str):
                    problems.append((where, row))
                else:
                    rows.append((where, {name: value for name, value in row.items() if value is not None}))
    except DataError as error:
        raise DataError(f"the error log {error}; give `path` of a jsonl file") from error
    if not rows and not problems:
        raise DataError(f"the error log {path} holds no case: it should hold one JSON object a line")
    return rows, problems


def check_rows(rows: Sequence[Numbered]) -> list[Problem]:
    """Everything that is wrong with the fields of the rows, and ids that occur twice."""
    problems = [(where, problem) for where, row in rows for problem in check_row(row)]
    first: dict[str, str] = {}
    for where, row in rows:
        if "id" in row and first.setdefault(str(row["id"]), where) != where:
            problems.append((where, f"the id '{row['id']}' is that of {first[str(row['id'])]} already"))
    return problems


class LogError(DataError):
    """A log with `problems`; the message lists the first of them."""

    def __init__(self, message: str, problems: Sequence[Problem]):
        super().__init__(message)
        self.problems = problems


def complain(problems: Sequence[Problem], path: object, what: str = "the error log") -> None:
    """Raises LogError that lists `problems` of `what` in `path`, the first `SHOWN` of them, where there are any."""
    if problems:
        in_order = sorted(problems, key=lambda problem: _place(problem[0]))
        lines = [f"  {where}: {what}" for where, what in in_order[:SHOWN]]
        more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise LogError("\n".join([f"{what} {path} has {count}; correct these lines:", *lines, *more]), problems)


def listed(problems: Sequence[Problem]) -> list[str]:
    """Every problem, those that say the same in one line: "  line 3, 7-9: not JSON"."""
    places: dict[str, list[tuple[str, int]]] = {}
    for where, what in sorted(problems, key=lambda problem: _place(problem[0])):
        places.setdefault(what, []).append(_place(where))
    return [f"  {_ranges(found)}: {what}" for what, found in places.items()]


def _ranges(places: list[tuple[str, int]]) -> str:
    """("line", 1), ("line", 2), ("line", 5) as "line 1-2, 5"."""
    spans: list[list[Any]] = []  # name, first, last
    for name, number in places:
        if spans and spans[-1][0] == name and number <= spans[-1][2] + 1:
            spans[-1][2] = number
        else:
            spans.append([name, number, number])
    parts, before = [], None
    for name, first, last in spans:
        parts.append(("" if name == before else f"{name} ") + (f"{first}" if first == last else f"{first}-{last}"))
        before = name
    return ", ".join(parts)


def _place(where: str) -> tuple[str, int]:
    name, _, number = where.rpartition(" ")
    return name, int(number)


def check_row(row: Row) -> Iterator[str]:
    """What is wrong with one row; nothing where it is sound."""
    score, answer = scoring(row), "tests" if scoring(row) == "code" else "expected"
    for name, (holds, what) in RULES.items():
        asked = name in ("id", answer) or (name in row and name not in ("tests", "expected"))
        if asked and not holds(row.get(name)):
            yield f"'{name}' should be {what}, not {short(row.get(name), 60)}"
    for name, meant in _slips(tuple(row)):
        yield f"{name!r} is no field of a log: is it '{meant}'? Rename it"
    if ("prompt" in row) == ("messages" in row):
        yield "give either 'prompt', a text, or 'messages', a chat"
    if row.get("kind") == "guard" and row.get("split") in ("train", "test"):
        yield f"a guard cannot be in split {row['split']!r}"
    if score in SCORES and score != "code" and "tests" in row:
        yield f"'tests' are scored by code, not by {score!r}: leave one of them out"
    elif "tests" in row and "expected" in row:
        yield "'expected' is not looked at where there are 'tests': leave one of them out"
    if answer == "expected" and RULES["expected"][0](row.get("expected")):
        yield from _check_expected(score, expected_text(row))


def _check_expected(score: str, expected: str) -> Iterator[str]:
    if score == "regex":
        try:
            re.compile(expected)
        except re.error as error:
            yield f"'expected' is no regular expression: {error}: {expected!r}"
    if score == "number" and not re.search(r"[0-9\\]", expected) and as_number(expected) is None:
        yield f"'expected' should be a number or a formula, not {expected!r}"


def scoring(row: Row) -> Any:
    """How a row asks to be scored."""
    return row.get("score", "code" if "tests" in row else "exact")


def expected_text(row: Row) -> str:
    """What a row expects as text: a number as it is written without an exponent, 0.00001 and not 1e-05."""
    value = row["expected"]
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)


@functools.lru_cache(maxsize=4096)  # most rows of a log have the same fields
def _slips(fields: tuple[str, ...]) -> list[tuple[str, str]]:
    """(a field of a row, the field of a log that it is nearly called and that the row lacks)."""
    absent, found = [name for name in RULES if name not in fields], []
    for given in (name for name in fields if name not in RULES):
        name = given.strip().casefold()
        near = get_close_matches(name, [other for other in absent if other[0] == name[:1]], n=1, cutoff=0.75)
        found += [(given, near[0])] if near else []
    return found


def is_cost(value: object) -> bool:
    """Whether `value` can be the cost of a case: a positive, finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_chat(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    sound = all(isinstance(m, dict) and set(m) == {"role", "content"} and all(map(_is_text, m.values())) for m in value)
    return sound and all(m["role"] in ROLES for m in value) and value[-1]["role"] == "user"


def _is_source(value: object) -> bool:
    lines = value if isinstance(value, list) else [value]
    return bool(lines) and all(map(_is_text, lines))


def _is_plain(*kinds: type) -> Callable[[object], bool]:
    """Whether a value is of one of `kinds`, no bool, and not blank."""
    return lambda value: (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and bool(str(value).strip())
        and not (isinstance(value, float) and not math.isfinite(value))
    )


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {  # field -> whether a value is sound, what it should be
    "id": (_is_plain(str, int), "a text or a whole number"),
    "prompt": (_is_text, "a non-empty text"),
    "messages": (_is_chat, f"a chat of {', '.join(ROLES)} that ends with the user's message"),
    "class": (lambda value: isinstance(value, str), "a text"),
    "reference": (lambda value: isinstance(value, str), "a text"),
    "cost": (is_cost, "a positive number"),
    "kind": (("failure", "guard").__contains__, "'failure' or 'guard'"),
    "split": (SPLITS.__contains__, f"one of {', '.join(SPLITS)}"),
    "score": (SCORES.__contains__, f"one of {', '.join(SCORES)}"),
    "tests": (_is_source, "source or a list of asserts"),
    "expected": (_is_plain(str, int, float), "a text or a number"),
}
