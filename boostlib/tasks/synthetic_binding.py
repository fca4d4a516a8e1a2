"""SYNTHETIC antibodies with a hidden rule: the protein task of the demo, made from a seed, no measurement behind it.

    prompt  "EVQLLESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQ...YYCAKGSRYWDGYFDYWGQGTLVTVSS"        answer  "1"

A heavy chain is a human germline V segment (IGHV3-23, IGHV1-69 or IGHV4-34; published sequences), a random third
complementarity-determining region (CDR-H3) of 8 to 18 residues and a J segment. Framework residues mutate at a rate of
3%, those of CDR-H1 and CDR-H2 at 15%.

The hidden rule, made up for this project: a chain "binds" where, in its CDR-H3,

    charge + 2 * pairs >= 1        charge: K and R count +1, D and E count -1
                                   pairs: neighbours of which one is aromatic (F, W, Y) and the other K or R

The charge is a matter of composition, which a linear probe can read off mean-pooled features; the pairs are a matter of
order, which it cannot. Every split is half binders. No two chains share a CDR-H3, in one split or across splits; the
frameworks are few, as in any antibody repertoire, so sequence identity between splits is high all the same.

Departures: none from a paper. The rule and the data's hash (see tests/tasks/test_binding.py) were fixed before any
tuning.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from boostlib.common.settings import Seed
from boostlib.common.stable import philox
from boostlib.tasks.base import Example, LabelTask
from boostlib.tasks.chains import AMINO_ACIDS

# frameworks (odd places) around CDR-H1 and CDR-H2
GERMLINES = {
    "IGHV3-23": ("EVQLLESGGGLVQPGGSLRLSCAAS", "GFTFSSYAMS", "WVRQAPGKGLEWVS", "AISGSGGSTYYADSVKG",
                 "RFTISRDNSKNTLYLQMNSLRAEDTAVYYCAK"),
    "IGHV1-69": ("QVQLVQSGAEVKKPGSSVKVSCKAS", "GGTFSSYAIS", "WVRQAPGQGLEWMG", "GIIPIFGTANYAQKFQG",
                 "RVTITADESTSTAYMELSSLRSEDTAVYYCAR"),
    "IGHV4-34": ("QVQLQQWGAGLLKPSETLSLTCAVY", "GGSFSGYYWS", "WIRQPPGKGLEWIG", "EINHSGSTNYNPSLKS",
                 "RVTISVDTSKNQFSLKLSSVTAADTAVYYCAR"),
}  # fmt: skip
ENDS = ("FDY", "MDV", "FDI", "FDP")  # of CDR-H3, from the J segments
TAIL = "WGQGTLVTVSS"
FRAMEWORK_RATE, LOOP_RATE = 0.03, 0.15
H3_LETTERS = "GYSDRATVLNPWFEKIHQM"
H3_WEIGHTS = (16, 14, 11, 9, 9, 6, 5, 5, 5, 3, 4, 3, 3, 3, 4, 3, 1, 1, 1)
MOST = 100_000  # chains of a split: they are made one by one
Size = Annotated[
    int, Field(ge=2, le=MOST, strict=True, description=f"a whole number of at least 2 (and at most {MOST:,})")
]
AROMATIC, BASIC, ACIDIC = frozenset("FWY"), frozenset("KR"), frozenset("DE")


@dataclass(frozen=True, kw_only=True)
class SyntheticBinding(LabelTask):
    """`train`, `validation` and `test` are the sizes of the splits, each half binders.

    Raises BoostError for a size or seed that is no whole number of at least 0 (splits: 2).
    """

    name: ClassVar[str] = "synthetic_binding"
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    train: Size = 320
    validation: Size = 96
    test: Size = 256
    seed: Seed = 0

    def load_split(self, name: str) -> list[Example]:
        """Made in the order test, validation, train: another size of `train` leaves the other two as they are."""
        stock = self._chains()
        dealt: dict[str, list[Example]] = {}
        for split in ("test", "validation", "train"):
            size = getattr(self, split)
            room = {True: size // 2, False: size - size // 2}
            dealt[split] = []
            for germline, h3, chain in stock:
                answer = self.label(h3)
                if answer is not None and room[answer]:
                    room[answer] -= 1
                    number = f"{split}-{len(dealt[split])}"
                    dealt[split].append(Example(number, chain, str(int(answer)), kind=germline))
                if not any(room.values()):
                    break
        return dealt[name]

    def middle(self, random: np.random.Generator) -> str:
        """A CDR-H3 without its residues of the J segment."""
        weights = np.array(H3_WEIGHTS) / sum(H3_WEIGHTS)
        return "".join(random.choice(list(H3_LETTERS), size=random.integers(5, 16), p=weights))

    def label(self, h3: str) -> bool | None:
        """Whether a chain with this CDR-H3 binds; None: it is left out."""
        return binds(h3)

    def _chains(self) -> Iterator[tuple[str, str, str]]:
        """(germline, CDR-H3, chain), without end, no CDR-H3 twice."""
        random, seen = philox(self.name, self.seed), set()
        while True:
            germline = list(GERMLINES)[random.integers(len(GERMLINES))]
            parts = [
                mutated(part, LOOP_RATE if place % 2 else FRAMEWORK_RATE, random)
                for place, part in enumerate(GERMLINES[germline])
            ]
            h3 = self.middle(random) + ENDS[random.integers(len(ENDS))]
            if h3 not in seen:
                seen.add(h3)
                yield germline, h3, "".join(parts) + h3 + TAIL


def mutated(part: str, rate: float, random: np.random.Generator) -> str:
    """`part` with every residue replaced by a random one at `rate`; cysteines and the invariant tryptophan stay."""
    hits = random.random(len(part)) < rate
    letters = random.choice(list(AMINO_ACIDS.replace("C", "")), size=len(part))
    return "".join(new if hit and old not in "CW" else old for old, new, hit in zip(part, letters, hits, strict=True))


def charge(h3: str) -> int:
    """Basic minus acidic residues."""
    return sum((letter in BASIC) - (letter in ACIDIC) for letter in h3)


def pairs(h3: str) -> int:
    """Neighbours of which one is aromatic and the other basic."""
    kinds = [(a in AROMATIC and b in BASIC) or (a in BASIC and b in AROMATIC) for a, b in zip(h3, h3[1:], strict=False)]
    return sum(kinds)


def binds(h3: str) -> bool:
    """The hidden rule."""
    return charge(h3) + 2 * pairs(h3) >= 1
