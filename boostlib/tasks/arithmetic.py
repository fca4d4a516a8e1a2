"""Sums, differences and products of small numbers: the task of the demo, made from a seed, no download.

    prompt   "7 + 5 = 12\\n9 - 3 = 6\\n8 * 4 = 32\\n12 + 6 = 18\\n17 - 4 ="        gold   "13"

Rule: four worked lines and a question, as raw text (a base model and a chat model read it alike). Sums and differences
take operands of 2..23 (differences a - b with a >= b), products of 2..10; 150 : 82 : 24 of 256 are sums, differences
and products, about as many as there are of each. Extraction: the first number of the completion must equal the gold
one; strict: the first line of the completion is that integer and nothing else.

The splits share no problem: 7 + 5 and 5 + 7 count as one and lie in the same split; the four worked lines lie in none.

Departures: none from a paper; the task is the project's own. "13.5", "1,300" and "13/2" are not 13, "13." is.
"""

import operator
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from boostlib.common.settings import Count
from boostlib.tasks.answers import numbers_in
from boostlib.tasks.base import Example, Score
from boostlib.tasks.generated import GeneratedTask, deal

KINDS = {"addition": "+", "subtraction": "-", "multiplication": "*"}
APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}
SHOTS = ((7, "+", 5), (9, "-", 3), (8, "*", 4), (12, "+", 6))
Problem = tuple[int, str, int]


@dataclass(frozen=True, kw_only=True)
class Arithmetic(GeneratedTask):
    """Its settings are those of `GeneratedTask`. Raises BoostError for sizes that the operands' ranges cannot fill."""

    name: ClassVar[str] = "arithmetic"
    max_new_tokens: Count = 4

    def load_split(self, name: str) -> list[Example]:
        examples = []
        for kind, sign in KINDS.items():
            sizes = {split: share(size, kind) for split, size in self.sizes().items()}
            dealt = deal(groups(sign), sizes, f"{self.name}, {kind}", self.seed)
            examples += [to_example(problem, kind) for problem in dealt[name]]
        return self.shuffled(examples, name)

    def score(self, completion: str, example: Example) -> Score:
        """Correct: its first number is the gold one. Strict: its first line is that integer and nothing else."""
        correct = first_number(completion) == int(example.answer)
        return Score(correct, correct and completion.strip().split("\n")[0].strip() == example.answer)


def first_number(completion: str) -> Fraction | None:
    """The first number of `completion`, None without one; "- 13", with a space, is minus 13."""
    numbers = numbers_in(re.sub(r"^\s*-\s+(?=[0-9])", "-", completion))
    return numbers[0] if numbers else None


def share(size: int, kind: str) -> int:
    """How many of `size` problems are of `kind`: 150, 82 and 24 of 256."""
    sums, differences = round(size * 150 / 256), round(size * 82 / 256)
    return {"addition": sums, "subtraction": differences, "multiplication": size - sums - differences}[kind]


def groups(sign: str) -> list[list[Problem]]:
    """All problems of one operator but the worked ones, each beside its commuted form."""
    top = 10 if sign == "*" else 23
    found = []
    for a in range(2, top + 1):
        for b in range(2, a + 1):
            commutes = sign != "-" and a != b
            found.append([(a, sign, b), (b, sign, a)] if commutes else [(a, sign, b)])
    return [group for group in found if not set(group) & set(SHOTS)]


def to_example(problem: Problem, kind: str) -> Example:
    a, sign, b = problem
    shots = "".join(f"{x} {shot} {y} = {APPLY[shot](x, y)}\n" for x, shot, y in SHOTS)
    return Example(id=f"{a} {sign} {b}", prompt=f"{shots}{a} {sign} {b} =", answer=str(APPLY[sign](a, b)), kind=kind)
