"""Small logs of each form that people have, made from the same cases by the shapes that the readers name.

A case is (prompt, expected number, answer, whether it was right, class).
"""

import csv
import json
from pathlib import Path

CASES = [(f"{i} + {i} =", 2 * i, 2 * i if i % 3 else 2 * i + 1, bool(i % 3), "sums") for i in range(1, 31)]


def write(form: str, folder: Path, cases=CASES) -> Path:
    """The log of `cases` in `form`, a key of FORMS; returns its path."""
    name, make = FORMS[form]
    path = folder / name
    if form == "csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(make(cases))
    else:
        made = make(cases)
        lines = (
            "".join(json.dumps(row) + "\n" for row in made) if isinstance(made, list) else json.dumps(made, indent=1)
        )
        path.write_text(lines)
    return path


def harness(cases) -> list[dict]:
    return [
        {
            "doc_id": i, "doc": {"question": prompt, "subject": kind}, "target": f"It is {right}.\n#### {right}",
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["\n"], "max_gen_toks": 4}}},
            "resps": [[f" {answer}"]], "filtered_resps": [str(answer)], "filter": "strict-match",
            "metrics": ["exact_match"], "doc_hash": "d", "prompt_hash": "p", "exact_match": float(ok),
        }
        for i, (prompt, right, answer, ok, kind) in enumerate(cases)
    ]  # fmt: skip


def inspect_log(cases) -> dict:
    def sample(i, prompt, right, answer, ok, kind):
        question = {"content": prompt, "source": "input", "role": "user"}
        reply = {"content": f"It is {answer}", "source": "generate", "role": "assistant"}
        return {
            "id": i, "epoch": 1, "input": prompt, "target": str(right), "messages": [question, reply],
            "output": {"model": "m", "choices": [{"message": reply, "stop_reason": "stop"}]},
            "scores": {"match": {"value": "C" if ok else "I", "answer": str(answer)}}, "metadata": {"category": kind},
        }  # fmt: skip

    header = {
        "run_id": "r",
        "task": "adding",
        "model": "m",
        "scorers": [{"name": "match", "options": {"numeric": True}}],
    }
    samples = [sample(i, *case) for i, case in enumerate(cases, 1)]
    return {"version": 2, "status": "success", "eval": header, "plan": {"steps": []}, "samples": samples}


def promptfoo(cases) -> dict:
    results = [
        {
            "success": ok, "score": float(ok), "failureReason": int(not ok), "testIdx": i, "promptIdx": 0,
            "vars": {"sum": prompt, "right": right, "category": kind},
            "prompt": {"raw": f"Work out: {prompt}", "label": "p"}, "provider": {"id": "openai:m", "label": ""},
            "testCase": {"vars": {}, "assert": [{"type": "contains", "value": "{{ right }}"}]},
            "response": {"output": f"The answer is {answer}."}, "gradingResult": {"pass": ok, "componentResults": []},
        }
        for i, (prompt, right, answer, ok, kind) in enumerate(cases)
    ]  # fmt: skip
    return {"evalId": "eval-x", "results": {"version": 3, "prompts": [], "results": results}, "config": {}}


def chats(cases) -> list[dict]:
    return [
        {
            "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": str(answer)}],
            "expected": str(right), "verdict": "pass" if ok else "fail", "category": kind,
        }
        for prompt, right, answer, ok, kind in cases
    ]  # fmt: skip


def table(cases) -> list[list]:
    rows = [[prompt, right, answer, str(ok), kind] for prompt, right, answer, ok, kind in cases]
    return [["Question", "Expected", "Output", "Correct", "Topic"], *rows]


def flat(cases) -> list[dict]:
    return [
        {"prompt": prompt, "answer": right, "completion": str(answer), "passed": ok, "class": kind}
        for prompt, right, answer, ok, kind in cases
    ]


def own(cases) -> list[dict]:
    return [
        {"id": i, "prompt": prompt, "expected": right, "score": "number", "class": kind}
        | ({"kind": "guard"} if ok else {})
        for i, (prompt, right, answer, ok, kind) in enumerate(cases)
    ]


FORMS = {
    "harness": ("samples_adding_2026-01-01T00-00-00.000000.jsonl", harness),
    "inspect": ("inspect.json", inspect_log),
    "promptfoo": ("promptfoo.json", promptfoo),
    "chats": ("chats.jsonl", chats),
    "csv": ("table.csv", table),
    "flat": ("flat.jsonl", flat),
    "own": ("log.jsonl", own),
}
