"""Short word problems with small whole-number answers, made from a seed, no download.

    prompt   four worked problems, as "Q: Clara has 7 cookies and buys 5 more. How many cookies does Clara have now?
             \\nA: 12\\n\\n", then "Q: Mia has 22 cookies and gives 14 of them to Ben. How many cookies does Mia have
             left?\\nA:"
    gold     "8"

Rule: ten templates over five kinds (total, difference, rate, share, two_steps), in equal parts. Extraction: the answer
is the text before the first blank line or "Q:"; its last number must equal the gold one, so that "7 + 5 = 12" is right;
strict: that text is the integer and nothing else.

No two examples share template and numbers. Those that differ by the order of their numbers alone lie in one split, and
those of the worked problems in none. Names and objects depend on (seed, template, numbers).

Departures: none from a paper; the task is the project's own.
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import ClassVar

from boostlib.common.settings import Count
from boostlib.common.stable import philox
from boostlib.tasks.answers import numbers_in
from boostlib.tasks.base import Example, Score
from boostlib.tasks.generated import GeneratedTask, deal

NAMES = ("Ana", "Ben", "Clara", "David", "Emma", "Finn", "Grace", "Hugo", "Leo", "Mia", "Nora", "Omar")
THINGS = ("apples", "balloons", "books", "cards", "cookies", "marbles", "pencils", "shells", "stamps", "toys")
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """Texts over {name}, {other}, {things} and numbers {0}, {1}, ... of 2..top; a problem where the answer is whole."""

    kind: str
    tops: Numbers
    answer: Callable[..., int | Fraction]
    story: str
    question: str

    def problems(self) -> list[Numbers]:
        return [numbers for numbers in product(*(range(2, top + 1) for top in self.tops)) if self._whole(numbers)]

    def _whole(self, numbers: Numbers) -> bool:
        answer = Fraction(self.answer(*numbers))
        return answer >= 2 and answer.denominator == 1


TOTAL = "total", (30, 30), operator.add
DIFFERENCE = "difference", (30, 30), operator.sub
RATE = "rate", (12, 15), operator.mul
SHARE = "share", (60, 10), Fraction
HAVE = "How many {things} does {name} have"
TEMPLATES = {
    "buys": Template(*TOTAL, "{name} has {0} {things} and buys {1} more.", f"{HAVE} now?"),
    "boxes": Template(
        *TOTAL, "There are {0} {things} in one box and {1} {things} in another.", "How many {things} are there in all?"
    ),
    "gives": Template(*DIFFERENCE, "{name} has {0} {things} and gives {1} of them to {other}.", f"{HAVE} left?"),
    "more": Template(
        *DIFFERENCE,
        "{name} has {0} {things} and {other} has {1} {things}.",
        "How many more {things} does {name} have than {other}?",
    ),
    "bags": Template(*RATE, "{name} buys {0} bags with {1} {things} in each bag.", f"{HAVE} now?"),
    "hours": Template(
        *RATE, "{name} collects {0} {things} every hour.", "How many {things} does {name} collect in {1} hours?"
    ),
    "shares": Template(
        *SHARE, "{name} shares {0} {things} equally among {1} friends.", "How many {things} does each friend get?"
    ),
    "packs": Template(
        *SHARE,
        "{name} packs {0} {things} into {1} boxes, the same number into each.",
        "How many {things} are in each box?",
    ),
    "loses": Template(
        "two_steps",
        (20, 20, 20),
        lambda a, b, c: a + b - c,
        "{name} has {0} {things}, finds {1} more and then loses {2}.",
        f"{HAVE} now?",
    ),
    "keeps": Template(
        "two_steps",
        (6, 10, 20),
        lambda a, b, c: a * b - c,
        "{name} buys {0} bags with {1} {things} in each bag and gives {2} {things} to {other}.",
        f"{HAVE} left?",
    ),
}
SHOTS = {"buys": (7, 5), "gives": (9, 3), "bags": (4, 3), "shares": (10, 2)}


@dataclass(frozen=True, kw_only=True)
class WordProblems(GeneratedTask):
    """Its settings are those of `GeneratedTask`. Raises BoostError for sizes that the templates cannot fill."""

    name: ClassVar[str] = "word_problems"
    stop: ClassVar[str | None] = r"\S\s*\n\s*\n|\bQ:"  # where `first_answer` ends: nothing after it is read
    max_new_tokens: Count = 8

    def load_split(self, name: str) -> list[Example]:
        examples = []
        for part, template in enumerate(TEMPLATES):
            sizes = {split: (size + part) // len(TEMPLATES) for split, size in self.sizes().items()}
            dealt = deal(groups(template), sizes, f"{self.name}, template '{template}'", self.seed)
            examples += [self._to_example(template, numbers) for numbers in dealt[name]]
        return self.shuffled(examples, name)

    def score(self, completion: str, example: Example) -> Score:
        """Correct: the last number of the answer is the gold one. Strict: the answer is that integer, nothing else."""
        answer = first_answer(completion)
        correct = numbers_in(answer)[-1:] == [int(example.answer)]
        return Score(correct, correct and answer == example.answer)

    def _to_example(self, template: str, numbers: Numbers) -> Example:
        shots = "".join(f"{ask(shot, values, 'shot')} {solve(shot, values)}\n\n" for shot, values in SHOTS.items())
        return Example(
            id=f"{template} {' '.join(map(str, numbers))}",
            prompt=shots + ask(template, numbers, self.seed),
            answer=solve(template, numbers),
            kind=TEMPLATES[template].kind,
        )


def first_answer(completion: str) -> str:
    """`completion` up to the first blank line or the next "Q:", stripped."""
    return re.split(r"\n\s*\n|\bQ:", completion.strip(), maxsplit=1)[0].strip()


def ask(template: str, numbers: Numbers, seed: int | str) -> str:
    """The problem as text, up to "A:"."""
    random = philox("word_problems", seed, template, *numbers)
    name, other = (NAMES[i] for i in random.permutation(len(NAMES))[:2])
    words = {"name": name, "other": other, "things": THINGS[random.integers(len(THINGS))]}
    text = f"{TEMPLATES[template].story} {TEMPLATES[template].question}"
    return f"Q: {text.format(*numbers, **words)}\nA:"


def solve(template: str, numbers: Numbers) -> str:
    return str(int(TEMPLATES[template].answer(*numbers)))


def groups(template: str) -> list[list[Numbers]]:
    """The problems of a template, those with the same numbers in another order together, without the worked one."""
    found: dict[Numbers, list[Numbers]] = {}
    for numbers in TEMPLATES[template].problems():
        found.setdefault(tuple(sorted(numbers)), []).append(numbers)
    return [group for key, group in found.items() if key != tuple(sorted(SHOTS.get(template, ())))]
