"""Short word problems with small whole-number answers, made from a seed, no download.

    prompt   four worked problems like "Q: Ana has 7 apples and buys 5 more. How many apples does Ana have now?\\nA: 12\\n\\n",
             then "Q: Leo has 19 marbles and gives 6 of them to Mia. How many marbles does Leo have left?\\nA:"
    gold     "13"

Rule: ten templates over five kinds (total, difference, rate, share, two_steps), in equal parts. Extraction: the answer is
the text before the first blank line or "Q:"; its last number must equal the gold one, so that "7 + 5 = 12" is right;
strict: that text is the integer and nothing else.

No two examples share template and numbers. Those that differ by the order of their numbers alone lie in one split, and
those of the worked problems in none. Names and objects depend on (seed, template, numbers).

Departures: none from a paper; the task is the project's own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from boostlib.stable import philox
from boostlib.tasks.answers import numbers_in
from boostlib.tasks.base import Example, Score
from boostlib.tasks.generated import GeneratedTask, deal

NAMES = ("Ana", "Ben", "Clara", "David", "Emma", "Finn", "Grace", "Hugo", "Leo", "Mia", "Nora", "Omar")
THINGS = ("apples", "balloons", "books", "cards", "cookies", "marbles", "pencils", "shells", "stamps", "toys")
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """A text over {name}, {other}, {things} and its numbers {0}, {1}, ...; None as answer: not a problem."""

    name: str
    kind: str
    text: str
    tops: Numbers  # each number runs over 2..top
    answer: Callable[..., int | None]


def _sum(a: int, b: int) -> int:
    return a + b


def _left(a: int, b: int) -> int | None:
    return a - b if a > b else None


def _product(a: int, b: int) -> int:
    return a * b


def _each(a: int, b: int) -> int | None:
    return a // b if a % b == 0 and a > b and a // b <= 12 else None


def _gained_lost(a: int, b: int, c: int) -> int | None:
    return a + b - c if a + b > c else None


def _bags_given(a: int, b: int, c: int) -> int | None:
    return a * b - c if a * b > c else None


TEMPLATES = (
    Template("buy", "total", "{name} has {0} {things} and buys {1} more. How many {things} does {name} have now?", (30, 30), _sum),
    Template("boxes", "total", "There are {0} {things} in one box and {1} {things} in another. How many {things} are there in all?", (30, 30), _sum),
    Template("give", "difference", "{name} has {0} {things} and gives {1} of them to {other}. How many {things} does {name} have left?", (30, 30), _left),
    Template("more", "difference", "{name} has {0} {things} and {other} has {1}. How many more {things} does {name} have?", (30, 30), _left),
    Template("bags", "rate", "{name} buys {0} bags with {1} {things} in each bag. How many {things} does {name} buy?", (12, 15), _product),
    Template("hours", "rate", "{name} collects {0} {things} an hour. How many {things} does {name} collect in {1} hours?", (12, 15), _product),
    Template("share", "share", "{name} shares {0} {things} equally among {1} friends. How many {things} does each friend get?", (120, 10), _each),
    Template("pack", "share", "{name} packs {0} {things} equally into {1} boxes. How many {things} go into each box?", (120, 10), _each),
    Template("lose", "two_steps", "{name} has {0} {things}, finds {1} more and then loses {2}. How many {things} does {name} have now?", (20, 20, 20), _gained_lost),
    Template("bags_give", "two_steps", "{name} buys {0} bags with {1} {things} in each bag and gives away {2} {things}. How many {things} are left?", (6, 10, 20), _bags_given),
)
SHOTS = {"buy": (7, 5), "give": (9, 3), "bags": (4, 3), "share": (10, 2)}
