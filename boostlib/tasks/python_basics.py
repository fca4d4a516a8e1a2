r'''Two hundred small Python functions, the project's own: the code task of the demo, no download.

    source  def is_even(n):
                """returns True if n is even

                assert is_even(4) is True
                assert is_even(7) is False
                """
                return n % 2 == 0
    prompt  one user message: "Write a python function is_even(n) that returns True if n is even."

`python_basics_functions/` holds them, a file per kind (numbers, strings, lists, dicts, logic). Of the 40 of a kind, 16
are `train`, 8 `dev` and 16 `test`, dealt by a hash. Extraction and score as in programs.py.

`neighbour` is `test` asked the way HumanEval asks, with a signature and a docstring to complete: nothing is ever
trained on that form, so what a method gains on `test` and loses there shows how narrow its training was.

Departures: none from a paper. The prompt is this short on purpose: asked for code alone, SmolLM2-135M answers nothing
right.
'''

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from boostlib.common.settings import Count
from boostlib.sandbox import CodeTask
from boostlib.tasks.base import Example, user_message
from boostlib.tasks.generated import deal
from boostlib.tasks.programs import Problem, ProgramTask

FUNCTIONS = Path(__file__).with_name("python_basics_functions")
SIZES = {"test": 16, "dev": 8, "train": 16}  # of the 40 functions of a kind


@dataclass(frozen=True, kw_only=True)
class PythonBasics(ProgramTask):
    """Raises TaskError, at the first scoring, for a function whose reference fails its own tests."""

    name: ClassVar[str] = "python_basics"
    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test", "neighbour")
    max_new_tokens: Count = 48

    def load_split(self, name: str) -> list[Example]:
        problems: list[Example] = []
        for path in sorted(FUNCTIONS.glob("*.py")):
            groups = [[node] for node in functions(path)]
            dealt = deal(groups, SIZES, f"{PythonBasics.name}, {path.name}", 0)
            problems += [
                to_problem(node, path.stem, as_docstring=name == "neighbour")
                for node in dealt["test" if name == "neighbour" else name]
            ]
        return problems


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """The functions of a file, in order."""
    yield from (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))


def to_problem(function: ast.FunctionDef, kind: str, as_docstring: bool = False) -> Problem:
    """A function of the form shown above as a problem."""
    what, _, tests = (ast.get_docstring(function) or "").partition("\n\n")
    signature = f"{function.name}({ast.unparse(function.args)})"
    prompt = f"Write a python function {signature} that {what}."
    if as_docstring:
        prompt = f'Complete this python function:\n\n```python\ndef {signature}:\n    """{what.capitalize()}."""\n```'
    reference = ast.unparse(ast.FunctionDef(**{**vars(function), "body": function.body[1:]}))
    return Problem(
        id=function.name,
        prompt=user_message(prompt),
        answer=tests,
        kind=kind,
        reference=reference,
        check=CodeTask(tests, exports=(function.name,)),
    )
