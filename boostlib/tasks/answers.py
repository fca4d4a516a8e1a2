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
  4 math-verify decides: sets without order, intervals, tuples, matrices, equations, symbolic equality;
  5 of what it takes for equal, the values are compared once more, part by part: rational ones exactly, with decimals as
    they are written, others to 40 digits. It rounds decimals to 6 places and chops at 15 digits, so that 2^{-100} would
    be -2^{-100}, and (0.333333, 1) the point (1/3, 1).

What belongs to a number: any dash but the long one is its minus, also with a blank after "=", ":", "is" or at the start
of what was marked ("#### - 3"; "minus 3" and "negative 3" likewise), digits grouped by thousands with a comma, an
apostrophe, a blank of any kind or `\,`; and a scale word: 18 million, 2 dozen.

`last_number` reads none where the last number is part of something longer: what stands right after it (`GOES_ON`: 18x,
18 \sqrt{2}, 18 squared) or right before it on its line (`COMES_FROM`: 10:30, 2024-05-18, 2 * 18, "17 or 18", x > 18,
"at least 18") belongs to it. What cannot be told is refused.

Departures: no exponents with e ("1e3"); a number has no letters before it ("x2" holds none); a minus that
follows a digit or a closing bracket is a subtraction (`numbers_in` finds 10 and 3 in "10-3"). From the MATH graders
(Hendrycks et al. 2021, Minerva): 50% is 50 but not 0.5; decimals are exact, so that 3.141593 is not \pi; a base may be
left out (52 for 52_8) but not be another; units after a number are not compared. math-verify stops itself with SIGALRM,
which works in the main thread of a POSIX process only: elsewhere only the guards of rule 3 bound its time.
"""

import logging
import os
import re
import threading
import unicodedata
from fractions import Fraction

MAX_LENGTH = 256  # longer answers are compared as text alone; the longest gold answer of MATH-500 has 53 characters
TIMEOUT_SECONDS = 5

_CURRENCY = r"\\?[$€£]"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_BELOW = r"(?:/(?P<below>[0-9]+)(?![0-9/]|\.[0-9]))?"
_NUMBER = rf"(?P<minus>(?<![\w)\]}}])-)?(?:{_CURRENCY}[ ]?)?(?P<digits>{_DIGITS}){_BELOW}"
_IN_TEXT = re.compile(rf"(?<![\w^]){_NUMBER}(?![0-9.]*\s*\^)")
_ALONE = re.compile(rf"(?:{_CURRENCY})?{_NUMBER}\s*(?:\\?%)?\.?")
_BEFORE_A_NUMBER = r"(?=[0-9$.])"

# What stands for what: dashes but the long one, fractions and ratios of one character, small digits, symbols.
DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"), "-")
_SIGNS = (
    DASHES
    | {0x2044: "/", 0x2215: "/", 0x2236: ":"}
    | {
        code: re.sub(r"(\d+)\u2044(\d+)", r" \1/\2", unicodedata.normalize("NFKC", chr(code)))
        for code in (0xBC, 0xBD, 0xBE, *range(0x2150, 0x215F))  # one half and the like
    }
)
_RAISED = re.compile("([⁺⁻]?(?:[⁰¹²³⁴⁵⁶⁷⁸⁹]+|ⁿ))")
_LOWERED = re.compile("([₀₁₂₃₄₅₆₇₈₉]+)")
_SYMBOLS = {"∞": r"\infty ", "π": r"\pi ", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "θ": r"\theta "}
_ROOT = re.compile(r"([√∛])\s*(\([^()]*\)|\{[^{}]*\}|[0-9]+(?:\.[0-9]+)?|[a-zA-Z])")
_BOLD = re.compile(r"\\(?:boldsymbol|bm|mathbf|pmb|mathsf|mathit|underline|ensuremath)\s*\{(.*)\}", re.DOTALL)

# How a number is written: its sign, groups of digits, powers, repeating decimals, mixed numbers, scale words.
_SIGN_APART = re.compile(
    rf"((?:[=:]|\*\*|\b(?:is|are|be|equals?|gets?|gives?|has|have|answer)\b)[ \t*$]*)-[ \t]+{_BEFORE_A_NUMBER}",
    re.IGNORECASE,
)
_SIGN_WORD = re.compile(rf"(?<![0-9] )\b(?:minus|negative)\s+{_BEFORE_A_NUMBER}", re.IGNORECASE)
_THOUSANDS_MARK = re.compile(r"\{,\}|,\\!\s*")
_GROUPED = re.compile(r"(?<![0-9.,])([0-9]{1,3})((?:(?:['\u2019\u00a0\u2009\u202f ]|\\[, ])[0-9]{3})+)(?![0-9])")
_EXPONENT = r"\^\s*(?:\{\s*(-?[0-9]{1,3})\s*\}|(-?[0-9]{1,3}))(?![\w^]|\.[0-9])"
_POWER = re.compile(rf"(?<![\w^.,)}}\]])([0-9]{{1,6}})\s*{_EXPONENT}")
_SCIENTIFIC = re.compile(rf"(?<![\w^.,])([0-9]+(?:\.[0-9]+)?)\s*(?:\\times|\\cdot|[×·*])\s*10\s*{_EXPONENT}")
_REPEATING = re.compile(
    r"(?<![0-9.,])([0-9]*)\.([0-9]*)(?:\\(?:overline|bar|dot)\s*\{([0-9]{1,20})\}|\(([0-9]{1,20})\))"
)
_MIXED_IN_TEXT = re.compile(r"(?<![\w^.,/])([0-9]{1,20})[ \t]+([0-9]{1,20})/([1-9][0-9]{0,20})(?![\w/]|\.[0-9])")
_FRAC = re.compile(r"((?<=[0-9]))?(?<!\})\\[dt]?frac\s*\{(-?[0-9]+)\}\s*\{([0-9]+)\}(?![0-9{])")
_SCALES = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "trillion": 10**12,
}
_SCALE = rf"(?:{'|'.join(_SCALES)})s?\b"
_SCALED = re.compile(
    rf"(?<![\w^.,/])([0-9][0-9,]*(?:\.[0-9]+)?)(?:\s|\\ |\\,|~|-)*(\\text\s*\{{\s*)?({_SCALE}(?:\s+{_SCALE})*)"
    r"(?(2)(\s*\})?)",
    re.IGNORECASE,
)
_UNIT_RAISED = re.compile(
    r"(?<=[0-9])\s*(?:\\text\{\s*)?(?:[mcdk]?m|in|ft|yd|mi|inches|feet|meters|yards|miles)\}?\s*\^\s*\{?[23]\}?(?!\w)"
)

# Marks that are no part of a number: bold face, tags, a calculator's <<9*2=18>>, the signs of a formula that is one.
_MARKS = re.compile(
    r"<<[^<>]*>>|</?[a-z]+>|(?<![\w)])\*\*|\*\*(?![\w(])|(?<![\w}\\])__?(?=[-$0-9])|(?<=[0-9])__?(?!\w)"
)
_PLAIN_FORMULA = re.compile(
    r"(?<!\\)(\$\$?|\\[(\[])\s*(-?[0-9][0-9.,/]*(?: [0-9]+/[0-9]+)?)\s*(?:(?<=[0-9.])\$\$?|\\[)\]])(?![0-9])"
)

# Words that make another number of the one before them, so that they are no unit of it.
_CHANGES = (
    rf"(?:squared|cubed|factorial|half(?!-)|halves|thirds|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand)ths"
    rf"|tens|{_SCALE}|bn|mn|mil|(?-i:[kKMBi])(?!&))\b"
)
_NO_UNIT = (
    r"(?![^{}]*\b(?:or|and|to|plus|minus|times|more|less|fewer|than|mod|sqrt|sin|cos|tan|log|exp"
    rf"|{_CHANGES})\b)"
)
_UNIT_WORD = r"(?:[a-z]*[b-df-hj-np-tv-z][aeiou][a-z]*|[a-z]{2,}s)"  # "18 xyz" is a product
_WITH_UNIT = re.compile(
    rf"(-?(?:\\?[$€£])?[0-9][0-9.,/]*)(?:{_NO_UNIT}(?:\s+(?=[a-z]{{3}}){_UNIT_WORD})+"
    rf"|\s*\\(?:text|mbox|mathrm)\s*\{{{_NO_UNIT}[a-z./\s-]*\}})\.?",
    re.IGNORECASE,
)
_TURNED = re.compile(r"([^=]+)=\s*([a-zA-Z](?:\([a-zA-Z]\))?|\\(?:theta|alpha|beta|phi|lambda))\s*")
# Where a number goes on: a power, a root, a factor, a variable ("18x", "18 x"), "squared", "or more", "and a half".
GOES_ON = re.compile(
    r"\s*\^|_|[ \t]*(?:[πθ√∛]|pi\b|\\(?:pi|sqrt|cdot|times|frac))|[a-zA-Z](?![a-zA-Z])|[ \t]+(?-i:[b-z])(?=\W*$)"
    rf"|[ \t]*[+*×·÷/][ \t]*(?:[(\\]|[a-zA-Z]\b)|[ \t]*-[ \t]*[a-zA-Z](?=\W*$)|[ \t-]*{_CHANGES}"
    r"|\s+or\s+(?:more|less|fewer)\b|[\s-]+and[\s-]+(?:a|one|three)[\s-]+(?:half|third|quarter)",
    re.IGNORECASE,
)
# Where it is the end of something longer, on its line: a sum, a list, a range, a date, a bound, an argument.
COMES_FROM = re.compile(
    r"""(?:
      [0-9](?:[,.:'’_](?![ \t])|(?=[ \t$]|$))                               # 12 34, 1,8, 10:30
    | (?:[0-9)\]}%$] | (?<![a-zA-Z'’])[a-zA-Z])[ \t]*                       # 3x + 5, 10 / 5, 555-1234, 3..5
      (?:[-+*/×·÷^] | \.\.+ | … | \\(?:times|cdot|div) | \b(?:plus|minus|times|over|mod|choose)\b)
    | (?<=[\w)])\*\*
    | (?:[0-9$}] | \\\))[ \t]*(?:[,;&] | [ \t]: | (?:to|through|till?|until)\b)[ \t]*(?:[a-zA-Z][ \t]*=)?
    | (?:[0-9$}] | \\\))(?:[ \t]+[a-zA-Z]+){0,2},?[ \t]+(?:or|and|and/or)\b[ \t]*(?:[a-zA-Z][ \t]*=)?
    | \bfrom\b[^.\n]*\bto | \bbetween\b[^.\n]*\band
    | (?:[±∓√∛≠≤≥<] | (?<=[\w)#][ ])>|(?<=[\w)])>|[!<>]= | \+/- | \\(?:neq?|leq?|geq?|lt|gt|pm|mp|sqrt)\b)
    | (?:\bnot|\bnever|n['’]t)(?:[ ](?:be|exactly|equal[ ]to))?
    | \b(?:least | most | than | under | over | below | above
      | twice | double | log | ln | sqrt | sin | cos | tan | mod | instead[ ]of
      | (?:root|half|thirds?|quarters?|percent|power|square|cube|factorial)[ ]of)
    | %[ ]of
    | [a-zA-Z√∛]\( | (?:\\sqrt|[\^_}])\s*\{?
    )[ \t]*\$?$""",
    re.IGNORECASE | re.VERBOSE,
)
_TEXT = re.compile(r"\s*\\text\s*\{[A-Za-z ]+\}\s*\.?\s*")

_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"(?<!\\)\\!|\\(?:left|right)(?:(?![a-z.])|\.)|\\(?:displaystyle|textstyle|bf|rm|color\{\w+\})(?![a-z])", ""),
        (r"(?<!\\)\\[,;: ]|(?<!\\)\\$|~|\\q?quad|\\(?=\$)", " "),
        (r"\\varnothing", r"\\emptyset"),
        (r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi "),
        (r"\{-\}", "-"),
        (r"\\[dtc]frac(?![a-z])", r"\\frac"),
        (r"\\(?:text(?:bf|rm|it|normal)?|mbox|mathrm|mathbf)\s*(?=\{)", r"\\text"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°|\\?%|[$£€]", ""),
        (rf"(?:(?<=[\d}})])|(?<=\\pi))\s*\\text\{{{_NO_UNIT}[A-Za-z./\s-]*\}}(?:\s*\^\s*\{{?\d\}}?)?\s*\.?\s*$", ""),
        (r"^\\text\{([^{}]*)\}$|\\text\{(\s*[a-zA-Z]?\s*)\}", r"\1\2"),
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
_HEAVY = re.compile(
    r"\^\s*(?:\{[^{}]*\}|\w)\s*\^|(?:[(\[]\s*){8}|[})]!|\^\{?\d{5,}|\d\^\{?\(?\d+\^|\)\^\{?\d{3,}|binom\{?\d{5,}"
    r"|\d{4,}!|!!|\\(?:int|sum|prod|lim)(?![a-z])"
)
_COMMAND = re.compile(r"\\(?!theta|alpha|beta|phi|lambda|angle|overline)[a-zA-Z]+")
_LEFT_WORDS = re.compile(r"\\text\{\s*(?!(?:or|and)\s*\})([^{}]*?)\s*\}")
_BASE = re.compile(r"_\{?(\d+)\}?$")


def numbers_in(text: str) -> list[Fraction]:
    """Every number of `text`, in order."""
    found = (_value(match) for match in _IN_TEXT.finditer(_plain(text)))
    return [number for number in found if number is not None]


def last_number(text: str) -> Fraction | str | None:
    """The last number of `text`; "" where it is part of something else, such as 18x or 10:30; None without one."""
    text = _plain(text)
    found = list(_IN_TEXT.finditer(text))
    digits = re.search(r"(?<![A-Za-z0-9])[0-9]+(?=[^0-9]*$)", text)
    if not found or (digits and digits.start() >= found[-1].end()):
        return "" if digits else None
    last = found[-1]
    value = _value(last)
    return "" if value is None or ends_more(text[: last.start()]) or GOES_ON.match(text, last.end()) else value


def ends_more(before: str) -> bool:
    """Whether what follows `before` is the end of something longer: "3 or ", "2024-05-", "x + ", "at least "."""
    return COMES_FROM.search(before.rpartition("\n")[2][-200:]) is not None


def as_number(text: str) -> Fraction | None:
    """The number that `text` is, apart from currency, percent, emphasis and a final period; None if it is not one."""
    text = _plain(text.strip(" \t\r\n*_$")).strip()
    match = _ALONE.fullmatch(re.sub(r"^-\s+", "-", text))
    return _value(match) if match else None


def _plain(text: str) -> str:
    """`text` with one spelling for numbers: no marks round them, one sign, digits in one piece, powers and scale words
    worked out."""
    text = _RAISED.sub(_raised, text.translate(_SIGNS))
    text = _FRAC.sub(lambda match: f"{'' if match[1] is None else ' '}{match[2]}/{match[3]}", text)
    text = _SIGN_WORD.sub(" -", _SIGN_APART.sub(r"\1 -", _THOUSANDS_MARK.sub(",", text)))
    text = _PLAIN_FORMULA.sub(r" \2 ", _MARKS.sub("", text))
    text = _GROUPED.sub(lambda match: re.sub(r"[^0-9]", "", match[0]), _UNIT_RAISED.sub("", text))
    text = _SCIENTIFIC.sub(lambda match: _power(match, 10, Fraction(match[1])), text)
    text = _POWER.sub(lambda match: _power(match, int(match[1])), text)
    text = _REPEATING.sub(_repeating, text)
    text = _MIXED_IN_TEXT.sub(lambda match: f"{int(match[1]) * int(match[3]) + int(match[2])}/{match[3]}", text)
    return _SCALED.sub(_scaled, text)


def _raised(match: re.Match) -> str:
    sign = "^" if match.re is _RAISED else "_"
    return f"{sign}{{{unicodedata.normalize('NFKC', match[0]).translate(DASHES).strip('+')}}}"


def _scaled(match: re.Match) -> str:
    number = Fraction(match[1].replace(",", ""))
    for word in match[3].lower().split():
        number *= _SCALES[word.removesuffix("s")]
    return f"{number}{' ' + match[2] if match[2] and not match[4] else ''}"


def _power(match: re.Match, base: int, factor: Fraction = Fraction(1)) -> str:
    """factor * base^exponent as an integer or a fraction; what stood there where that is too long, or 0 to a minus."""
    exponent = int(match[2] or match[3])
    if abs(exponent) * len(str(base)) > 400 or (base == 0 and exponent < 0):
        return match[0]
    return str(factor * Fraction(base) ** exponent)


def _repeating(match: re.Match) -> str:
    r"""0.1\overline{6} as a fraction."""
    whole, once, again = match[1] or "0", match[2], match[3] or match[4]
    scale = 10 ** len(once)
    return str(Fraction(int(whole + once), scale) + Fraction(int(again), scale * (10 ** len(again) - 1)))


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
    words = bool(_TEXT.fullmatch(gold))  # "no" is a word there, not n times o
    given, gold = normalise(given), normalise(gold)
    if not given:
        return False
    words = words or _is_words(gold)
    if given == gold or (words and _words(given) == _words(gold)):
        return True
    numbers = _rational(given), _rational(gold)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if ":" in given + gold:
        return given.count(":") == gold.count(":") and all(map(same_answer, given.split(":"), gold.split(":")))
    if (
        "=" in given and not _names(gold) and not re.search(r"[,;]|\\text\{\s*(?:or|and)\b", given)
    ):  # every side is, but for names
        sides = [side for side in given.split("=") if not _names(side)]
        return bool(sides) and all(same_answer(side, gold) for side in sides)
    return not words and not _misleading(given, gold) and _verify(given, gold)


def normalise(answer: str) -> str:
    """`answer` with one spelling for what LaTeX can spell in many ways."""
    answer = answer.strip()
    if (bold := _BOLD.fullmatch(answer)) and _closing_brace(answer, bold.start(1)) == len(answer) - 1:
        answer = bold[1]
    if unit := _WITH_UNIT.fullmatch(_plain(answer)):
        answer = unit[1]
    number = as_number(answer)
    if number is not None:
        return str(number)
    answer = _LOWERED.sub(_raised, _RAISED.sub(_raised, answer.translate(_SIGNS)))
    answer = _ROOT.sub(lambda match: f"\\sqrt{'[3]' * (match[1] == '∛')}{{{match[2].strip('{}')}}}", answer)
    for symbol, latex in _SYMBOLS.items():
        answer = answer.replace(symbol, latex)
    if turned := _TURNED.fullmatch(answer):
        answer = f"{turned[2]}={turned[1]}"
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
    return re.fullmatch(r"\(?[A-Z]\)?|[A-Za-z]{3,}|[Nn]o", gold) is not None


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


def _names(formula: str) -> set[str]:
    r"""The variables of `formula`: its letters, and \theta and the like."""
    return set(re.findall(r"\\(?:theta|alpha|beta|phi|lambda|angle|overline)|[a-zA-Z]", _COMMAND.sub("", formula)))


def _misleading(given: str, gold: str) -> bool:
    """What math-verify must not see: explosive terms, another base (it drops indices), "4=5" (it reads 5), words (it
    drops them), a set for a point, X for x (they are one to it)."""
    if _HEAVY.search(given):
        return True
    base, gold_base = _BASE.search(given), _BASE.search(gold)
    if base and base[1] != (gold_base[1] if gold_base else "10"):
        return True
    if "=" in given and "=" not in gold and not _names(given.split("=")[0]):
        return True
    names = _names(given) | _names(gold)
    if any(name.swapcase() in names for name in names):
        return True
    words, gold_words = (set(_LEFT_WORDS.findall(side)) for side in (given, gold))
    return words != gold_words or {given[:1], gold[:2]} == {"(", r"\{"} or {given[:2], gold[:1]} == {"(", r"\{"}


def _verify(given: str, gold: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify  # imports sympy: seconds

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once a timeout, and whenever it has none
    main = os.name == "posix" and threading.current_thread() is threading.main_thread()
    seconds = TIMEOUT_SECONDS if main else None
    parsed = []
    for text in (gold, given):
        config = [LatexExtractionConfig()]
        parsed.append(parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=seconds))
    return all(parsed) and verify(parsed[0], parsed[1], timeout_seconds=seconds) and _agree(parsed[0][0], parsed[1][0])


def _agree(one, other) -> bool:
    """False where two answers that math-verify takes for equal differ in a value; True where that cannot be told."""
    import sympy

    equations = [side for side in (one, other) if isinstance(side, sympy.Equality)]
    if len(equations) == 2 and one.lhs != other.lhs:  # one may be the other turned round
        return True
    if equations:  # "x = 3", for "x = 3" or for 3
        one, other = (_value_of(side) if isinstance(side, sympy.Equality) else side for side in (one, other))
    if isinstance(one, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase):
        return one.shape == other.shape and all(map(_agree, one, other))
    if isinstance(one, sympy.FiniteSet) and isinstance(other, sympy.FiniteSet):
        return all(any(_agree(a, b) for b in other) for a in one) and all(any(_agree(a, b) for a in one) for b in other)
    if isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr):
        return _equal_values(one, other)
    parts = getattr(one, "args", ()), getattr(other, "args", ())
    return len(parts[0]) != len(parts[1]) or not parts[0] or all(map(_agree, *parts))


def _value_of(equation):
    return equation.lhs if equation.rhs.is_Symbol and not equation.lhs.is_Symbol else equation.rhs


def _equal_values(one, other) -> bool:
    import sympy

    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    at = {symbol: sympy.Rational(7 + 4 * k, 5 + 2 * k) for k, symbol in enumerate(symbols)}
    values = []
    for side in (one, other):
        exact = side.xreplace({number: sympy.Rational(str(number)) for number in side.atoms(sympy.Float)})
        values.append(exact.subs(at).doit())
    if all(value.is_Rational for value in values):
        return values[0] == values[1]
    first, second = (sympy.N(value, 60) for value in values)
    if not (first.is_number and second.is_number and first.is_finite and second.is_finite):
        return True
    size = max(abs(first), abs(second))
    return bool(
        abs(first - second) <= size * sympy.Float("1e-40") or (first * second == 0 and size < sympy.Float("1e-50"))
    )
