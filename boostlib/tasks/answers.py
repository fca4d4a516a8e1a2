r"""Answers in text: the part of scoring that all tasks with a number or a formula share.

    "#### 1,080"  ->  1080        "$-12.50."  ->  -25/2        "3/4 of it"  ->  3/4        "18"  is not  "1"
    "... = \boxed{\left( 3, \frac{\pi}{2} \right)}."  ->  "\left( 3, \frac{\pi}{2} \right)", equal to "(3,\pi/2)"

Numbers: a number is a sign, digits (with commas by thousands), a decimal part and an integer denominator, taken as long
as they go, so that 13 is never read out of 13.5, 1,300 or 13/2. A period that no digit follows ends a sentence. Numbers
are exact fractions: 12.00 equals 12 and 0.333 does not equal 1/3. Percent and currency signs are dropped: 50% is 50.

Rule of `same_answer`, in this order, the first that applies decides:
  1 equal as they stand, or after normalisation (spacing, \dfrac, \left, degrees, currency, percent, units): the same;
  2 both are rational numbers: compared exactly, so 0.333333 is not 1/3 and 18 is not 18.0000001;
  3 something that math-verify would read wrongly, or that could take it forever: different;
  4 math-verify decides: sets without order, intervals, tuples, matrices, equations, symbolic equality.

Departures: numbers have no exponents ("1e3" reads as 1) and no letters before them ("x2" holds no number); a minus that
follows a digit or a closing bracket is a subtraction ("10-3" ends in 3). From the MATH graders (Hendrycks et al. 2021,
Minerva): 50% is 50 but not 0.5; decimals are exact, so that 3.141593 is not \pi; a base may be left out (52 for 52_8)
but not be another; units after a number are not compared. math-verify stops itself with SIGALRM, which works in the
main thread of a POSIX process only: elsewhere only the guards of rule 3 bound its time.
"""

import logging
import os
import re
import threading
from fractions import Fraction

MAX_LENGTH = 256  # longer answers are compared as text alone; the longest gold answer of MATH-500 has 53 characters
TIMEOUT_SECONDS = 5

_CURRENCY = r"\\?[$€£]"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_BELOW = r"(?:/(?P<below>[0-9]+)(?![0-9/]|\.[0-9]))?"
_NUMBER = rf"(?P<minus>(?<![\w)\]}}])-)?(?:{_CURRENCY})?(?P<digits>{_DIGITS}){_BELOW}"
_IN_TEXT = re.compile(rf"(?<![\w^]){_NUMBER}")
_ALONE = re.compile(rf"(?:{_CURRENCY})?{_NUMBER}\s*(?:\\?%)?\.?")
_THOUSANDS_MARK = re.compile(r"\{,\}|,\\!\s*")
_FRAC = re.compile(r"(?<![0-9}])\\[dt]?frac\s*\{(-?[0-9]+)\}\s*\{([0-9]+)\}(?![0-9{])")

_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"(?<!\\)\\!|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad|\\(?=\$)", " "),
        (r"\\[dtc]frac(?![a-z])", r"\\frac"),
        (r"\\(?:text(?:bf|rm|it|normal)?|mbox|mathrm|mathbf)\s*(?=\{)", r"\\text"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°|\\?%|[$£€]", ""),
        (r"(?<=[\d})])\s*\\text\{[^{}]*\}(?:\s*\^\s*\{?\d\}?)?\s*\.?\s*$", ""),
        (r"\\text\{([^{}]*)\}", r"\1"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*\\pi", r"\\frac{\\pi}"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"([_^])\{(\w)\}", r"\1\2"),
        (r"(\\[a-zA-Z]+\s(?=\s*[a-zA-Z])|\d\s(?=\s*\d))|\s+", r"\1"),
        (r"\.$", ""),
    ]
]
_MIXED = re.compile(r"(-?)(\d+)?\\frac\{(-?\d+)\}\{(\d+)\}")
_HEAVY = re.compile(r"\^\{?\d{5,}|\d\^\{?\(?\d+\^|\d{4,}!|!!|\\(?:int|sum|prod|lim)(?![a-z])")
_BASE = re.compile(r"_\{?(\d+)\}?$")


