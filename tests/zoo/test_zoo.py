"""Every kind of model is right in every step, or refused with its reason when a run begins; nothing else."""

import re
from collections.abc import Iterator

import pytest

from zoo import page
from zoo.checks import Animal, checks_of
from zoo.expected import PARTLY, REFUSED
from zoo.kinds import KINDS


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_right_or_refused_and_the_page_says_so(animal, name, is_on_page):
    """All of one kind in one test: its models and its run are made once, whichever process they come to."""
    wrong = [f"{check}: {problem}" for check in checks_of(animal.kind) if (problem := problem_of(animal, check))]
    row = page.row(animal)
    if not is_on_page(name, row):
        wrong.append(f"the page says otherwise, `pytest tests/zoo --write-table` writes it anew: {row}")
    assert not wrong, "\n".join(wrong)


def problem_of(animal: Animal, check: str) -> str:
    """What is wrong with an outcome; "" for nothing."""
    name = animal.kind.name
    try:
        outcome = animal.outcome(check)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if outcome.refusal is None:
        if name in REFUSED and check == "rounds":
            return "it trains, and should be refused"
        return "" if animal.passes(check) else f"off by {outcome.error:.1e}"
    wanted = REFUSED.get(name) or PARTLY.get((name, check))
    if not wanted:
        return f"refused, and should not be: {outcome.refusal}"
    if not re.search(wanted, outcome.refusal):
        return f"refused for another reason than {wanted!r}: {outcome.refusal}"
    if name in REFUSED and check == "rounds" and animal.run_dir.exists():
        return "refused when training had begun"
    return ""


def test_the_page_has_these_kinds_in_this_order(is_written):
    assert is_written or list(page.written()) == page.in_order()


def test_what_is_expected_is_of_these_kinds():
    def named() -> Iterator[str]:
        yield from REFUSED
        yield from (name for name, _ in PARTLY)

    assert not set(named()) - set(KINDS)
