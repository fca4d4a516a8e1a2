"""Scorers: every gold answer is right, near misses are wrong, whatever the completion looks like."""

import json
import os
import re
import threading
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boostlib.tasks import Example, Score, answers, load_task
from boostlib.tasks.answers import MAX_LENGTH, as_number, last_boxed, normalise, numbers_in, same_answer

RIGHT, LENIENT, WRONG = Score(True, True), Score(True, False), Score(False, False)
DATA = Path(os.environ.get("BOOSTLIB_DATA") or Path(__file__).parents[3] / "shared/data")


def score(task: str, completion: str, answer: str) -> Score:
    return load_task(task).score(completion, Example(id="x", prompt="p", answer=answer))


def real_rows(file: str) -> list[dict[str, str]]:
    if not (DATA / file).is_file():
        pytest.skip(f"needs the real {file}: set BOOSTLIB_DATA to a folder that holds it")
    return [json.loads(line) for line in (DATA / file).read_text(encoding="utf-8").splitlines()]


# ---- real gold answers


@pytest.mark.data
@pytest.mark.parametrize(("split", "size"), [("train", 7473), ("test", 1319)])
def test_every_gsm8k_gold_is_right(split, size):
    rows = real_rows(f"gsm8k/{split}.jsonl")
    task = load_task("gsm8k", data_dir=DATA, dev=0)
    examples = task.split(split)
    assert len(examples) == len(rows) == size
    for row, example in zip(rows, examples, strict=True):
        assert task.score(row["answer"], example) == RIGHT, row["answer"]
        reasoning, _, gold = row["answer"].rpartition("####")
        assert task.score(rf"{reasoning}So the answer is $\boxed{{{gold.strip()}}}$.", example) == RIGHT, gold
        assert task.score(f"{reasoning}The answer is {gold.strip()}.", example) == LENIENT, gold
        number = int(example.answer)
        for wrong in (number + 1, -number - 1, number + 10, f"{number}.5", f"{number}1", f"1/{abs(number) + 2}"):
            assert task.score(f"{row['answer']}\n#### {wrong}", example) == WRONG, (gold, wrong)


@pytest.mark.data
def test_every_math500_gold_is_right():
    rows = real_rows("math500/test.jsonl")
    task = load_task("math500", data_dir=DATA)
    examples = task.split("test")
    assert len(examples) == len(rows) == 500
    for row, example in zip(rows, examples, strict=True):
        assert task.score(row["solution"], example) == RIGHT, row["answer"]
        assert task.score(rf"\boxed{{{row['answer']}}}", example) == RIGHT, row["answer"]
        assert task.score(f"It is ${row['answer']}$.", example) == LENIENT, row["answer"]
        assert task.score(row["solution"] + r" No: $\boxed{-77.5}$", example) == WRONG, row["answer"]


@pytest.mark.data
def test_math500_golds_differ_from_each_other():
    golds = sorted({normalise(row["answer"]) for row in real_rows("math500/test.jsonl")})
    for one, other in zip(golds, golds[1:], strict=False):
        assert not same_answer(one, other), (one, other)


@pytest.mark.data
def test_a_fixed_dev_split_of_gsm8k():
    real_rows("gsm8k/train.jsonl")
    task = load_task("gsm8k", data_dir=DATA)
    assert len(task.split("train")) == 6973 and len(task.split("dev")) == 500
    assert [example.id for example in task.split("dev")[:2]] == ["train-11", "train-20"]


# ---- numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("12 and 1,234.50 and -3", [12, Fraction(2469, 2), -3]),
        ("-$5, $-5, \N{MINUS SIGN}5", [-5, -5, -5]),
        ("10-3=7", [10, 3, 7]),
        ("(4)-3", [4, 3]),
        ("13.", [13]),
        ("13.5.", [Fraction(27, 2)]),
        (".5", [Fraction(1, 2)]),
        ("3/4 or \\frac{3}{4} or -\\dfrac{3}{4}", [Fraction(3, 4), Fraction(3, 4), Fraction(-3, 4)]),
        ("3/0 is none", []),
        ("x2 and H2O and 10^3, 18^2, x^2 and 3^{-2}", [1000, 324, Fraction(1, 9)]),
        ("3 \\times 10^8, 6.5 * 10^{-2}, 2^x", [300000000, Fraction(13, 200)]),
        ("1{,}200 and 1,\\! 200", [1200, 1200]),
        ("1,2345", [1, 2345]),
        ("18th", [18]),
        ("9" * 9999, []),
        ("", []),
    ],
)
def test_numbers_in_text(text, numbers):
    assert numbers_in(text) == numbers


@pytest.mark.parametrize(
    "text", ["1,080", "1080", "$1,080", "\\$1,080.00", "1080%", "1080\\%", "**1080**", "$1080$", "1080.", " 1080\n"]
)
def test_one_number_in_many_spellings(text):
    assert as_number(text) == 1080


@pytest.mark.parametrize("text", ["", "18 dollars", "1 8", "18, 19", "x=18", "18-3", "1,08", "--18", "1.2.3", "."])
def test_what_is_no_single_number(text):
    assert as_number(text) is None


# ---- arithmetic and word problems

ARITHMETIC = [
    (" 13\n5 + 5", RIGHT),
    ("13", RIGHT),
    (" 13 ", RIGHT),
    (" 13.", LENIENT),
    (" 13. 5", LENIENT),
    (" 13.0", LENIENT),
    (" 13 + 2", LENIENT),
    (" 013", LENIENT),
    (" is 13", LENIENT),
    (" 13, 14", LENIENT),
    (" 13.5", WRONG),
    (" 13.05", WRONG),
    (" .13", WRONG),
    (" 13/2", WRONG),
    (" 13,000", WRONG),
    (" -13", WRONG),
    (" - 13", WRONG),
    (" \N{MINUS SIGN}13", WRONG),
    (" 1", WRONG),
    (" 3", WRONG),
    (" 130", WRONG),
    (" 113", WRONG),
    (" 1 3", WRONG),
    (" 12\n13", WRONG),
    (" 17 - 4 = 13", WRONG),
    (" thirteen", WRONG),
    ("", WRONG),
    ("\n", WRONG),
]


