r"""MATH-500 to evaluate, the training split of MATH to train (Hendrycks et al. 2021, arXiv 2103.03874; the 500 test
problems of Lightman et al. 2023, arXiv 2305.20050): `HuggingFaceH4/MATH-500` and `EleutherAI/hendrycks_math`.

    problem   "Convert the point $(0,3)$ in rectangular coordinates to polar coordinates.  Enter your answer in the form
              $(r,\theta),$ where $r > 0$ and $0 \le \theta < 2 \pi.$"
    solution  "We have that $r = \sqrt{0^2 + 3^2} = 3.$ ... the polar coordinates are
              $\boxed{\left( 3, \frac{\pi}{2} \right)}.$"
    prompt    one user message: the problem, a blank line, `instruction`
    gold      "\left( 3, \frac{\pi}{2} \right)", kind "Precalculus"

Rule, for reward and evaluation alike. The answer is the last \boxed{...} whose braces balance; without one, the last
formula or number, whichever ends later. Correct: `same_answer` (answers.py) takes it for the gold one. Strict: boxed
too.

Departures: the prompt is the field's usual one, in our words. A training row whose problem is one of MATH-500 is
dropped: hub copies with both splits of MATH in one (`qwedsacf/competition_math`, train_configs=()) give all but those.
`dev`, 500 training problems chosen by a hash, is ours: with dev=0 all are `train`.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from boostlib.common.errors import DataError
from boostlib.common.settings import Count, Name, Names
from boostlib.tasks.answers import as_number, ends_more, last_boxed, last_number, same_answer
from boostlib.tasks.base import DevTask, Example, Score
from boostlib.tasks.rows import Source, load_rows

INSTRUCTION = r"Reason step by step, and put the final answer in \boxed{}."
HUB_ID = "HuggingFaceH4/MATH-500"
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_FORMULA = re.compile(r"(?<!\\)\$\$?(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Math500(DevTask):
    r"""`train_hub_id` and `train_configs` name the training set on the hub (fields problem, solution, type); in a data
    folder it is `math/train.jsonl`. `dev` is the number of training problems held out.

    Raises DataError for data that cannot be found or a solution without \boxed{}; BoostError for a setting off range.
    """

    name: ClassVar[str] = "math500"
    max_new_tokens: Count = 1024
    instruction: str = INSTRUCTION
    train_hub_id: Name = "EleutherAI/hendrycks_math"
    train_configs: Names = SUBJECTS

    def load_published(self, split: str) -> list[Example]:
        source = Source("math500/test.jsonl", HUB_ID, "test")
        rows = load_rows(source, ("problem", "answer", "subject", "unique_id"), self.data_dir)
        if split == "test":
            return [self._example(row["unique_id"], row["problem"], row["answer"], row["subject"]) for row in rows]
        return self._training({_squeeze(row["problem"]) for row in rows})

    def score(self, completion: str, example: Example) -> Score:
        box = last_boxed(completion)
        if box:
            correct = same_answer(box[1], example.answer)
            return Score(correct, correct)
        answer = last_formula(completion)
        sides = {answer, answer if "=" in example.answer else answer.rpartition("=")[2]}
        return Score(any(same_answer(side, example.answer) for side in sides), False)

    def _training(self, test_problems: set[str]) -> list[Example]:
        source = Source("math/train.jsonl", self.train_hub_id, "train", tuple(self.train_configs))
        examples = []
        for number, row in enumerate(load_rows(source, ("problem", "solution", "type"), self.data_dir), 1):
            box = last_boxed(row["solution"])
            if not box or not box[1]:
                raise DataError(f"{source.file}, row {number}: the field 'solution' holds no \\boxed{{answer}}")
            if _squeeze(row["problem"]) not in test_problems:
                examples.append(self._example(f"train-{number}", row["problem"], box[1], row["type"]))
        return examples

    def _example(self, id: str, problem: str, answer: str, subject: str) -> Example:
        return Example(id=id, prompt=self.ask(problem), answer=answer, kind=subject)


def last_formula(completion: str) -> str:
    r"""The last $...$, \(...\), \[...\] or number of `completion`, whichever ends later; "" for none, or for one
    that is part of something else, such as 2\sqrt{5}, 5! or the 4 of "$3$ or $4$"."""
    formula = max(_FORMULA.finditer(completion), key=lambda match: match.end(), default=None)
    inside = formula[formula.lastindex or 0].strip() if formula else ""
    rest = completion[formula.end() :] if formula and as_number(inside) is None else completion
    rest = re.split(r"\\(?:boxed|fbox)", rest)[0]  # a box that was cut off does not count
    number = last_number(rest)
    if number is not None:
        return "" if re.search(r"[0-9][ \t$]*![^0-9=]*$", rest) else str(number)
    before = completion[: formula.start()].rstrip() if formula else ""
    name, equals, _ = inside.partition("=")
    if before.endswith(("$", r"\)", r"\]")) or (equals and f"{name.strip()}=" not in before.replace(" ", "")):
        return inside  # a statement of its own
    return "" if ends_more(f"{before} ") else inside


def _squeeze(problem: str) -> str:
    return " ".join(problem.split())
