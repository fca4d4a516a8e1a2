r"""MBPP, mostly basic Python problems (Austin et al. 2021, arXiv 2108.07732): `google-research-datasets/mbpp`.

    text       "Write a function to find the similar elements from the given two tuple lists."
    code       "def similar_elements(test_tup1, test_tup2):\r\n  res = tuple(set(test_tup1) & set(test_tup2))\r\n ..."
    test_list  ["assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)", ...]
    prompt     one user message: the text, a blank line, "Your code should pass these tests:", the tests, a blank line,
               `instruction`

Splits by the published numbers: `train` 601-974, `dev` 511-600 (published as "validation"), `test` 11-510. Extraction
and score as in programs.py. A test may take from a program the names that the reference defines, and finds the imports
of the reference done, as in the usual harness, where both share a namespace.

Departures: problem 123 is left out of `test` (its reference sums divisors up to 10,000 and takes longer than the
sandbox's time limit). The prompt is ours; the papers that report on MBPP differ in prompt, shots and extractor.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from boostlib.common.errors import DataError
from boostlib.common.settings import AnyPath, Count
from boostlib.sandbox import CodeTask, TaskError
from boostlib.tasks.base import Example, user_message
from boostlib.tasks.programs import Problem, ProgramTask, defined_names, imports_of, used_names
from boostlib.tasks.rows import Row, Source, load_rows

INSTRUCTION = "Reply with the function in one Python code block."
SOURCE = Source("mbpp/mbpp.jsonl", "google-research-datasets/mbpp", "train+validation+test", ("full",))
NUMBERS = {"train": range(601, 975), "dev": range(511, 601), "test": range(11, 511)}
TOO_SLOW = (123,)


@dataclass(frozen=True, kw_only=True)
class MBPP(ProgramTask):
    """`instruction` ends each prompt.

    Raises DataError for data that cannot be found or a malformed row; TaskError, at the first scoring, for a problem
    whose reference fails its own tests.
    """

    name: ClassVar[str] = "mbpp"
    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")
    max_new_tokens: Count = 512
    instruction: str = INSTRUCTION
    data_dir: AnyPath | None = field(default=None, compare=False)

    def load_split(self, name: str) -> list[Example]:
        rows: dict[int, Row] = {}
        for row in load_rows(SOURCE, ("text", "code"), self.data_dir):
            if rows.setdefault(_number(row), row) is not row:
                raise DataError(f"mbpp: problem {_number(row)} is there twice in {SOURCE.file}: leave one")
        missing = [number for number in NUMBERS[name] if number not in rows]
        if missing:
            raise DataError(f"mbpp, split '{name}': problem {missing[0]} is missing ({len(missing)} in all); "
                            f"all of {NUMBERS[name][0]}-{NUMBERS[name][-1]} are needed")  # fmt: skip
        return [self.to_problem(rows[number]) for number in NUMBERS[name] if number not in TOO_SLOW]

    def to_problem(self, row: Row) -> Problem:
        """A row as published. Raises DataError or TaskError, naming the problem, where it is malformed."""
        where = f"mbpp, problem {_number(row)}"
        tests = row.get("test_list")
        if not isinstance(tests, (list, tuple)) or not tests or not all(isinstance(test, str) for test in tests):
            raise DataError(f"{where}: the field 'test_list' should be a list of asserts, not {tests!r}")
        parts = [row["text"].strip(), "", "Your code should pass these tests:", *tests, "", self.instruction]
        source = "\n".join(tests)
        try:
            setup = f"{imports_of(row['code'])}\n{row.get('test_setup_code') or ''}"
            exports = defined_names(row["code"]) & (used_names(setup) | used_names(source))
            return Problem(
                id=str(_number(row)),
                prompt=user_message("\n".join(parts)),
                answer=source,
                reference=row["code"],
                check=CodeTask(source, exports=tuple(sorted(exports)), setup=setup),
            )
        except (TaskError, SyntaxError) as error:
            raise TaskError(f"{where}: {error}") from error


def _number(row: Row) -> int:
    number = row.get("task_id")
    if type(number) is not int:
        raise DataError(f"mbpp: the field 'task_id' should be a whole number, not {number!r}")
    return number