@pytest.mark.parametrize(("completion", "expected"), ARITHMETIC)
def test_arithmetic_scores(completion, expected):
    assert score("arithmetic", completion, "13") == expected


def test_arithmetic_negative_and_zero_answers():
    assert score("arithmetic", " -4\n", "-4") == RIGHT and score("arithmetic", " 4", "-4") == WRONG
    assert score("arithmetic", " 0\n", "0") == RIGHT and score("arithmetic", "", "0") == WRONG


WORDS = [
    (" 12\n\nQ: Ana has 3 books", RIGHT),
    ("\n12", RIGHT),
    (" 12\nQ: 5", RIGHT),
    (" 12 Q: 5", RIGHT),
    (" 7 + 5 = 12", LENIENT),
    (" $12.00.", LENIENT),
    (" 12 apples", LENIENT),
    (" She has 7\nand 12", LENIENT),
    (" 12 of 13", WRONG),
    (" 7 + 5 = 13", WRONG),
    (" 12 - 5 = 7", WRONG),
    (" 12.5", WRONG),
    (" 1", WRONG),
    (" 2", WRONG),
    (" 120", WRONG),
    (" -12", WRONG),
    (" 24/12", WRONG),
    (" 7\n\n12", WRONG),
    (" Q: 12", WRONG),
    (" twelve", WRONG),
    ("", WRONG),
]


@pytest.mark.parametrize(("completion", "expected"), WORDS)
def test_word_problem_scores(completion, expected):
    assert score("word_problems", completion, "12") == expected


# ---- GSM8K, gold 18

GSM8K_RIGHT = [
    "16 - 3 - 4 = 9\n9 * 2 = 18\n#### 18",
    "#### $18",
    "####18",
    "#### 18.00",
    "#### 18.\n\nI hope this helps with your 3 questions.",
    "#### **18**",
    "#### 36/2",
    r"So it is $\boxed{18}$ dollars.",
    r"\boxed{\$18.00}",
    r"\boxed{\frac{36}{2}}",
    r"#### \boxed{18}",
    "#### 17\nWait, no.\n#### 18",
    "#### Step 3: add\n2 + 16\n#### 18",
]
GSM8K_LENIENT = [
    "She makes 9 * 2 = $18 every day.",
    "The answer is 18",
    "**18**",
    "18.",
    "#### 18 dollars",
    "#### $18 a day",
    r"\boxed{18 \text{ dollars}}",
    r"\boxed{x = 18}",
    r"\boxed{2 \cdot 9}",
    "#### Step 3: the total is\nso 18",
    "#### 3. The end\nso 18",
    "#### 9 * 2 = 18",
    "# Answer: 18%",
]
GSM8K_WRONG = [
    "",
    " ",
    "####",
    "#### eighteen",
    "#### 17",
    "#### 19",
    "#### -18",
    "#### 1",
    "#### 8",
    "#### 1.8",
    "#### 180",
    "#### 18.5",
    "#### 0.18",
    "#### 18,000",
    "#### 118",
    "#### 1/18",
    "#### 18/2",
    "#### 18 or 19",
    "#### 18\nNo: #### 17",
    r"#### 18, I mean \boxed{17}",
    r"\boxed{18} and then \boxed{17}",
    r"\boxed{17} dollars, not 18",
    "#### 17\nand 18 is what the others have",
    r"\boxed{18x}",
    r"\boxed{18\pi}",
    r"\boxed{}",
    r"\boxed{17, 18}",
    "She has 18 eggs and sells 9",
    "18 - 9",
    "The answer is 18.5",
    "The answer is 1,8",
    "The answer is 36/3",
    r"The answer is \frac{1}{18}",
    "18 eggs at $2 each make $36",
]


@pytest.mark.parametrize("completion", GSM8K_RIGHT)
def test_gsm8k_right(completion):
    assert score("gsm8k", completion, "18") == RIGHT


@pytest.mark.parametrize("completion", GSM8K_LENIENT)
def test_gsm8k_right_in_another_format(completion):
    assert score("gsm8k", completion, "18") == LENIENT


@pytest.mark.parametrize("completion", GSM8K_WRONG)
def test_gsm8k_near_misses(completion):
    assert score("gsm8k", completion, "18") == WRONG


def test_gsm8k_large_and_negative_golds():
    assert score("gsm8k", "#### 1,450,000", "1450000") == RIGHT
    assert score("gsm8k", "#### 1,450", "1450000") == WRONG
    assert score("gsm8k", "#### -10", "-10") == RIGHT and score("gsm8k", "#### 10", "-10") == WRONG


# ---- MATH