def numbers_in(text: str) -> list[Fraction]:
    """Every number of `text`, in order."""
    found = (_value(match) for match in _IN_TEXT.finditer(_plain(text)))
    return [number for number in found if number is not None]


def as_number(text: str) -> Fraction | None:
    """The number that `text` is, apart from currency, percent, emphasis and a final period; None if it is not one."""
    match = _ALONE.fullmatch(_plain(text).strip(" \t\r\n*_$"))
    return _value(match) if match else None


def _plain(text: str) -> str:
    text = _THOUSANDS_MARK.sub(",", text.replace("\N{MINUS SIGN}", "-"))
    return _FRAC.sub(r"\1/\2", text)


def _value(match: re.Match) -> Fraction | None:
    try:
        number = Fraction(match["digits"].replace(",", "")) / int(match["below"] or 1)
    except (ValueError, ZeroDivisionError):  # thousands of digits, or n/0
        return None
    return -number if match["minus"] else number


def last_boxed(text: str) -> tuple[int, str] | None:
    r"""(position, content) of the last \boxed{...} or \fbox{...} whose braces balance; one cut off by the token limit
    does not count. `\boxed 5`, without braces, reaches to the end of its line or formula."""
    for match in reversed(list(re.finditer(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*(\{?)", text))):
        end = _closing_brace(text, match.end()) if match[1] else _end_of_formula(text, match.end())
        if end is not None:
            return match.start(), text[match.end() : end].strip()
    return None


def same_answer(given: str, gold: str) -> bool:
    """Whether `given` is the answer `gold`, both LaTeX or plain text; never raises."""
    if given.strip() == gold.strip() or len(given) > MAX_LENGTH:
        return 0 < len(given.strip()) == len(gold.strip())
    given, gold = normalise(given), normalise(gold)
    if not given:
        return False
    if given == gold or (_is_words(gold) and _words(given) == _words(gold)):
        return True
    numbers = _rational(given), _rational(gold)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return not _is_words(gold) and not _misleading(given, gold) and _verify(given, gold)


def normalise(answer: str) -> str:
    """`answer` with one spelling for what LaTeX can spell in many ways."""
    number = as_number(answer)
    if number is not None:
        return str(number)
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer.strip())
    return answer


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _end_of_formula(text: str, start: int) -> int:
    match = re.compile(r"\$|\\\)|\\\]|\n|$").search(text, start)
    return match.start() if match else len(text)


def _is_words(gold: str) -> bool:
    return re.fullmatch(r"\(?[A-Z]\)?|[A-Za-z]{3,}", gold) is not None


def _words(answer: str) -> str:
    return answer.strip("()").casefold()


def _rational(answer: str) -> Fraction | None:
    r"""Exact value of a number, a fraction or a mixed number such as 1\frac{4}{5}."""
    match = _MIXED.fullmatch(answer)
    if not match:
        return as_number(answer)
    if int(match[4]) == 0:
        return None
    size = int(match[2] or 0) + Fraction(int(match[3]), int(match[4]))
    return -size if match[1] else size


def _misleading(given: str, gold: str) -> bool:
    """What math-verify must not see: explosive terms, another base (it drops indices), "4=5" (it reads 5)."""
    if _HEAVY.search(given):
        return True
    base, gold_base = _BASE.search(given), _BASE.search(gold)
    if base and base[1] != (gold_base[1] if gold_base else "10"):
        return True
    left = re.sub(r"\\(?:frac|sqrt|cdot|times|div|pi)", "", given.split("=")[0])
    return "=" in given and "=" not in gold and not re.search(r"[a-zA-Z]", left)


def _verify(given: str, gold: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify  # imports sympy: seconds

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once a timeout, and whenever it has none
    main = os.name == "posix" and threading.current_thread() is threading.main_thread()
    seconds = TIMEOUT_SECONDS if main else None
    parsed = []
    for text in (gold, given):
        config = [LatexExtractionConfig()]
        parsed.append(parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=seconds))
    return all(parsed) and verify(parsed[0], parsed[1], timeout_seconds=seconds)
