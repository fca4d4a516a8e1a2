"""What one record of somebody's log becomes: a row of an error log, the verdict that it gives, and on which answer.

What failed is a case to repair, what passed a candidate for the guard. The verdict is the log's: about another model it
may not hold for this one, which is why the untrained model is always evaluated. A record is never guessed at:

    Malformed   it is not what its form promises: to be corrected by hand
    LeftOut     sound, but its scoring cannot be rebuilt here: a model's grade, the likelihood of given choices, ...

`score` is taken from the log where it says how it was scored; else a number is scored as one, and other text as exact.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from boostlib.common.settings import short
from boostlib.tasks.answers import as_number
from boostlib.tasks.rows import Row

RIGHT = ("pass", "passed", "correct", "right", "true", "yes", "ok", "success", "succeeded", "1", "1.0", "c")
WRONG = ("fail", "failed", "incorrect", "wrong", "false", "no", "error", "failure", "0", "0.0", "i", "n")
_KINDS: dict[Any, str] = {dict: "an object", list: "a list", str: "a text"}


class Malformed(Exception):
    """A record that is not what its form promises."""


class LeftOut(Exception):
    """A sound record whose scoring cannot be rebuilt here."""


@dataclass(frozen=True)
class Record:
    """`row`: fields of an error log; `passed`: the log's verdict, None where it gives none, on `response`."""

    row: Row
    passed: bool | None
    response: str | None = None


def part(record: Row, name: str, kind: type) -> Any:
    """A field of a record. Raises Malformed where it is missing or of another kind."""
    value = record.get(name)
    if not isinstance(value, kind):
        raise Malformed(f"'{name}' should be {_KINDS[kind]}, not {short(value, 60)}")
    return value


def inside(record: Any, name: str) -> Row:
    """An object inside a record that need not be there: {} where it is not."""
    found = record.get(name) if isinstance(record, dict) else None
    return found if isinstance(found, dict) else {}


def verdict(value: Any, name: str) -> bool:
    """Whether a record says that the answer was right. Raises LeftOut for a share, Malformed for what says neither."""
    text = str(value).strip().casefold()
    if text in RIGHT or text in WRONG:
        return text in RIGHT
    if not isinstance(value, (str, bool)) and isinstance(value, (int, float)):
        raise LeftOut("the verdict is a share, neither right nor wrong")
    raise Malformed(f"'{name}' should be a verdict such as pass or fail, true or false, 1 or 0, not {short(value, 60)}")


def default_score(expected: Any) -> str:
    """How an expected answer is scored where the log does not say."""
    return "number" if as_number(str(expected)) is not None else "exact"


def chat(messages: Any) -> list[dict[str, str]]:
    """Messages with role and text alone. Raises LeftOut for tools and for parts that are no text."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Malformed(f"'messages' should be a list of objects, not {short(messages, 60)}")
    if any(one.get("tool_calls") or one.get("function_call") or one.get("role") == "tool" for one in messages):
        raise LeftOut("it calls tools")
    return [{"role": str(one.get("role")), "content": text_of(one.get("content"))} for one in messages]


def text_of(content: Any) -> str:
    """The text of a message: plain, or in parts. Raises LeftOut where another part (an image) belongs to it."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(one, dict) for one in content):
        if any(one.get("type") not in ("text", "input_text", "output_text", "reasoning") for one in content):
            raise LeftOut("a message holds more than text")
        return "".join(str(one.get("text", "")) for one in content if one["type"] != "reasoning")
    raise Malformed(f"the content of a message should be a text, not {short(content, 60)}")


def asked(messages: list[dict[str, str]]) -> tuple[Row, str | None]:
    """({"messages": up to the last question}, the answer to it, where the chat ends with one)."""
    answered = bool(messages) and messages[-1]["role"] == "assistant"
    return {"messages": messages[:-1] if answered else messages}, messages[-1]["content"] if answered else None


def prompt_of(text: str) -> Row:
    """A logged prompt: a chat where it is one written as JSON, else raw text."""
    if text.lstrip().startswith("["):
        try:
            messages = json.loads(text)
        except ValueError:
            return {"prompt": text}
        if isinstance(messages, list) and messages and all(isinstance(m, dict) and "role" in m for m in messages):
            return asked(chat(messages))[0]
    return {"prompt": text}


def regex(*conditions: str) -> str:
    """A pattern that matches a whole text in which every one of `conditions` is found."""
    return rf"(?s)\A{''.join(f'(?=.*{one})' for one in conditions)}.*\Z"


def any_of(texts: Iterable[Any], ignore_case: bool) -> str:
    """A pattern for one of several texts as they stand."""
    found = "|".join(re.escape(str(text)) for text in texts)
    return f"(?i:{found})" if ignore_case else f"(?:{found})"
