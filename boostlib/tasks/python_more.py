r'''`python_basics` with three times as many more functions to train on, one expression each.

    row     triple(n) | returns three times n | 3 * n | 2; -1; 0
    source  def triple(n):
                """returns three times n

                assert triple(2) == 6
                ...
                """
                return 3 * n

`train` is that of python_basics and the rows of python_basics_functions/more.txt; dev, test and neighbour are those of
python_basics, so that runs on either task are scored on the same functions. A row is a signature, what the function
does, an expression for it, and arguments to test it with; the tests say what the expression gives for them. No
expression here passes the tests of a dev or test function: nothing held out is trained on under another name.

The rows are of the same five kinds and come in families: where train asks for even numbers, rows ask for negative ones,
for those above k, and whether all are even. Why they are needed is told in data/runs/README.md.

Departures: none from a paper.
'''

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from boostlib.tasks.base import Example
from boostlib.tasks.programs import Problem
from boostlib.tasks.python_basics import FUNCTIONS, PythonBasics, to_problem

ROWS = FUNCTIONS / "more.txt"


@dataclass(frozen=True, kw_only=True)
class PythonMore(PythonBasics):
    """See `PythonBasics`."""

    name: ClassVar[str] = "python_more"

    def load_split(self, name: str) -> list[Example]:
        return super().load_split(name) + (to_problems(ROWS.read_text().splitlines()) if name == "train" else [])


def to_problems(rows: Iterable[str]) -> list[Problem]:
    """Rows of the form shown above as problems; a line "# strings" names the kind of those that follow."""
    problems: list[Problem] = []
    for row in rows:
        if row.startswith("# "):
            kind = row[2:]
        else:
            problems.append(to_problem(to_function(row), kind))
    return problems


def to_function(row: str) -> ast.FunctionDef:
    """A row as the source shown above."""
    signature, what, expression, inputs = row.split(" | ")
    name = signature.partition("(")[0]
    space: dict[str, Any] = {}
    exec(f"def {signature}: return {expression}", space)  # a row is ours: nothing that a model wrote
    tests = "\n".join(to_test(f"{name}({given.strip()})", space) for given in inputs.split(";"))
    source = f"def {signature}:\n    {what + chr(10) * 2 + tests!r}\n    return {expression}"
    return next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))


def to_test(call: str, space: dict[str, Any]) -> str:
    """An assert that `call` gives what it gives in `space`."""
    value = eval(call, space)
    if isinstance(value, bool):
        return f"assert {call}" if value else f"assert not {call}"
    return f"assert {call} is None" if value is None else f"assert {call} == {value!r}"
