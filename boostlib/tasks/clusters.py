"""Which sequences resemble each other: splits that keep them on one side, and what given splits share all the same.

    similarity of two texts = cosine of their sets of 3-mers

At a share p of identical residues about p^3 of the 3-mers are common, so 0.5 stands for some 80% identity and 0.73 for
90%. It needs no alignment, and it says nothing about remote homologues: for those use a tool such as MMseqs2 and put
its split into the file. Clusters are single linkage: whoever resembles one member belongs.
"""

import logging
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import pairwise_distances_argmin_min

from boostlib.common.stable import philox
from boostlib.tasks.base import Example, LabelTask

log = logging.getLogger(__name__)

ROUNDING = 1e-9  # similarities that equal a threshold but for their last bits reach it


def clusters(texts: Sequence[str], similarity: float) -> np.ndarray:
    """(n,) cluster of every text; texts of at least `similarity` share one."""
    distance = max(1 - similarity, 0) + ROUNDING
    found = DBSCAN(eps=distance, min_samples=1, metric="cosine").fit_predict(_kmers(texts))  # of 1: single linkage
    alone = found < 0  # too short to hold a 3-mer: not even like themselves
    found[alone] = found.max() + 1 + np.arange(alone.sum())
    return found


def nearest(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """(n,) similarity of each text to the most similar one of `others`."""
    table = _kmers([*texts, *others])
    return 1 - pairwise_distances_argmin_min(table[: len(texts)], table[len(texts) :], metric="cosine")[1]


def split_by_cluster(labels: np.ndarray, shares: dict[str, float], seed: int) -> list[str]:
    """A split name for every row, whole clusters together, sizes near `shares`.

    The clusters come in random order, and each goes to the split that lacks most of its share.
    """
    names, (kinds, sizes) = list(shares), np.unique(labels, return_counts=True)
    lacking = {name: share * len(labels) for name, share in shares.items()}
    order = philox("clusters", seed).permutation(len(kinds))
    place = {}
    for k in sorted(order, key=lambda k: -sizes[k]):  # stable: random among equals
        name = max(names, key=lambda name: lacking[name])
        place[kinds[k]] = name
        lacking[name] -= sizes[k]
    return [place[label] for label in labels]


def leaks(task: LabelTask, similarity: float = 0.5) -> list[dict]:
    """What two splits share, a row a pair of splits: complexes, and rows with a near-duplicate.

    `near duplicates` counts rows of the later split whose 3-mer similarity to some row of the earlier one is at least
    `similarity`; `closest` is the largest.
    """
    found = []
    for one, other in combinations(task.splits, 2):
        left, right = task.split(one), task.split(other)
        shared = {e.kind for e in left} & {e.kind for e in right} - {""}
        near = nearest([str(e.prompt) for e in right], [str(e.prompt) for e in left])
        found.append(
            {
                "splits": f"{one}, {other}",
                "shared complexes": len(shared),
                "near duplicates": int((near >= similarity).sum()),
                "of": len(right),
                "closest": float(near.max()),
            }
        )
    return found


def warn_of_shared(placed: Sequence[tuple[Example, str]]) -> None:
    """The file's split is kept all the same: it is the user's, or a published one."""
    sides: dict[str, set[str]] = {}
    for example, split in placed:
        sides.setdefault(example.kind, set()).add(split)
    shared = [group for group, splits in sides.items() if group and len(splits) > 1]
    if shared:
        log.warning(
            "binding: %d complexes (%s, ...) lie in more than one split, so held-out accuracy flatters; leave the "
            "split column out to have the rows split by sequence clusters",
            len(shared),
            shared[0],
        )


def _kmers(texts: Sequence[str]) -> csr_matrix:
    """(n, k-mers) of 0 and 1."""
    return CountVectorizer(analyzer="char", ngram_range=(3, 3), binary=True).fit_transform(texts)
