"""What the tasks made from a seed share: sizes as settings, and dealing distinct problems to the splits.

    groups [[7 + 5, 5 + 7], [9 - 3], ...]  ->  {"test": [5 + 7, 7 + 5, ...], "dev": [...], "train": [...]}

Rule: problems that are one but for the order of their numbers form a group, and a group goes to one split. `test` is
dealt first, then `dev`, then `train`: another size of `train` leaves the other two as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from boostlib.common.errors import BoostError
from boostlib.common.settings import Seed, Whole
from boostlib.common.stable import philox
from boostlib.tasks.base import Example, TextTask

T = TypeVar("T")
DEALING_ORDER = ("test", "dev", "train")


@dataclass(frozen=True, kw_only=True)
class GeneratedTask(TextTask):
    """`train`, `dev` and `test` are the sizes of the splits; a split of size 0 does not exist.

    Raises BoostError for a size or seed that is no whole number of at least 0.
    """

    train: Whole = 256
    dev: Whole = 256
    test: Whole = 256
    seed: Seed = 0

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "dev", "test") if getattr(self, split))

    def sizes(self) -> dict[str, int]:
        return {split: getattr(self, split) for split in DEALING_ORDER}

    def shuffled(self, examples: Sequence[Example], split: str) -> list[Example]:
        order = philox(self.name, self.seed, split, "order").permutation(len(examples))
        return [examples[i] for i in order]


def deal(groups: list[list[T]], sizes: dict[str, int], what: str, seed: int) -> dict[str, list[T]]:
    """Shuffled groups, handed to one split after the other; what of a group exceeds a split's size is dropped.

    Raises BoostError, with the numbers asked for and there, when the groups run out.
    """
    random = philox(what, seed)
    stock = iter([groups[i] for i in random.permutation(len(groups))])
    dealt: dict[str, list[T]] = {split: [] for split in sizes}
    for split, size in sizes.items():
        while len(dealt[split]) < size:
            group = next(stock, None)
            if group is None:
                exist = sum(map(len, groups))
                raise BoostError(
                    f"{what}: {sum(sizes.values())} problems needed for {', '.join(sizes)} together, but only {exist} "
                    f"exist, and one and its mirror image (7 + 5, 5 + 7) share a split; ask for smaller splits"
                )
            members = [group[i] for i in random.permutation(len(group))]
            dealt[split] += members[: size - len(dealt[split])]
    return dealt
