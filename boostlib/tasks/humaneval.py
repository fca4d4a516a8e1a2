r"""HumanEval (Chen et al. 2021, arXiv 2107.03374): `openai/openai_humaneval`, a file `humaneval/HumanEval.jsonl.gz`.

    task_id             "HumanEval/0"
    prompt              "from typing import List\n\n\ndef has_close_elements(numbers: List[float], threshold: ..."
    canonical_solution  "    for idx, elem in enumerate(numbers):\n        for idx2, elem2 in ..."
    test                "def check(candidate):\n    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3) == True\n ..."
    entry_point         "has_close_elements"

Prompt: one user message, `instruction` and the published prompt in a code block. Extraction, score as in programs.py;
the program is the published prompt, whose function then has a docstring for a body, followed by the code, which defines
the function again. A completion whose first line that is not blank is indented, and no fence, is a base model's: it
continues the prompt, and ends before a fence or a line at the margin that begins neither another function nor a class.
A block that holds the indented body alone continues the prompt too.

164 problems, to evaluate: `test` is the only split. The tests may take `entry_point` alone from a program; a helper
that a prompt defines (such as `encode_cyclic`) is run on the trusted side.

Departures: the chat prompt is ours; the published protocol has a base model continue the raw prompt.
"""

import ast
import re
import textwrap
from dataclasses import dataclass, field
from typing import ClassVar

from boostlib.common.settings import AnyPath, Count
from boostlib.sandbox import CodeTask, TaskError
from boostlib.tasks.base import Example, user_message
from boostlib.tasks.programs import Problem, ProgramTask, compilable, compiles, find_code, joined, parsed
from boostlib.tasks.rows import Row, Source, load_rows

INSTRUCTION = "Complete this function. Reply with the whole function in one Python code block."
SOURCE = Source("humaneval/HumanEval.jsonl.gz", "openai/openai_humaneval", "test")
_CONTINUATION = re.compile(r"(?:[ \t]*\n)*[ \t]+(?!```)\S")
_RUNS_ON = re.compile(r"(?ms)(?:^[ \t]*```|```[ \t]*$).*\Z")
FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")


@dataclass(frozen=True, kw_only=True)
class HumanEval(ProgramTask):
    """`instruction` begins each prompt.

    Raises DataError for data that cannot be found or a malformed row; TaskError for tests that do not parse and, at the
    first scoring, for a problem whose reference fails its own tests.
    """

    name: ClassVar[str] = "humaneval"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    max_new_tokens: Count = 512
    instruction: str = INSTRUCTION
    data_dir: AnyPath | None = field(default=None, compare=False)

    def load_split(self, name: str) -> list[Example]:
        return [self.to_problem(row) for row in load_rows(SOURCE, FIELDS, self.data_dir)]

    def program(self, completion: str, example: Problem) -> str:
        if _CONTINUATION.match(completion):
            return continued(example.before, completion)
        code = find_code(completion)[0]
        body = textwrap.indent(code, "    ")
        if code and not compiles(code) and compiles(example.before + body):
            return example.before + body
        return joined(f"{example.before}\n", code)

    def to_problem(self, row: Row) -> Problem:
        """A row as published. Raises TaskError, naming the problem, where its tests do not compile."""
        message = f"{self.instruction}\n\n```python\n{row['prompt'].strip()}\n```"
        try:
            return Problem(
                id=row["task_id"],
                prompt=user_message(message),
                answer=row["test"],
                reference=row["prompt"] + row["canonical_solution"],
                check=CodeTask(
                    row["test"],
                    exports=(row["entry_point"],),
                    trusted_prompt=row["prompt"],
                    entry_point=row["entry_point"],
                ),
                before=row["prompt"],
            )
        except TaskError as error:
            raise TaskError(f"humaneval, problem '{row['task_id']}': {error}") from error


def continued(prompt: str, completion: str) -> str:
    """`prompt`, whose last function goes on in `completion`, up to where something else begins."""
    source = compilable(prompt + _RUNS_ON.sub("", completion))
    lines = source.splitlines(keepends=True)
    length = len(prompt.splitlines())
    nodes = [node for node in parsed(source).body if (node.end_lineno or 0) > length]
    names = {getattr(node, "name", "") for node in nodes[:1]}
    for node in nodes[1:]:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name in names:
            first = min(each.lineno for each in (node, *getattr(node, "decorator_list", ())))
            return "".join(lines[: first - 1])
    return source
