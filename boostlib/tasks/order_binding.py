"""SYNTHETIC antibody loops whose hidden rule is one of order alone: composition says nothing, no measurement behind it.

    prompt  "YYCARTNWALKAYVFDYWGQG"        answer  "1"

A chain is the third heavy-chain loop of `synthetic_binding`'s antibodies (CDR-H3, 8 to 18 residues, the last three from
the J segment) with its neighbours: five residues of the V segment before it, four of the J segment behind. The hidden
rule, made up for this project, looks at the loop before its J residues and there at the order of its aromatic (a: F,
W, Y) and charged residues (c: D, E, K, R). Every loop has two of the one and one of the other; it "binds" where

    the charged residue lies between the aromatic ones        aca binds; caa and aac do not

Both classes have the same residues in the same numbers, so that composition is at chance; which residue stands before
which is a matter of pairs, so that a linear probe of mean-pooled states sees little of it.

Departures: none from a paper. data/runs/README.md has the criterion for such a rule, stated before any run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from boostlib.tasks.synthetic_binding import H3_LETTERS, H3_WEIGHTS, TAIL, Size, SyntheticBinding

AROMATIC, CHARGED = "FWY", "DEKR"
OTHERS = "".join(letter for letter in H3_LETTERS if letter not in AROMATIC + CHARGED)
ORDERS = {"aca": True, "aac": False, "caa": False}  # of the marked residues: whether the chain binds
BEFORE, BEHIND = 5, 4  # residues beside the loop


@dataclass(frozen=True, kw_only=True)
class OrderBinding(SyntheticBinding):
    """`train`, `validation` and `test` are the sizes of the splits, each half binders."""

    name: ClassVar[str] = "order_binding"
    train: Size = 1000
    validation: Size = 256
    test: Size = 512

    def middle(self, random: np.random.Generator) -> str:
        """Unmarked residues as frequent as `synthetic_binding` has them; marked ones at random places, in any order."""
        weights = np.array([H3_WEIGHTS[H3_LETTERS.index(letter)] for letter in OTHERS])
        letters = random.choice(list(OTHERS), size=random.integers(5, 16), p=weights / weights.sum())
        order = list(ORDERS)[random.integers(len(ORDERS))]
        places = sorted(random.choice(len(letters), size=len(order), replace=False))
        for place, kind in zip(places, order, strict=True):
            letters[place] = random.choice(list(AROMATIC if kind == "a" else CHARGED))
        return "".join(letters)

    def label(self, h3: str) -> bool | None:
        return ORDERS.get(marked(h3[:-3]))

    def _chains(self) -> Iterator[tuple[str, str, str]]:
        """(germline, CDR-H3, the loop with its neighbours), without end, no CDR-H3 twice."""
        for germline, h3, chain in super()._chains():
            start = len(chain) - len(TAIL) - len(h3)
            yield germline, h3, chain[start - BEFORE : start + len(h3) + BEHIND]


def marked(loop: str) -> str:
    """The loop's aromatic (a) and charged (c) residues, in order."""
    return "".join("a" if letter in AROMATIC else "c" for letter in loop if letter in AROMATIC + CHARGED)
