"""Inspect (`inspect-ai`): a log as `.json`, or `.eval` where `inspect-ai` is installed, which reads it.

    {"version": 2, "status": "success", "eval": {"task": "gsm8k", "scorers": [{"name": "match", "options": {"numeric":
     true}}]}, "samples": [{"id": 1, "epoch": 1, "input": "...", "target": "72", "messages": [...],
     "scores": {"match": {"value": "I", "answer": "71"}}}]}

Shape: `EvalLog` of inspect-ai, versions 1 and 2. Rebuilt are its scorers match, includes, exact, answer and choice, as
numbers or patterns. Left out: model_graded_*, pattern and a task's own scorers, samples that ended in an error, answers
in several turns, tools, images. The samples of several epochs are one case.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from boostlib.common.errors import DataError
from boostlib.tasks.logs.record import LeftOut, Malformed, Record, asked, chat, inside, part, regex, text_of, verdict
from boostlib.tasks.rows import Row

NAME = "log of Inspect"


def fits(document: Row) -> bool:
    """Whether a document is of this form."""
    return isinstance(document.get("eval"), dict) and ("status" in document or "plan" in document)


def records(document: Row) -> list[Any]:
    """The samples, each with what the header says of its scorers. Raises DataError where there are none."""
    samples = document.get("samples")
    if not isinstance(samples, list) or not samples:
        raise DataError("it is the log of an evaluation without its samples: run that with log_samples=True")
    header = document["eval"]
    older, newer = inside(document, "results").get("scores"), header.get("scorers")  # where versions name their scorers
    scorers = [one for found in (older, newer) if isinstance(found, list) for one in found if isinstance(one, dict)]
    options = {str(one.get("name")): inside(one, "options") or inside(one, "params") for one in scorers}
    about = {"task": str(header.get("task", "")), "options": options}
    return [{**one, "about": about} if isinstance(one, dict) else one for one in samples]


def read_eval(path: Path) -> Row:
    """A `.eval` file as the document that `.json` holds. Raises DataError where inspect-ai is missing or refuses it."""
    try:
        reader = importlib.import_module("inspect_ai.log")
    except ImportError as error:
        raise DataError(
            f"{path} is an .eval log, which inspect-ai reads: pip install inspect-ai, or write it as JSON with "
            "`inspect log dump`"
        ) from error
    try:
        return reader.read_eval_log(str(path), resolve_attachments=True).model_dump(mode="json", exclude_none=True)
    except Exception as error:  # its own, of many types
        raise DataError(f"inspect-ai does not read {path}: {type(error).__name__}: {error}") from error


def to_record(sample: Row, file: str = "") -> Record:
    """The case of a sample."""
    about = sample["about"]
    if sample.get("error"):
        raise LeftOut("the sample ended in an error")
    scores = sample.get("scores") or {"": sample.get("score")}
    if not isinstance(scores, dict) or not any(isinstance(one, dict) for one in scores.values()):
        raise LeftOut("the sample was not scored")
    name = next((name for name in scores if name in SCORERS), None)
    if name is None or not isinstance(scores[name], dict):
        raise LeftOut(f"scored by {', '.join(scores) or 'nothing'}")
    if scores[name].get("value") in ("P", "p"):
        raise LeftOut("the verdict is a share, neither right nor wrong")
    question, answer = _question(sample)
    targets = sample.get("target")
    texts = [str(one).strip() for one in (targets if isinstance(targets, list) else [targets]) if str(one).strip()]
    if targets is None or not texts:
        raise Malformed("'target' is missing")
    score, expected = SCORERS[name](texts, about["options"].get(name) or {})
    metadata = inside(sample, "metadata")
    kind = metadata.get("subject") or metadata.get("category") or about["task"]
    row = {"id": str(sample.get("id", "")), **question, "expected": expected, "score": score, "class": str(kind)}
    return Record(row, verdict(scores[name].get("value"), f"scores.{name}.value"), answer)


def _question(sample: Row) -> tuple[Row, str | None]:
    """(what was asked, what was answered): messages, where there are any, hold what solvers put round the input."""
    if not sample.get("messages"):
        given = sample.get("input")
        question = {"messages": chat(given)} if isinstance(given, list) else {"prompt": part(sample, "input", str)}
        choices = inside(sample, "output").get("choices") or [{}]
        return question, text_of(inside(choices[0], "message").get("content") or "")
    messages = part(sample, "messages", list)
    if sum(isinstance(one, dict) and one.get("source") == "generate" for one in messages) > 1:
        raise LeftOut("an answer in several turns")
    return asked(chat(messages))


def _match(targets: list[str], options: dict, where: str = "end") -> tuple[str, str]:
    if options.get("numeric"):
        if len(targets) > 1:
            raise LeftOut("several right numbers")
        return "number", targets[0]
    where, found = options.get("location", where), "|".join(re.escape(one) for one in targets)
    start, end = (
        (r"\A[\W_]*" if where in ("begin", "exact") else ""),
        (r"[\W_]*\Z" if where in ("end", "exact") else ""),
    )
    flags = "(?i)" if options.get("ignore_case", True) else ""
    return "regex", f"{flags}{start}(?:{found}){end}"


def _answer(targets: list[str], options: dict) -> tuple[str, str]:
    found = "|".join(re.escape(one) for one in targets)
    return "regex", regex(rf"(?i:ANSWER\s*:\s*(?:{found})(?!\w))")


SCORERS = {
    "match": _match,
    "exact": lambda targets, options: _match(targets, {}, "exact"),
    "includes": lambda targets, options: _match(targets, {**options, "location": "any", "numeric": False}),
    "answer": _answer,
    "choice": _answer,
}