MATRIX = r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}"
MATH_SAME = [
    ("(3,4]", r"\left(3, 4\right]"),
    ("1,-2", "-2, 1"),
    ("52_8", "52_{8}"),
    ("52_8", "52"),
    ("4210_{5}", "4210_5"),
    ("x=5", "5"),
    ("5", "x = 5"),
    ("5", "AB = 5"),
    ("30", r"\theta = 30^\circ"),
    (r"1\frac{4}{5}", r"\frac{9}{5}"),
    (r"1\frac{4}{5}", "1.8"),
    (r"137 \frac{1}{2}", "137.5"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19},\ 1-\sqrt{19}"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2,1+\sqrt5,1-\sqrt5\}"),
    (MATRIX, r"\begin{pmatrix} -\frac13 \\ \frac{2}{3} \\ \dfrac{5}{3} \end{pmatrix}"),
    (r"(0,9) \cup (9,36)", r"(9,36)\cup(0,9)"),
    ("6 - 5i", "-5i+6"),
    (r"\cot x", r"\cot(x)"),
    ("2k+2", "2(k+1)"),
    ("5x - 7y + 11z + 4 = 0", "-5x+7y-11z-4=0"),
    ("5x - 7y + 11z + 4 = 0", "0 = 5x - 7y + 11z + 4"),
    ("y = 2x + 3", "2x+3"),
    (r"x \in [-2,7]", "[-2,7]"),
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    ("1024", "2^{10}"),
    (r"\text{(C)}", "C"),
    (r"\text{Evelyn}", "evelyn"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"864 \mbox{ inches}^2", r"864\text{ square inches}"),
    ("90^\\circ", "90"),
    (r"\frac{270}7\text{ degrees}", r"\dfrac{270}{7}^\circ"),
    (r"\$32,\!348", "32348"),
    (r"11,\! 111,\! 111,\! 100", "11,111,111,100"),
    (r"\frac43", "4/3"),
    (r"\frac 59", r"\tfrac{5}{9}"),
    (".35625", "0.35625"),
    (r"\frac{\pi}{6}", r"\frac\pi6"),
    (r"3\sqrt{13}", r"\sqrt{117}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"12\pi", r"12 \pi \text{ cm}"),
]
MATH_DIFFERENT = [
    ("9", "10"),
    ("9", "-9"),
    ("18", "1"),
    ("1", "18"),
    ("5", "0.5"),
    ("5", "5.0000001"),
    ("5", "5x"),
    ("5", "5i"),
    ("5", r"\pm 5"),
    ("5", "5, 6"),
    ("5", r"\sqrt{5}"),
    ("5", "4=5"),
    ("5", r"x \ne 5"),
    ("5", "x < 5"),
    ("5", "5$ $6"),
    ("6", "5$ $6"),
    ("5", "} 5"),
    ("12", "1 2"),
    ("(3,4]", "[3,4]"),
    ("(3,4]", "(3,4)"),
    ("(-\\infty, 0]", "(-\\infty, 0)"),
    (r"(0,9) \cup (9,36)", "(0,36)"),
    (r"x \in [-2,7]", "(-2,7)"),
    ("(1,2)", "(2,1)"),
    ("(6,31,-1)", "(6,31)"),
    ("(6,31,-1)", "(6,31,1)"),
    ("1,-2", "1,2"),
    ("1,-2", "1"),
    ("3, 5, 7", "357"),
    ("3, 5, 7", "3, 5"),
    ("52_8", "52_7"),
    ("52_8", "53_8"),
    ("52", "52_8"),
    ("x=5", "x=-5"),
    ("x=5", "y=5"),
    (r"50\%", "0.5"),
    (r"\frac{14}{3}", r"\frac{3}{14}"),
    (r"\frac{5}{13}", r"\frac{5}{1}3"),
    (r"\frac{1}{3}", "0.333333"),
    (r"1\frac{4}{5}", r"\frac{14}{5}"),
    (r"\pi", "3.14"),
    (MATRIX, r"\begin{pmatrix} 2/3 \\ -1/3 \\ 5/3 \end{pmatrix}"),
    ("6 - 5i", "6 + 5i"),
    (r"\cot x", r"\tan x"),
    ("2k+2", "2k-2"),
    ("p - q", "q - p"),
    ("5x - 7y + 11z + 4 = 0", "5x-7y+11z-4=0"),
    ("y = 2x + 3", "y=2x-3"),
    (r"\text{(C)}", "(D)"),
    (r"\text{even}", "odd"),
    (r"\text{Evelyn}", "Evelin"),
    (r"\text{east}", "seat"),
    (r"864 \mbox{ inches}^2", r"863\text{ inches}^2"),
    (r"5.4 \text{ cents}", r"54 \text{ cents}"),
    (r"\$18.90", r"\$18.09"),
    ("58,500", "58,50"),
    (r"10,\!080", "1080"),
    (r"3\sqrt{13}", r"13\sqrt{3}"),
    (r"-\frac{\pi}{6}", r"\frac{\pi}{6}"),
    ("8n^2 + 4n + 1", "8n^2 + 4n"),
    ("5", ""),
]


@pytest.mark.parametrize(("gold", "given"), MATH_SAME)
def test_same_answers(gold, given):
    assert same_answer(given, gold)
    assert score("math500", rf"Thus $\boxed{{{given}}}$.", gold) == RIGHT


@pytest.mark.parametrize(("gold", "given"), MATH_DIFFERENT)
def test_different_answers(gold, given):
    assert not same_answer(given, gold)
    assert score("math500", rf"Thus $\boxed{{{given}}}$.", gold) == WRONG


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (r"\boxed{\frac{1}{2}}", RIGHT),
        (r"\boxed{3} no, \boxed{0.5}", RIGHT),
        (r"\boxed{ \boxed{\frac12} }", RIGHT),
        (r"\fbox{1/2}", RIGHT),
        (r"$\boxed 1/2$.", RIGHT),
        (r"\boxed{\frac{1}{2}} and \boxed{\frac{1}{", RIGHT),
        (r"So $x = \frac{1}{2}$.", LENIENT),
        (r"So \[ \frac{3}{4} - \frac14 = \frac{1}{2} \]", LENIENT),
        (r"It is \(\frac{1}{2}\).", LENIENT),
        ("It is 0.5.", LENIENT),
        ("It is 1/2", LENIENT),
        (r"\boxed{\frac{1}{2}} or rather \boxed{3}", WRONG),
        (r"\boxed{} and $\frac{1}{2}$", WRONG),
        (r"\boxed{3} but also $\frac{1}{2}$", WRONG),
        (r"$\frac{1}{2}$ of it is 3", WRONG),
        (r"$\frac{1}{2}$, so $4$", WRONG),
        (r"\boxed{\frac{1}{2}", WRONG),
        ("", WRONG),
        ("no idea", WRONG),
    ],
)
def test_math_extraction(completion, expected):
    assert score("math500", completion, r"\frac{1}{2}") == expected


