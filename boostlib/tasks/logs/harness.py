"""lm-evaluation-harness, `samples_TASK_DATE.jsonl` of `--log_samples`: one line a document and filter.

    {"doc_id": 3, "doc": {...}, "target": "... #### 72", "arguments": {"gen_args_0": {"arg_0": "Q: ...", "arg_1":
     {"until": ["Q:"], "max_gen_toks": 256}}}, "resps": [["... 71"]], "filtered_resps": ["71"], "filter":
     "strict-match", "metrics": ["exact_match"], "exact_match": 0.0}

Shape: `EvaluationTracker.save_results_samples` of lm-eval 0.4. `arguments` may also be a list of lists, and its prompt
a chat written as JSON. Tasks that generate and are scored by exact_match or acc are read. Left out: choices compared by
their likelihood (several requests, or pairs of numbers for answers), other metrics, several right or sampled answers.
"""

import re
from typing import Any

from boostlib.tasks.logs.record import LeftOut, Malformed, Record, default_score, inside, part, prompt_of, verdict
from boostlib.tasks.rows import Row

NAME = "samples of lm-evaluation-harness"
METRICS = ("exact_match", "acc")


def fits(record: Row) -> bool:
    """Whether a record is of this form."""
    return "doc_id" in record and ("arguments" in record or "filtered_resps" in record)


def to_record(record: Row, file: str = "") -> Record:
    """The case of a line; file: its name, which holds the task's."""
    context, _ = _request(record)
    answers = part(record, "resps", list)
    while len(answers) == 1 and isinstance(answers[0], list):
        answers = answers[0]
    if not all(isinstance(answer, str) for answer in answers) or not answers:
        raise Malformed("'resps' should hold the answer, a text")
    if len(answers) > 1:
        raise LeftOut("several answers to one question")
    values = {name.split(",")[0]: value for name, value in record.items()}
    metric = next((name for name in METRICS if name in values), None)
    if metric is None:
        named = ", ".join(map(str, record.get("metrics") or [])) or "no metric that it names"
        raise LeftOut(f"scored by {named}")
    task, doc = _task(file), inside(record, "doc")
    expected = _expected(record)
    row = {
        "id": f"{task or 'doc'} {record['doc_id']}",
        **prompt_of(context),
        "expected": expected,
        "score": "number" if "\\" in expected else default_score(expected),
        "class": str(doc.get("subject") or doc.get("category") or task),
    }
    return Record(row, verdict(values[metric], metric), answers[0])


def settings(record: Row) -> dict[str, Any]:
    """What the log says of generation, as settings of the task: where a completion ends, and its most tokens."""
    try:
        options = _request(record)[1]
    except (LeftOut, Malformed):
        return {}
    until = options.get("until")
    ends = [text for text in (until if isinstance(until, list) else [until]) if isinstance(text, str) and text]
    most = options.get("max_gen_toks") or options.get("max_tokens")
    return ({"stop": "|".join(map(re.escape, ends))} if ends else {}) | (
        {"max_new_tokens": most} if isinstance(most, int) and most > 0 else {}
    )


def _request(record: Row) -> tuple[str, dict]:
    """(the prompt, the settings of generation). Raises LeftOut for likelihoods, Malformed where there is no prompt."""
    arguments = record.get("arguments")
    requests = list(arguments.values()) if isinstance(arguments, dict) else arguments
    if not isinstance(requests, list) or not requests:
        raise Malformed("'arguments' should hold the request, its prompt first")
    first = list(requests[0].values()) if isinstance(requests[0], dict) else requests[0]
    first = list(first) if isinstance(first, (list, tuple)) else [first]
    if len(requests) > 1 or (len(first) > 1 and isinstance(first[1], str)) or _pairs(record.get("resps")):
        raise LeftOut("scored by the likelihood of given answers, as multiple choice is")
    context = first[0][0] if first and isinstance(first[0], list) and first[0] else first[0] if first else None
    if not isinstance(context, str):
        raise Malformed("'arguments' should hold the request, its prompt first")
    return context, first[1] if len(first) > 1 and isinstance(first[1], dict) else {}


def _pairs(answers: Any) -> bool:
    """Whether answers are (log-likelihood, greedy?) pairs."""
    while isinstance(answers, list) and answers and isinstance(answers[0], list):
        answers = answers[0]
    return isinstance(answers, list) and len(answers) == 2 and str(answers[1]) in ("True", "False")


def _expected(record: Row) -> str:
    target = str(record.get("target", "")).strip()
    if not target or target == "None":
        raise Malformed("'target' is missing")
    if re.match(r"\[\s*['\"]", target):
        raise LeftOut("several right answers")
    return target.rpartition("####")[2].strip() or target


def _task(file: str) -> str:
    found = re.match(r"samples_(.+?)(?:_\d{4}-\d\d-\d\dT.*)?\.jsonl", file)
    return found[1] if found else ""
