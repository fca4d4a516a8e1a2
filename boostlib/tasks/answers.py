"""Numbers in text: the part of scoring that all numeric tasks share.

    "#### 1,080"  ->  1080        "$-12.50."  ->  -25/2        "3/4 of it"  ->  3/4        "18"  is not  "1"

Rule: a number is a sign, digits (with commas by thousands), a decimal part and an integer denominator, taken as long
as they go, so that 13 is never read out of 13.5, 1,300 or 13/2. A period that no digit follows ends a sentence. Numbers
are exact fractions: 12.00 equals 12 and 0.333 does not equal 1/3. Percent and currency signs are dropped: 50% is 50.

Departures: no exponents ("1e3" reads as 1), no digits glued to letters before them ("x2" holds no number); a minus
that follows a digit or a closing bracket is a subtraction ("10-3" ends in 3).
"""

import re
from fractions import Fraction

_CURRENCY = r"\\?[$€£]"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_BELOW = r"(?:/(?P<below>[0-9]+)(?![0-9/]|\.[0-9]))?"
_NUMBER = rf"(?P<minus>(?<![\w)\]}}])-)?(?:{_CURRENCY})?(?P<digits>{_DIGITS}){_BELOW}"
_IN_TEXT = re.compile(rf"(?<![\w^]){_NUMBER}")
_ALONE = re.compile(rf"(?:{_CURRENCY})?{_NUMBER}\s*(?:\\?%)?\.?")
_THOUSANDS_MARK = re.compile(r"\{,\}|,\\!\s*")
_FRAC = re.compile(r"(?<![0-9}])\\[dt]?frac\s*\{(-?[0-9]+)\}\s*\{([0-9]+)\}(?![0-9{])")


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