def test_unmarked_latex_does_not_pass_for_its_last_digit():
    assert score("math500", r"It is 5\sqrt{2}.", "2") == WRONG
    assert score("math500", r"It is \frac{1}{2}.", "2") == WRONG
    assert score("math500", "It is x^2", "2") == WRONG
    assert score("math500", r"It is 2\sqrt{5}.", "2") == WRONG
    assert score("math500", "It is 2^5", "2") == WRONG


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"a \boxed{\{1, 2\}} b", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.} b", r"\left\{ x \right."),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{7", None),
        (r"\boxedx{7}", None),
        ("none", None),
    ],
)
def test_the_last_balanced_box(text, content):
    box = last_boxed(text)
    assert (box and box[1]) == content


EXPLOSIVE = ["9^{9^{9}}", "10^{10^{10}}", "7^{99999999}", "99999999!", r"\sum_{k=1}^{10^9} k", r"\int_0^1 e^{x^x} dx"]
LONG = ["(" * 5000, "9" * 5000, r"\boxed{" * 2000, "1+" * 5000 + "1"]


@pytest.mark.parametrize("given", EXPLOSIVE + LONG)
def test_explosive_answers_never_reach_math_verify(given, monkeypatch):
    monkeypatch.setattr(answers, "_verify", lambda *_: pytest.fail("compared"))
    assert score("math500", rf"\boxed{{{given}}}", "5") == WRONG
    assert not same_answer(given, r"\sqrt{5}")


def test_long_answers_are_compared_as_text():
    long = "+".join("abcdefgh"[i % 8] for i in range(MAX_LENGTH))
    assert same_answer(long, long) and not same_answer(long, "5")


def test_math_works_outside_the_main_thread():
    results = []
    pairs = [("(b+2)(a+5)", "(a+5)(b+2)"), ("(b+2)(a+4)", "(a+5)(b+2)")]
    thread = threading.Thread(target=lambda: results.extend(same_answer(*pair) for pair in pairs))
    thread.start()
    thread.join()
    assert results == [True, False]


@settings(max_examples=150)
@given(st.text(alphabet="0123456789#$\\{}boxedfrac.,-/ \nQ:=^_()%", max_size=40), st.sampled_from(["13", "-4", "0"]))
def test_no_completion_breaks_a_scorer(completion, answer):
    for task in ("arithmetic", "word_problems", "gsm8k", "math500"):
        result = score(task, completion, answer)
        assert result.correct or not result.strict


@settings(max_examples=200)
@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_a_number_is_right_exactly_when_it_is_the_gold_one(gold, other):
    for number in (gold, other):
        same = number == gold
        assert score("gsm8k", f"#### {number:,}", str(gold)) == Score(same, same)
        assert score("gsm8k", f"so {number}.", str(gold)) == Score(same, False)
        assert score("math500", rf"\boxed{{{number}}}", str(gold)) == Score(same, same)
        assert score("arithmetic", f" {number}\n", str(gold)) == Score(same, same)
        assert score("word_problems", f" {number}\n\nQ:", str(gold)) == Score(same, same)


def test_what_word_problems_cut_off_no_score_depends_on():
    task, stop = load_task("word_problems"), re.compile(load_task("word_problems").stop)
    example = replace(task.split("test")[0], answer="12")
    ends = 0
    for text in map("".join, product(["12", " ", "\n", "7 + 5 =", "Q:", "a"], repeat=5)):
        cut = next((text[:n] for n in range(len(text) + 1) if stop.search(text[:n])), text)
        assert task.score(cut, example) == task.score(text, example), text
        ends += cut != text
    assert ends > 1000


# ---- values that are near, signs, groups of digits, scale words and powers


