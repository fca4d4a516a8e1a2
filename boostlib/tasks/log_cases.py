"""A row of an error log as an example with its cost, its way of scoring and, for code, the sandbox's task.

    {"id": "t-17", "prompt": "17 - 4 =", "expected": "13", "score": "number", "class": "differences", "cost": 3}
    ->  Case("t-17", "17 - 4 =", "13", kind="differences", scoring="number", split="train", cost=3.0)

Rule for code: tests may take from a program the names that its reference defines; without a reference, every name that
they use and that is neither their own nor built in. The reference's imports are done for them, as in MBPP.
"""

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field

from boostlib.sandbox import CodeTask, TaskError
from boostlib.tasks.base import Example
from boostlib.tasks.log_rows import scoring
from boostlib.tasks.rows import Row
from boostlib.tasks.source import defined_names, imported_names, imports_of, used_names


@dataclass(frozen=True, kw_only=True)
class Case(Example):
    """An example with its cost and its way of scoring. `answer` is what is expected, or the source of the tests."""

    scoring: str
    split: str
    cost: float = 1.0
    reference: str = ""
    check: CodeTask | None = field(default=None, compare=False, repr=False)
    before: str = ""


def to_case(row: Row, costs: Mapping[str, float]) -> Case:
    """A checked row as a case. Raises TaskError for tests or a reference that do not compile."""
    how, kind = scoring(row), row.get("class") or ""
    common = {
        "id": str(row["id"]),
        "prompt": row["prompt"] if "prompt" in row else row["messages"],
        "kind": kind,
        "scoring": how,
        "split": "guard" if row.get("kind") == "guard" else row.get("split") or "train",
        "cost": float(row.get("cost", costs.get(kind, 1.0))),
    }
    if how != "code":
        return Case(answer=str(row["expected"]), **common)
    tests = row["tests"] if isinstance(row["tests"], str) else "\n".join(row["tests"])
    reference = row.get("reference") or ""
    return Case(answer=tests, reference=reference, check=to_check(tests, reference), **common)


def to_check(tests: str, reference: str = "") -> CodeTask:
    """The sandbox's task: tests may take the names that they use and do not bind; with a reference, those it defines.

    Raises TaskError for source that does not compile, or tests that assert nothing.
    """
    CodeTask(tests, exports=())
    try:
        own = defined_names(tests) | imported_names(tests) | set(dir(builtins))
        taken = (used_names(tests) - own) if not reference else (used_names(tests) & defined_names(reference))
        return CodeTask(tests, exports=tuple(sorted(taken)), setup=imports_of(reference))
    except SyntaxError as error:
        raise TaskError(f"the reference does not compile: {error}") from error
