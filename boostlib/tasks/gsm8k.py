r"""GSM8K, grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168): `openai/gsm8k`, config "main".

    question  "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many
              clips did Natalia sell altogether in April and May?"
    answer    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether in
              April and May.\n#### 72"
    prompt    one user message: the question, a blank line, `instruction`        gold  "72"

Rule, for reward and evaluation alike. The answer is, of these, the first that exists:
  1 the last marked one: a line `#### 72`, words after the number allowed, or `\boxed{72}`, whichever comes later;
  2 the last number of the completion.
Correct: it equals the gold number (72 = 72.00 = $72 = 144/2; a box may hold an expression). Strict: it was marked, and
the mark holds a number alone, without units or words.

Departures: the prompt is ours; the papers that report on GSM8K differ in prompt and extractor, by several points, so
compare with the same model before training, not across papers. `dev`, 500 of the 7,473 training problems chosen by a
hash, is ours too: with dev=0 all of them are `train`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from boostlib.common.errors import DataError
from boostlib.common.settings import Count
from boostlib.tasks.answers import DASHES, GOES_ON, as_number, last_boxed, last_number, numbers_in, same_answer
from boostlib.tasks.base import DevTask, Example, Score
from boostlib.tasks.rows import Row, Source, load_rows

INSTRUCTION = "Reason step by step. End with a line that holds only the final answer as a number, like this: #### 42"
HUB_ID = "openai/gsm8k"

_EXPRESSION = re.compile(rf"[^\w\s]*[0-9][0-9.,]*(?:{GOES_ON.pattern}|\s*(?:[-+]\s*[0-9(]|\*(?!\*)|[×·]))")


@dataclass(frozen=True, kw_only=True)
class GSM8K(DevTask):
    """`dev` is the number of training problems held out; `instruction` follows each question.

    Raises DataError for data that cannot be found or a row without a gold number; BoostError for a setting off range.
    """

    name: ClassVar[str] = "gsm8k"
    max_new_tokens: Count = 512
    instruction: str = INSTRUCTION

    def load_published(self, split: str) -> list[Example]:
        source = Source(f"gsm8k/{split}.jsonl", HUB_ID, split, ("main",))
        rows = load_rows(source, ("question", "answer"), self.data_dir)
        return [self._to_example(row, f"{split}-{number}") for number, row in enumerate(rows, 1)]

    def score(self, completion: str, example: Example) -> Score:
        answer, as_asked = extract(completion)
        correct = same_answer(answer, example.answer)
        return Score(correct, correct and as_asked)

    def _to_example(self, row: Row, id: str) -> Example:
        gold = as_number(row["answer"].rpartition("####")[2]) if "####" in row["answer"] else None
        if gold is None or gold.denominator != 1:
            raise DataError(f"gsm8k, {id}: the field 'answer' should end in '#### n', not {row['answer'][-40:]!r}")
        return Example(id=id, prompt=self.ask(row["question"]), answer=str(gold))


def extract(completion: str) -> tuple[str, bool]:
    """(the answer as text, whether it is a marked number alone); ("", False) for a completion without a number."""
    marked = list(_after_hashes(completion))
    box = last_boxed(completion)
    if box:
        marked.append((*box, as_number(box[1]) is not None))
    if marked:
        return max(marked)[1:]
    number = last_number(completion)
    return ("" if number is None else str(number), False)


def _after_hashes(completion: str) -> Iterator[tuple[int, str, bool]]:
    """Each line `#### 72` or `#### 72 clips` as (position, "72", whether the number stands alone).

    "#### Step 3" and "#### 1. First" are headings, and a line with two numbers marks none: the last number counts.
    """
    for match in re.finditer(r"####[ \t]*(.*)", completion):
        line = re.sub(r"^(\W*)-[ \t]+(?=[0-9$.])", r"\1-", match[1].translate(DASHES))
        number, last = as_number(line), last_number(line)
        if number is not None:
            yield match.start(), str(number), True
        elif _EXPRESSION.match(line):
            yield match.start(), line.rpartition("=")[2].strip(" .*_$"), False
        elif re.match(r"[^\w<>≤≥≠±√∛]*[0-9]+(?![.):]\s)", line) and (last == "" or numbers_in(line) == [last]):
            yield match.start(), str(last), False