NEAR = [  # (gold, given): refused
    (r"2^{-100}", r"-2^{-100}"), (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"), (r"e^{-40}", r"e^{-41}"),
    (r"6.626 \times 10^{-34}", r"1.38 \times 10^{-23}"), (r"\frac{2^{100}-1}{2^{100}}", r"\frac{1}{2^{100}}"),
    (r"3^{-71}", r"3^{-70}"), (r"e^{-100}", "0"), (r"\sqrt{2}", r"\sqrt{2}+10^{-20}"), (r"\pi^{-30}", r"\pi^{-31}"),
    (r"1+10^{-30}", "1"), (r"\frac{10^{40}+1}{10^{40}}", "1"), (r"2^{-50}\sqrt{3}", r"2^{-51}\sqrt{3}"),
    (r"\frac13, \frac23", "0.333333, 0.666667"), (r"\pi", "x=3.141593"), (r"\pi", "3.141593"),
    (r"-\frac13", "-0.333333"),
    (r"[\frac13,1)", "[0.333333,1)"), (r"\sqrt{2}", "1.41421356"), (r"\frac{x}{3}", "0.333333x"),
    (r"-\pi", "-3.141593"),
    (r"\begin{pmatrix} 1/3 \\ 1 \end{pmatrix}", r"\begin{pmatrix} 0.333333 \\ 1 \end{pmatrix}"),
    (r"\left\{\frac23, 5\right\}", r"\left\{0.666667, 5\right\}"), (r"(\frac17, 2)", "(0.142857, 2)"),
    ("x=\\frac13", "x=0.333333"), (r"\frac13+\pi", r"0.333333+\pi"), (r"\text{no}", "on"), (r"\text{yes}", "sey"),
    (r"12 \text{ million}", "12"), ("12", r"12 \text{ million}"), ("12", "12 thousand"), ("3", "\N{MINUS SIGN}3"),
    ("3", "\N{NON-BREAKING HYPHEN}3"), ("3", "\N{EN DASH}3"), ("80", "1 080"), ("18", "18^2"), ("8", r"10\,008"),
    (r"\frac12", "3 1/2"), ("3", "0.\\overline{3}"), (r"2\sqrt{3}", "2√5"), ("x^2", "x³"), ("5", "6 = x"),
    ("1000", "10^2"), ("100", r"10\,0"), ("4", "-2^2"), (r"(-\infty, 2]", "(-∞, 3]"), ("18", "18 and 19 dollars"),
]  # fmt: skip
EXACT = [  # (gold, given): accepted
    (r"2^{-60}", r"\frac{1}{2^{60}}"), (r"\frac{1}{2^{60}}", r"2^{-60}"), (r"\frac12, \frac14", "0.5, 0.25"),
    (r"\frac12", "x=0.5"), ("10000", r"10\,000"), ("10000", r"10\ 000"), ("1080", "1 080"), ("1234567", r"1\,234\,567"),
    ("12000000", r"12 \text{ million}"), ("2500", "2.5 thousand"), (r"\text{no}", "No"), (r"\text{yes}", "yes"),
    (r"6.626 \cdot 10^{-34}", r"6.626 \times 10^{-34}"), ("1000", "10^3"), ("1024", "2^{10}"), ("-4", "-2^2"),
    ("-3", "\N{MINUS SIGN}3"), ("-3", "\N{NON-BREAKING HYPHEN}3"), ("-3", "\N{EN DASH}3"), ("-3", "- 3"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), (r"\frac{x}{4}", "0.25x"), (r"\frac83", "2 2/3"),
    (r"\frac83", r"2\frac23"), (r"\frac13", r"0.\overline{3}"), (r"\frac16", r"0.1\overline{6}"),
    ("1", r"0.\overline{9}"),
    (r"2\sqrt{3}", "2√3"), (r"\sqrt{x}", "√x"), ("x^2", "x²"), ("x^3+1", "x³+1"), (r"(-\infty,2]", "(-∞, 2]"),
    (r"2\pi", "2π"), (r"\frac12", r"\boldsymbol{\frac12}"), ("7", r"\mathbf{7}"), ("5", "5 = x"), ("x=5", "5 = x"),
    ("18", "18 dollars"), ("18", "$18 per day"), ("-7/2", "-3 1/2"), ("300000000", r"3 \times 10^8"),
    (r"[\frac12,1)", "[0.5,1)"),
    (r"\begin{pmatrix} 1/4 \\ 1 \end{pmatrix}", r"\begin{pmatrix} 0.25 \\ 1 \end{pmatrix}"),
]  # fmt: skip
GSM8K_ANSWERS = [  # (completion, gold, right?)
    ("#### - 3", "3", False), ("#### - 3", "-3", True), ("the answer is - 3", "3", False), ("x = - 3", "-3", True),
    ("the answer is - 3", "-3", True), ("#### \N{EN DASH} 3", "-3", True),
    ("#### \N{NON-BREAKING HYPHEN}3", "-3", True),
    ("Answer \N{EM DASH} 18", "18", True), ("- 18", "18", True), ("- 17 apples\n- 18", "18", True),
    ("It is minus 3", "3", False), ("It is negative 3.", "-3", True), ("20 minus 2 is 18", "18", True),
    ("#### 1 080", "1080", True), ("#### 1 080", "80", False), ("#### 1\N{NO-BREAK SPACE}080", "1080", True),
    ("#### 1\N{THIN SPACE}080 clips", "1080", True), ("#### 1'080", "1080", True), ("#### 1 080 clips", "1080", True),
    ("#### 1 08", "8", False), ("#### 12 34", "34", False), ("#### 1'08", "8", False), ("#### 18 million", "18", False),
    ("#### 18 million", "18000000", True), ("#### 2 hundred", "200", True), ("#### 18^2", "18", False),
    ("#### 18^2", "324", True), ("#### 18x", "18", False), (r"#### 3 \times 10^8", "3", False),
    (r"#### 3 \times 10^8", "10", False), (r"#### 3 \times 10^8", "300000000", True), ("#### 10^3", "1000", True),
    ("#### 10^3", "10", False), ("It is 3 1/2.", "2", False), ("It costs 2.5 million", "2500000", True),
    ("It costs 2.5 million", "2", False), ("#### 1.5 thousand", "1500", True), ("10-3", "3", False),
    ("between 3-5", "5", False), ("#### 18 dollars", "18", True), ("#### 1,080 clips", "1080", True),
    (r"\boxed{18 dollars}", "18", True), (r"\boxed{18 million}", "18", False), (r"\boxed{10\,000}", "10000", True),
    ("#### 18kg", "18", True), ("#### 9 * 2 = 18", "18", True), ("#### 9 * 2", "18", True), ("#### 9 * 2", "9", False),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "given"), NEAR)
def test_what_is_only_near_is_refused(gold, given):
    assert not same_answer(given, gold)


@pytest.mark.parametrize(("gold", "given"), EXACT)
def test_what_is_equal_in_another_form_is_accepted(gold, given):
    assert same_answer(given, gold)


@pytest.mark.parametrize(("completion", "gold", "right"), GSM8K_ANSWERS)
def test_a_number_is_read_with_its_sign_groups_and_scale(completion, gold, right):
    assert score("gsm8k", completion, gold).correct == right


