"""What the splits of a task share that they should not: complexes, and rows that are nearly equal."""

import logging
from collections.abc import Sequence
from itertools import combinations

from boostlib.tasks.base import Example, LabelTask
from boostlib.tasks.clusters import nearest

log = logging.getLogger(__name__)


def leaks(task: LabelTask, similarity: float = 0.5) -> list[dict]:
    """What two splits share, a row a pair of splits: complexes, and rows with a near-duplicate.

    `near duplicates` counts rows of the later split whose 3-mer similarity to some row of the earlier one is at least
    `similarity`; `closest` is the largest.
    """
    found = []
    for one, other in combinations(task.splits, 2):
        left, right = task.split(one), task.split(other)
        shared = {e.kind for e in left} & {e.kind for e in right} - {""}
        near = nearest([e.prompt for e in right], [e.prompt for e in left])
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
