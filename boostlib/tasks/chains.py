"""Amino-acid chains: how they are written in a prompt, checked, and cut to a length.

    "EVQLVESGG...,DIQMTQSPS...|MKTAYIAKQ..."      chains of one side joined by ",", ligand and receptor by "|"

Rule: the 20 amino acids and the letters that databases use beside them (X unknown, B D-or-N, Z E-or-Q, U
selenocysteine, O pyrrolysine), in upper case. Chains that are too long together lose their ends evenly: the longest are
cut first, to one common length, so that a short peptide beside a long receptor stays whole.
"""

import re
from collections.abc import Sequence

from boostlib.common.errors import DataError

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
LETTERS = frozenset(AMINO_ACIDS + "XBZUO")
# what tables write where a chain is missing and whose letters could be a peptide's
MISSING = frozenset(
    ("NA", "NAN", "NAT", "NONE", "NULL", "NIL", "INF", "EMPTY", "BLANK", "VOID", "MISSING", "UNKNOWN", "UNDEFINED",
     "UNAVAILABLE", "NOTAVAILABLE", "NOTFOUND", "ABSENT", "TBD", "TBA", "PENDING", "FALSE", "TRUE")
)  # fmt: skip


def split_prompt(prompt: str) -> list[str]:
    """All chains of a prompt, ligand's first."""
    return re.split(r"[,|]", prompt)


def read_chains(text: str, where: str) -> str:
    """The comma-separated chains of one side without blanks, in upper case.

    Raises DataError, beginning with `where`, for an empty chain, a letter that is no amino acid, or a word such as
    "nan" that stands for a missing chain (a peptide of these letters is refused with it).
    """
    chains = ["".join(chain.split()) for chain in text.split(",")]
    if not all(chains):
        missing = "no chain at all" if not any(chains) else f"chain {chains.index('') + 1} of {len(chains)} is empty"
        raise DataError(f"{where}: {missing}; give amino acids such as EVQLVESGG, chains parted by one comma")
    for number, chain in enumerate(chains, 1):
        if chain.upper() in MISSING or set(chain.upper()) == {"X"}:
            raise DataError(
                f"{where}: chain {number} is {chain!r}, which stands for a missing one: remove the row or give it"
            )
        for place, letter in enumerate(chain, 1):
            if not letter.isascii() or letter.upper() not in LETTERS:
                raise DataError(
                    f"{where}: {letter!r}, residue {place} of chain {number}, is no amino acid; "
                    f"known: {AMINO_ACIDS}, and X, B, Z, U, O"
                )
    return ",".join(chains).upper()


def cut_evenly(chains: Sequence[str], most: int) -> list[str]:
    """The chains with at most `most` residues in all: the longest lose their ends, down to one common length
    or, where that leaves room, one residue more.

    Raises DataError where not even one residue a chain would be left.
    """
    if most < len(chains):
        raise DataError(f"{len(chains)} chains do not fit into {most} residues: raise max_length")
    left, lengths = most, {}
    for done, index in enumerate(sorted(range(len(chains)), key=lambda i: len(chains[i]))):
        lengths[index] = min(len(chains[index]), left // (len(chains) - done))
        left -= lengths[index]
    return [chain[: lengths[index]] for index, chain in enumerate(chains)]
