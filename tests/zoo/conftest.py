"""The zoo's animals, and the page that is written from them."""

import gc
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from boostlib.release import card
from zoo import page
from zoo.checks import Animal
from zoo.kinds import KINDS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write the table of kinds to boostlib/models/README.md")


@pytest.fixture(scope="session")
def frozen() -> Iterator[None]:
    """Every round of training makes Python look through all that is imported, twice: here that costs as much as the
    round."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def animal(name, frozen, tiny_tokenizer, tiny_protein_tokenizer, tmp_path, monkeypatch) -> Animal:
    """The animal of kind `name`."""
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(card, "paired_bootstrap", partial(card.paired_bootstrap, resamples=100))  # of the model card
    kind = KINDS[name]
    return Animal(kind, tiny_protein_tokenizer if kind.encoder else tiny_tokenizer, tmp_path)


@pytest.fixture
def is_written(request: pytest.FixtureRequest) -> bool:
    """Whether the page is written when all is done, and what stands there now does not count."""
    return request.config.getoption("write_table", default=False)


@pytest.fixture
def is_on_page(is_written, request: pytest.FixtureRequest) -> Callable[[str, str], bool]:
    """is_on_page(name, row): whether the page has this row of a kind, or will have it."""

    def look(name: str, row: str) -> bool:
        if is_written:
            (request.config.cache.mkdir("zoo") / name).write_text(row)
            return True
        return page.written().get(name) == row

    return look


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The page is written once all processes are done."""
    config = session.config
    if config.getoption("write_table", default=False) and not hasattr(config, "workerinput"):
        page.write({path.name: path.read_text() for path in config.cache.mkdir("zoo").iterdir()})
