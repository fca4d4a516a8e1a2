"""A table or JSONL with one case a row: a prompt, what was expected, and the outcome.

    question,expected,outcome,topic        {"prompt": "17 - 4 =", "expected": 13, "passed": false, "output": "12"}
    17 - 4 =,13,fail,differences

Columns are known by any of the names below, in any case, the first that is there; those of an error log (`id`, `score`,
`class`, `cost`, `split`) mean what they mean there. A table of `text`, `label` and `predicted` is a classifier's.
"""

from collections.abc import Collection
from typing import Any

from boostlib.tasks.logs.record import RIGHT, WRONG, Malformed, Record, prompt_of, verdict
from boostlib.tasks.rows import Row

NAME = "table of prompts, expected answers and outcomes"
PROMPT = ("prompt", "question", "input", "instruction", "query")
EXPECTED = ("expected", "expected_output", "target", "reference_answer", "ideal", "answer", "gold", "label")
OUTCOME = ("outcome", "verdict", "passed", "pass", "correct", "is_correct", "success", "result", "status")
RESPONSE = ("response", "output", "completion", "prediction", "predicted", "generated", "model_output")
CLASS = ("class", "category", "topic", "kind", "type")
KEPT = ("score", "split", "tests", "reference")
PREDICTED = ("predicted", "prediction", "pred")


def fits(record: Row) -> bool:
    """Whether a record, or the header of a table, is of this form. An error log may have a field "status"."""
    names = _names(record)
    return all(column(names, known) for known in (PROMPT, EXPECTED)) and judges(record)


def judges(record: Row) -> bool:
    """Whether a record has an outcome, and one that says right or wrong where it has a value."""
    names = _names(record)
    name = column(names, OUTCOME)
    outcome = record[names[name]] if name else ""
    return outcome is None or str(outcome).strip().casefold() in (*RIGHT, *WRONG)


def classified(record: Row) -> bool:
    """Whether it is a classifier's: a text, its label, and what was predicted."""
    names = _names(record)
    return "text" in names and "label" in names and column(names, PREDICTED) is not None


def to_record(record: Row, file: str = "") -> Record:
    """The case of a row."""
    names = _names(record)
    prompt = record.get(names.get(column(names, PROMPT) or "", ""))
    if not isinstance(prompt, str) or not prompt.strip():
        raise Malformed(f"'{column(names, PROMPT) or PROMPT[0]}' should be a non-empty text")
    return judged(record, prompt_of(prompt))


def judged(record: Row, question: Row, response: Any = None) -> Record:
    """The case of a row whose question, and perhaps answer, were found already."""
    names = _names(record)
    found = {key: record.get(names.get(column(names, known) or "", "")) for key, known in COLUMNS.items()}
    if found["outcome"] is None:
        raise Malformed("there is no outcome, such as 'passed': true")
    row: Row = {"id": record.get(names.get("id", ""), ""), **question}
    row |= {name: record[names[name]] for name in KEPT if name in names and record[names[name]] is not None}
    if "tests" not in row:
        if found["expected"] is None or not str(found["expected"]).strip():
            raise Malformed("there is no expected answer")
        row["expected"] = found["expected"]
    row |= {"class": str(found["class"])} if found["class"] is not None else {}
    if "cost" in names and record[names["cost"]] is not None:
        row["cost"] = _number(record[names["cost"]])
    response = found["response"] if response is None else response
    passed = verdict(found["outcome"], column(names, OUTCOME) or "")
    return Record(row, passed, response if isinstance(response, str) else None)


def column(names: Collection[str], known: Collection[str]) -> str | None:
    """The first of the names `known` that is there."""
    return next((name for name in known if name in names), None)


def _names(record: Row) -> dict[str, str]:
    """{name as it is known: name in the record}."""
    return {str(name).strip().casefold().replace(" ", "_"): name for name in record}


def _number(value: Any) -> Any:
    """A cost that a table holds as text; what is no number stays as it is, to be named."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


COLUMNS = {"expected": EXPECTED, "outcome": OUTCOME, "response": RESPONSE, "class": CLASS}