MORE_ANSWERS = [  # (gold, given, right?)
    ("1", "1-e^{-40}", False), ("\\frac13+10^{-20}", "\\frac13", False),
    ("\\{2^{-60},1\\}", "\\{2^{-61},1\\}", False), ("(2^{-60},1)", "(2^{-61},1)", False),
    ("[0,2^{-60}]", "[0,2^{-61}]", False), ("x<2^{-100}", "x<2^{-99}", False), ("x<\\frac13", "x<0.333333", False),
    ("y=\\frac13 x+1", "y=0.333333x+1", False), ("x=\\frac13, y=2", "x=0.333333, y=2", False),
    ("[0,\\frac13]\\cup[1,2]", "[0,0.333333]\\cup[1,2]", False), ("0.333333", "\\frac13", False),
    ("\\frac13", "x = 0.333333", False), ("\\frac13", "+0.333333", False), ("-\\frac13", "x=-0.333333", False),
    ("\\frac{\\pi}{2}", "1.570796", False), ("(3,\\frac{\\pi}{2})", "(3,1.570796)", False),
    ("\\sqrt2 i", "1.414214i", False), ("\\{1,2\\}", "\\{1,3\\}", False), ("1,2,3", "1,2,2", False),
    ("2^{-100}x", "2^{-99}x", False), ("12", "12 \\text{ thousand}", False), ("12", "12\\text{ hundred}", False),
    ("12000000", "12 million dollars", True), ("12000000", "\\$12\\text{ million}", True), ("12", "12k", False),
    ("18", "18 tenths", False), ("18", "18 squared", False), ("5", "5 or more", False), ("5", "5 plus tax", False),
    ("5", "\\text{minus } 5", False), ("18", "18 pi", False), ("18", "18 sqrt", False), ("18", "18 cos", False),
    ("18", "18 sin x", False), ("5", "minus 5", False), ("10000", "10~000", True), ("10000", "10'000", True),
    ("10000", "10\u202f000", True), ("10000", "10{,}000", True), ("1", "1,00,000", False),
    ("100000", "1,00,000", False), ("10000", "10\\;000", True), ("12", "1\\,2", False), ("8/3", "2\\,\\frac23", True),
    ("-8/3", "-2\\frac23", True), ("4/3", "2\\frac23", False), ("4/3", "2 2/3", False),
    ("\\frac16", ".1\\overline{6}", True), ("\\frac13", "0.333\\ldots", False), ("\\sqrt3", "\u221a3", True),
    ("\\frac{\\sqrt3}{2}", "\u221a3/2", True), ("x^2", "x^{2}", True), ("x^{12}", "x\xb9\xb2", True),
    ("x^{-1}", "x\u207b\xb9", True), ("x^4", "x\u2074", True), ("\\frac12", "\xbd", True),
    ("\\frac72", "3\xbd", True), ("[-\\infty,2)", "[\u2212\u221e,2)", True), ("x\\le 2", "x \u2264 2", True),
    ("(0,1)\\cup(2,3)", "(0,1)\u222a(2,3)", True), ("\\pm 2", "\xb12", True), ("\\frac12", "\\boldsymbol{0.5}", True),
    ("\\frac12", "{\\frac12}", True), ("\\frac12", "\\mathbf{\\dfrac{1}{2}}", True), ("5", "5=\\theta", True),
    ("5", "5=y", True), ("5", "5 = f(x)", True), ("5", "6=5", False), ("\\text{no}", "no", True),
    ("\\text{no}", "NO.", True), ("\\text{Mon}, \\text{Tue}", "\\text{Tue}, \\text{Mno}", False),
    ("(\\text{no},1)", "(\\text{on},1)", False), ("\\text{not one}", "\\text{one not}", False),
    ("\\text{Monday}", "Monday", True), ("1/1000", "10^{-3}", True), ("1", "1e5", False),
    ("1024", "\\frac{2^{11}}{2}", True), ("3", "3!", False), ("6", "3!", True), ("10^{500}", "10^{501}", False),
    ("2^{-2000}", "2^{-2001}", False), ("e^{2000}", "e^{2001}", False), ("3-5", "2", False),
    ("10:30", "10:31", False), ("3:4", "4:3", False), ("10:30", "30", False), ("30", "10:30", False),
    ("5", "3-5", False), ("-2", "3-5", True), ("4", "3:4", False), ("50\\%", "50", True), ("1/2", "50\\%", False),
    ("2k+2", "2(k+1)", True),
    ("\\begin{pmatrix}0.5\\\\1\\end{pmatrix}", "\\begin{pmatrix}\\frac12\\\\1\\end{pmatrix}", True),
    ("0.5, 0.25", "\\frac14,\\frac12", True), ("\\frac{3}{2}", "\\frac{1.5}{1}", True),
]  # fmt: skip
MORE_GSM8K = [  # (completion, gold, right?)
    ("#### 18 billion", "18", False), ("#### 18k", "18", False), ("#### 18\xb2", "18", False),
    ("#### 18**2", "18", False), ("#### 18^{2}", "324", True), ("#### 18y", "18", False), ("#### 18 y", "18", False),
    ("#### 18 / x", "18", False), ("#### 18\u03c0", "18", False), ("#### 18\u221a2", "18", False),
    ("#### 18\\pi", "18", False), ("#### 18\\sqrt{2}", "18", False), ("The answer is 18\\sqrt{2}", "2", False),
    ("The answer is 18\\sqrt{2}", "18", False), ("The answer is \\sqrt{18}", "18", False),
    ("The answer is 18x", "18", False), ("The answer is 18^2", "18", False), ("The answer is 18^2", "2", False),
    ("It is 18^x.", "18", False), ("The answer is 3 \\times 10^8.", "10", False),
    ("The answer is 3 x 10^8", "8", False), ("The answer is 3e8", "3", False), ("The answer is 3e8", "8", False),
    ("#### 3e8", "3", False), ("#### 1e3", "1", False), ("The answer is 18 million.", "18", False),
    ("The answer is 18 million.", "18000000", True), ("The answer is 12 34", "34", False),
    ("The answer is 1 080", "80", False), ("The answer is 1,00,000", "0", False),
    ("The answer is 1'080", "1080", True), ("The answer is 10,80", "80", False), ("#### 1.080.000", "0", False),
    ("#### 1.080,50", "50", False), ("#### 1_000", "1", False), ("#### 10 000 000", "10000000", True),
    ("#### 3-5", "3", False), ("#### 3 to 5", "3", False), ("#### 18 or 19", "19", False),
    ("#### 10:30", "30", False), ("#### 10:30", "10", False), ("#### 3:4", "4", False),
    ("#### 05/03/2024", "2024", False), ("#### 3/4/5", "5", False), ("It is 3 and 1/2.", "1/2", False),
    ("It is 3 and a half", "3", False), ("#### 3 and a half", "3", False), ("#### 3 1/2", "3", False),
    ("#### 3\xbd", "3", False), ("#### \xbd", "1", False), ("The answer is 3\\frac{1}{2}", "2", False),
    ("The answer is 3\\frac{1}{2}", "3", False), ("The answer: - 3", "3", False), ("The answer: - 3", "-3", True),
    ("the answer equals - 3", "3", False), ("we get - 3", "3", False), ("so he has \u2013 3", "3", False),
    ("x = \u20123", "-3", True), ("#### \uff0d3", "-3", True), ("#### \u20103", "-3", True),
    ("#### (-3)", "3", False), ("#### $- 3", "3", False), ("#### -$3", "-3", True), ("#### - $3", "3", False),
    ("#### +3", "3", True), ("**- 3**", "3", False), ("$x = - 3$", "3", False), ("is **- 3**", "3", False),
    ("#### - 3 dollars", "3", False), ("#### \ufe63 3", "3", False), ("#### minus 3", "3", False),
    ("#### negative 3", "3", False), ("is\n- 18", "18", True), ("* 18", "18", True), ("#### -3 million", "3", False),
    ("#### -2^2", "4", False), ("#### -2^2", "-4", True), ("#### -3 1/2", "-7/2", True),
    ("#### - 1 080", "1080", False), ("#### - 1 080", "-1080", True), ("18 - 9", "9", False),
    ("#### 36/2 dollars", "18", True), ("#### 18 percent", "18", True), ("#### 18%", "18", True),
    ("#### 18 a day", "18", True), ("#### 18kg", "18", True), ("#### 18 km", "18", True), ("#### 18th", "18", True),
    ("#### 18.", "18", True), ("#### 18 (rounded)", "18", True), ("#### 18, rounded", "18", True),
    ("#### Answer: 18", "18", True),
]  # fmt: skip
MORE_MATH = [  # (completion, gold, right?)
    ("It is 3 1/2.", "1/2", False), ("It is 3 1/2.", "7/2", True), ("It is 5 million", "5", False),
    ("It is 5 million", "5000000", True), ("It is 1 080", "80", False), ("x is - 3", "3", False),
    ("x is minus 3", "3", False), ("x is 10:30", "30", False), ("It is 3\u221a2", "3", False),
    ("It is 3\xb2", "3", False), ("It is 18 x", "18", False), ("It is 12 34", "34", False),
    ("It is 1'080", "80", False), ("It is 1,00,000", "0", False), ("It is 3.", "3", True),
    ("So x is \u22123", "-3", True), ("So x = - 3.", "-3", True), ("So x = - 3.", "3", False),
    ("It is 3 \\times 10^8", "3", False), ("It is 3\xbd", "3", False), ("It is 3e8", "8", False),
    ("It is 3 and a half", "3", False),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "given", "right"), MORE_ANSWERS)
