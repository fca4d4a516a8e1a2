"""promptfoo, `promptfoo eval --output results.json`: one result a test, prompt and provider.

    {"evalId": "...", "results": {"version": 3, "results": [{"success": false, "failureReason": 1, "testIdx": 0,
     "promptIdx": 0, "prompt": {"raw": "Greet in French."}, "vars": {...}, "response": {"output": "Hello"},
     "testCase": {"assert": [{"type": "icontains", "value": "bonjour"}]}}]}}

Shape: versions 2 and 3. A prompt goes to the model as a user's message, or as the chat that it is. Rebuilt are equals,
contains, icontains, their -any and -all, starts-with and regex, each with `not-` too, alone or together, as one
pattern. Left out with their types: every other assertion (a model's grade, code, latency, cost), sets with a threshold,
values with more than `{{ name }}` in them, and results in which the provider failed.
"""

import re
from typing import Any

from boostlib.common.errors import DataError
from boostlib.tasks.logs.record import LeftOut, Malformed, Record, any_of, inside, part, prompt_of, regex, verdict
from boostlib.tasks.rows import Row

NAME = "results of promptfoo"
_PROVIDER_FAILED = 2  # failureReason


def fits(document: Row) -> bool:
    """Whether a document is of this form."""
    found = document.get("results")
    return isinstance(found, dict) and isinstance(found.get("results"), list)


def records(document: Row) -> list[Any]:
    """The results. Raises DataError where there are none."""
    if not document["results"]["results"]:
        raise DataError("it holds no results")
    return document["results"]["results"]


def to_record(result: Row, file: str = "") -> Record:
    """The case of a result."""
    response = inside(result, "response")
    if result.get("failureReason") == _PROVIDER_FAILED or response.get("error"):
        raise LeftOut("the provider failed")
    test = part(result, "testCase", dict)
    if test.get("threshold") is not None:
        raise LeftOut("assertions weighed against a threshold")
    asserts, given = test.get("assert") or [], inside(result, "vars") or inside(test, "vars")
    if not isinstance(asserts, list) or not all(isinstance(one, dict) for one in asserts):
        raise Malformed("'testCase.assert' should be a list of objects")
    score, expected = _scoring(asserts, given)
    raw = part(part(result, "prompt", dict), "raw", str)
    question = prompt_of(raw)
    if "prompt" in question:
        question = {"messages": [{"role": "user", "content": raw}]}
    row = {
        "id": f"test {result['testIdx']}, prompt {result.get('promptIdx', 0)}" if "testIdx" in result else "",
        **question,
        "expected": expected,
        "score": score,
        "class": str(inside(test, "metadata").get("category") or given.get("category") or ""),
    }
    output = response.get("output")
    return Record(row, verdict(result.get("success"), "success"), output if isinstance(output, str) else None)


def _scoring(asserts: list[Row], given: Row) -> tuple[str, str]:
    if not asserts:
        raise LeftOut("nothing was asserted")
    odd = sorted({str(one.get("type")) for one in asserts if str(one.get("type")).removeprefix("not-") not in PATTERNS})
    if odd:
        raise LeftOut(f"scored by {', '.join(odd)}")
    values = [_filled(one.get("value"), given) for one in asserts]
    if len(asserts) == 1 and asserts[0]["type"] == "equals":
        return "exact", str(values[0])
    pattern = regex(*(_condition(str(one["type"]), value) for one, value in zip(asserts, values, strict=True)))
    try:
        re.compile(pattern)
    except re.error as error:
        raise LeftOut("a pattern that Python does not read") from error
    return "regex", pattern


def _condition(kind: str, value: Any) -> str:
    """What stands behind `(?=.*` for one assertion."""
    if value is None or value == "" or value == []:
        raise Malformed(f"the assertion {kind!r} has no value")
    found = PATTERNS[kind.removeprefix("not-")](value)
    return rf"\A(?!.*{found})" if kind.startswith("not-") else found


def _filled(value: Any, given: Row) -> Any:
    """A value with its `{{ name }}` filled in. Raises LeftOut for other templates, code and files."""
    if isinstance(value, list):
        return [_filled(one, given) for one in value]
    text = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: str(given.get(match[1], match[0])), str(value))
    if "{{" in text or "{%" in text or text.startswith("file://"):
        raise LeftOut("an assertion made by a template or a file")
    return None if value is None else text


def _scoped(pattern: re.Match) -> str:
    """A pattern whose flags hold for itself alone."""
    return f"(?{pattern[1] or '-s'}:{pattern[2]})"


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [part.strip() for part in str(value).split(",")]


def _all(value: Any, ignore_case: bool) -> str:
    return r"\A" + "".join(f"(?=.*{any_of([one], ignore_case)})" for one in _listed(value))


PATTERNS = {
    "equals": lambda value: rf"\A{re.escape(str(value))}\Z",
    "contains": lambda value: any_of([value], False),
    "icontains": lambda value: any_of([value], True),
    "contains-any": lambda value: any_of(_listed(value), False),
    "icontains-any": lambda value: any_of(_listed(value), True),
    "contains-all": lambda value: _all(value, False),
    "icontains-all": lambda value: _all(value, True),
    "starts-with": lambda value: rf"\A{re.escape(str(value))}",
    "regex": lambda value: re.sub(r"\A(?:\(\?([imsx]+)\))?(.*)\Z", _scoped, str(value), flags=re.DOTALL),
}
