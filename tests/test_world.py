"""Several processes on one run: spread work, agreement, and errors that nobody waits for."""

import pytest
from ranks import together

from boostlib import world
from boostlib.errors import DataError, RunError


def basics(n):
    def work(part):
        return [item * 10 for item in part]

    def fails(part):
        if 1 in part:
            raise DataError("item 1 is broken")
        return part

    found = {"spread": world.spread(list(range(n)), work), "main": world.on_main(world.is_main), "size": world.size()}
    try:
        world.spread([0, 1, 2], fails)
    except DataError as error:
        found["error"] = str(error)
    return found


@pytest.mark.parametrize("n", [0, 1, 5])
def test_basics(n):
    for found in together(basics, n):
        assert found == {"spread": [10 * i for i in range(n)], "main": True, "size": 2, "error": "item 1 is broken"}