def test_answers_in_other_forms(gold, given, right):
    assert same_answer(given, gold) == right


@pytest.mark.parametrize(("task", "case"), [("gsm8k", c) for c in MORE_GSM8K] + [("math500", c) for c in MORE_MATH])
def test_what_goes_on_is_not_its_last_number(task, case):
    completion, gold, right = case
    assert score(task, completion, gold).correct == right


@pytest.mark.parametrize("completion", [" 13\n1/2", " 13\n5/6 = 1"])
def test_arithmetic_takes_no_mixed_number_from_two_lines(completion):
    assert score("arithmetic", completion, "13") == RIGHT


@pytest.mark.parametrize(("dash", "right"), [("\N{MINUS SIGN}", "-3"), ("\N{EN DASH}", "-3"), ("-", "-3"), ("", "3")])
def test_math500_reads_the_sign_of_what_is_not_boxed(dash, right):
    for gold in ("3", "-3"):
        assert score("math500", f"So x is {dash}3", gold).correct == (gold == right)


# ---- a number is right where it stands for itself

STANDS = """\
So she has 5 + 13 = 18 eggs left.|9 + 9 is equal to 18.|That adds up to 18 dollars.|So, 9 * $2 = $18.|20 – 2 = 18
1. Add: 18|Day 3: 18|1. 18|Result → 18|=> 18|> 18|<answer>18</answer>|__18__|Half of 36 is 18.
Tom has twice as many, or 18.|The final answer is $18$. I hope it is correct.|9 boxes with 2 each give 18
the price went up by 18.|The answer is $ 18.|**18** eggs|Thus, $x = 18$.|$\\frac{36}{2}=18$|Since $x > 0$, $x = 18$.
\\( x = 18 \\)|He needs 18 cm^2.|So <<9*2=18>>18|5 apples plus 13 is 18|$$18$$"""
PART = """\
x > 18|the answer is ≥ 18|x \\ge 18|≠ 18|x != 18|±18|+/-18|\\pm 18|√18|√(18)|sqrt(18)|log 18|f(18)|x^2 + 18|2 * 18
x - 18|36 ÷ 18|18π|18 pi|18⁄7|7⁄18|7∶18|17 : 18|17-18|17 – 18|17 to 18|from 5 days to 18|between 5 and 18|17 or 18
17 and 18|17, 18|x = 17, y = 18|x = 17 or x = 18|(17, 18)|17 ; 18|17..18|2024-05-18|12/18/2024|555-18|18 K|18k|18bn
18 mil|18 lakh|18 dozen|18-thousand|1/2 million and 18 million|18 hundred thousand|18 squared|18 cubed|18 factorial
18 halves|18 hundredths|18-and-a-half|18 or more|not 18|isn't 18|at least 18|less than 18|more than 18|twice 18
half of 18|the square root of 18|5% of 18|20 mod 18|20 choose 18|18 dollars and 50 cents|5 boys and 18|$17$ or $18$
$17$, $18$|$18$ thousand|$\\sqrt2$ or $18$|-$ 18|18 + x|18 ab^2"""


