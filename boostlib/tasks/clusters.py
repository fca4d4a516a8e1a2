"""Which sequence sets resemble each other, and splits that keep what resembles on one side.

    similarity of two texts = cosine of their sets of 3-mers

At a share p of identical residues about p^3 of the 3-mers are common, so 0.5 stands for some 80% identity and 0.73 for
90%. It needs no alignment, and it says nothing about remote homologues: for those use a tool such as MMseqs2 and put
its split into the file. Clusters are single linkage: whoever resembles one member belongs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from boostlib.common.stable import philox

ROWS = 512  # compared at a time: bounds the memory


def clusters(texts: Sequence[str], similarity: float) -> np.ndarray:
    """(n,) cluster of every text; texts of at least `similarity` share one."""
    table = _kmers(texts)
    links = [(start + i, j) for start, i, j in _close(table, table, similarity)]
    rows, columns = (np.concatenate(part) for part in zip(*links, strict=True))
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(texts), len(texts)))
    return connected_components(graph, directed=False)[1]


def nearest(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """(n,) similarity of each text to the most similar one of `others`."""
    table = _kmers([*texts, *others])
    mine, theirs = table[: len(texts)], table[len(texts) :]
    parts = [(mine[i : i + ROWS] @ theirs.T).max(axis=1).toarray().ravel() for i in range(0, len(texts), ROWS)]
    return np.concatenate(parts)


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


def _kmers(texts: Sequence[str]) -> csr_matrix:
    """(n, k-mers) rows of length 1."""
    return normalize(CountVectorizer(analyzer="char", ngram_range=(3, 3), binary=True).fit_transform(texts), copy=False)


def _close(table: csr_matrix, others: csr_matrix, least: float) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first row, rows from there, columns) of the pairs that are at least that similar."""
    for start in range(0, table.shape[0], ROWS):
        rows, columns = ((table[start : start + ROWS] @ others.T) >= least - 1e-9).nonzero()
        yield start, rows, columns
