"""Chats in OpenAI's form, one a line, with what was expected and a verdict.

    {"messages": [{"role": "user", "content": "17 - 4?"}, {"role": "assistant", "content": "12"}], "expected": "13",
     "passed": false}
    {"request": {"messages": [...]}, "response": {"choices": [{"message": {...}}]}, "expected": "13", "verdict": "fail"}

The last assistant message, or the first choice of the response, is the answer; what stands before it is asked again.
`expected` and the verdict go by any of the names in `flat.py`. Left out: tools, images.
"""

from typing import Any

from boostlib.tasks.logs import flat
from boostlib.tasks.logs.record import Malformed, Record, asked, chat, text_of
from boostlib.tasks.rows import Row

NAME = "chats with a verdict"


def fits(record: Row) -> bool:
    """Whether a record is of this form: a chat without a verdict is a row of an error log, or nothing to learn from."""
    return _messages(record) is not None and flat.judges(record)


def to_record(record: Row, file: str = "") -> Record:
    """The case of a line."""
    messages = chat(_messages(record))
    if not messages:
        raise Malformed("'messages' should be a chat, not an empty list")
    question, answer = asked(messages)
    return flat.judged(record, question, _response(record) if answer is None else answer)


def _messages(record: Row) -> Any:
    for holder in (record, record.get("request"), record.get("body")):
        if isinstance(holder, dict) and "messages" in holder:
            return holder["messages"]
    return None


def _response(record: Row) -> str | None:
    """The answer of an API's response, where there is one."""
    found = record.get("response")
    found = found.get("body", found) if isinstance(found, dict) else {}
    choices = found.get("choices") if isinstance(found, dict) else None
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        message = choices[0].get("message")
        return text_of(message.get("content")) if isinstance(message, dict) and message.get("content") else None
    return None