def cases(table: str) -> list[str]:
    return [case for line in table.split("\n") for case in line.split("|")]


@pytest.mark.parametrize("task", ["gsm8k", "math500"])
@pytest.mark.parametrize("completion", cases(STANDS))
def test_a_number_that_stands_for_itself_is_right(completion, task):
    assert score(task, completion, "18") == LENIENT


@pytest.mark.parametrize("task", ["gsm8k", "math500"])
@pytest.mark.parametrize("completion", cases(PART))
def test_a_number_that_is_part_of_something_longer_is_wrong(completion, task):
    assert score(task, f"We know that\n{completion}.", "18") == WRONG


@pytest.mark.parametrize("marked", ["> 18", "<18", "18-20", "17-18", "18 dozen", "18 x 10^3", "x=17, y=18", "√18"])
def test_what_is_marked_is_read_as_strictly(marked):
    assert score("gsm8k", f"#### {marked}", "18") == WRONG


@pytest.mark.parametrize(
    ("marked", "gold"),
    [("20-2", "18"), ("2 dozen", "24"), ("18 hundred thousand", "1800000"), ("1.5 million", "1500000"),
     ("18 ft²", "18"), ("<<9*2=18>>18", "18"), ("1 080", "1080"), ("18 months", "18"), ("20 - 2 = 18", "18"),
     ("3 lakh", "300000")],
)  # fmt: skip
def test_what_is_marked_may_be_worked_out(marked, gold):
    assert score("gsm8k", f"#### {marked}", gold).correct


def test_prose_groups_thousands_and_a_factorial_is_none():
    assert score("gsm8k", "The answer is 1 080.", "1080") == LENIENT
    assert score("gsm8k", "It's 18!", "18") == LENIENT and score("math500", "It's 18!", "18") == WRONG


BOXED = {  # gold: (right, wrong)
    "18": (r"\text{18}|18 \mathrm{~cm}|18 \text{ cm}^2|18 \text{ km/h}|18\text{ sq. ft.}|18 months|\text{Area} = 18"
           r"|n = 18 \text{ cm}|a_5 = 18|9+9 = 18|\angle ABC = 18^\circ|18\ "
           r"|\color{red} 18|\underline{18}|\left.18\right.",
           r"18 dozen|18 \text{ dozen}|18\text{ dozen eggs}|18 \text{ squared}|18\text{ halves}|18 \text{ fifths}"
           r"|18 xyz|18\text{ k}|18 \mathrm{M}|18 \text{ bn}|18\text{i}|18 \text{ or more}|18 \text{ (extraneous)}"
           r"|\text{at least } 18|36:2|x = 17 = 18|18 = 17|8 + 9 = 18|\text{not } 18|18\text{ mod }5"),
    "216": (r"18 dozen|18\text{ dozen eggs}|18 \text{ dozen}", "18"),
    "18000": (r"18\text{ thousand dollars}|18 thousand", r"18\text{ K}"),
    "3:4": ("3 : 4|3∶4", r"6:8|4:3|3:4:5|\frac34"),
    "-5": ("minus 5|−5|{-}5|negative 5", "5|+5"),
    "(1,2)": (r"(1.0, 2)|\left(1,2\right)|(x,y) = (1,2)", r"\{1,2\}|(2,1)|[1,2]|(1,2]|2,1|(1,2,2)"),
    r"\{1,2\}": (r"\{2,1\}|1,2", "(1,2)|(2,1)"),
    r"\frac13": (r"0.(3)|0.\dot{3}|0.\overline{33}|1⁄3|1÷3|\frac26 = \frac13", r"0.3(0)|\frac13 = 0.333|0.(33)4"),
    "no": ("No|\\text{no}", r"on|\text{on}|not"),
    "x^2": (r"x²|x^{2}|x \cdot x", "X^2|x2|x_2|x³"),
    "a+A": ("a+A", "2a|2A"),
    "a_{10}": ("a₁₀", "a₁|a₀₁"),
    r"\sqrt[3]{5}": ("∛5|5^{1/3}", "√5|∛6"),
    r"\pi": ("pi|π", r"3.14|2 pi"),
    r"\emptyset": (r"\varnothing|\{\}", "0"),
    r"12\pi": (r"12 \pi \text{ cm}^2|12 pi", r"12 \text{ cm}"),
}  # fmt: skip


@pytest.mark.parametrize(("gold", "kind"), [(gold, kind) for gold in BOXED for kind in (0, 1)])
def test_boxed_answers_of_many_kinds(gold, kind):
    for boxed in BOXED[gold][kind].split("|"):
        assert score("math500", rf"So it is $\boxed{{{boxed}}}$.", gold) == (WRONG if kind else RIGHT), boxed


@pytest.mark.parametrize("given", ["999^{999}^{999}", "(" * 20 + "1" + ")" * 20, "2^{100}!"])
def test_more_that_never_reaches_math_verify(given, monkeypatch):
    monkeypatch.setattr(answers, "_verify", lambda *_: pytest.fail("compared"))
    assert not same_answer(given, r"\sqrt{5}")
