"""The basis: right numbers, the same bits every time, and never another model's."""

import logging
import os
import threading

import pytest
import torch
from helpers import disk_for
from safetensors.torch import save_file
from torch import nn

from boostlib import SVDBasis
from boostlib.basis import _triplets
from boostlib.common.errors import ModelError

SHAPES = [(96, 40), (40, 96), (48, 48), (130, 64)]  # tall, wide, square


class Blocks(nn.Module):
    """Linear layers of the given shapes (out, in) inside an nn.ModuleList."""

    def __init__(self, *shapes: tuple[int, int], seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=False) for o, i in shapes)
        for layer in self.layers:
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator)


def make(*shapes, rank=4, seed=0, cache="unused", **settings) -> SVDBasis:
    return SVDBasis.from_model(Blocks(*shapes, seed=seed), rank=rank, cache_dir=cache, **settings)


def equal(one: SVDBasis, other: SVDBasis) -> bool:
    return list(one) == list(other) and all(
        torch.equal(x, y) for name in one for x, y in zip(one[name], other[name], strict=True)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triplets_are_the_leading_svd(shape, dtype, tmp_path):
    model = Blocks(shape).to(dtype)
    u, s, vh = SVDBasis.from_model(model, rank=24, cache_dir=tmp_path)["layers.0"]
    weight = model.layers[0].weight.double()
    assert (u.shape, s.shape, vh.shape) == ((shape[0], 24), (24,), (24, shape[1]))
    assert {t.dtype for t in (u, s, vh)} == {torch.float32}
    torch.testing.assert_close(s.double(), torch.linalg.svdvals(weight)[:24], rtol=1e-5, atol=0)
    for columns in (u, vh.T):
        assert (columns.T @ columns - torch.eye(24)).abs().max() < 1e-5
    assert (weight @ vh.double().T - u.double() * s.double()).abs().max() < 1e-5 * s[0]
    assert (u.gather(0, u.abs().argmax(dim=0, keepdim=True)) > 0).all()  # the sign rule


@pytest.mark.parametrize("shape", [*SHAPES, (300, 61), (61, 300)])
def test_first_columns_have_the_same_bits_whatever_the_rank(shape, tmp_path):
    small, large = make(shape, rank=4, cache=tmp_path), make(shape, rank=12, cache=tmp_path)
    full = make(shape, rank=min(shape), cache=tmp_path)
    u, s, vh = small["layers.0"]
    for other in (large, full):
        first = other["layers.0"]
        assert torch.equal(u, first[0][:, :4]) and torch.equal(s, first[1][:4]) and torch.equal(vh, first[2][:4])
        assert small.hash(4) == other.hash(4)


def test_a_cache_hit_gives_equal_bits_without_computing(tmp_path, monkeypatch):
    first = make(*SHAPES, cache=tmp_path)
    monkeypatch.setattr("boostlib.basis._triplets", lambda *_: pytest.fail("computed again"))
    assert equal(first, make(*SHAPES, cache=tmp_path))
    assert equal(first, make(*SHAPES, rank=8, cache=tmp_path)) is False  # more columns of the same file
    assert not list(tmp_path.glob("*.tmp"))


def test_another_models_basis_is_never_used(tmp_path):
    fresh = make(*SHAPES, seed=1, cache=tmp_path / "other")
    make(*SHAPES, seed=0, cache=tmp_path)
    assert equal(make(*SHAPES, seed=1, cache=tmp_path), fresh)


def test_a_file_that_holds_another_models_basis_is_computed_anew(tmp_path):
    right, wrong = make(*SHAPES, cache=tmp_path / "a"), make(*SHAPES, seed=1, cache=tmp_path / "b")
    [mine], [theirs] = (tmp_path / "a").iterdir(), (tmp_path / "b").iterdir()
    os.replace(theirs, mine)
    assert equal(make(*SHAPES, cache=tmp_path / "a"), right)
    assert not equal(right, wrong)


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "no metadata"])
def test_a_damaged_cache_file_is_computed_anew(damage, tmp_path):
    right = make(*SHAPES, cache=tmp_path)
    [path] = tmp_path.iterdir()
    if damage == "no metadata":
        save_file({"x": torch.zeros(1)}, path)
    else:
        data = path.read_bytes()
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "garbage": b"x" * 100}[damage])
    assert equal(make(*SHAPES, cache=tmp_path), right)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("fault", ["no directory", "full disk", "cannot rename"])
def test_a_cache_that_cannot_be_written_costs_time_only(fault, tmp_path, monkeypatch, caplog):
    cache, room = tmp_path / "cache", 10**9
    if fault == "no directory":
        cache.touch()
    elif fault == "full disk":
        room = 1000
    else:
        monkeypatch.setattr("boostlib.basis.os.replace", _refuse)
    with caplog.at_level(logging.WARNING), disk_for(room):
        basis = make(*SHAPES, cache=cache / "basis")
    monkeypatch.undo()
    assert equal(basis, make(*SHAPES, cache=tmp_path / "good"))
    assert "basis not cached" in caplog.text
    assert not list(cache.rglob("*.*"))  # nothing half-written is left


def _refuse(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("rank", [0, -1, 41])
def test_rank_beyond_the_smallest_weight_names_it(rank, tmp_path):
    with pytest.raises(ModelError, match=rf"rank {rank} .*layers\.0 is \(96, 40\).*between 1 and 40"):
        make(*SHAPES, rank=rank, cache=tmp_path)


def test_numerically_deficient_weight_names_the_module_and_its_rank(tmp_path):
    model = Blocks((32, 32), (32, 24))
    generator = torch.Generator().manual_seed(1)
    model.layers[1].weight.data = torch.randn(32, 5, generator=generator) @ torch.randn(5, 24, generator=generator)
    with pytest.raises(ModelError, match=r"layers\.1 has numerical rank 5, fewer than the 6"):
        SVDBasis.from_model(model, rank=6, cache_dir=tmp_path)
    with pytest.raises(ModelError, match=r"layers\.1 has numerical rank 5"):  # from the cache as well
        SVDBasis.from_model(model, rank=6, cache_dir=tmp_path)
    assert SVDBasis.from_model(model, rank=5, cache_dir=tmp_path).rank == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value, tmp_path):
    model = Blocks((8, 8), (8, 8))
    model.layers[1].weight.data[0, 0] = value
    with pytest.raises(ModelError, match=r"layers\.1 are not finite"):
        SVDBasis.from_model(model, rank=2, cache_dir=tmp_path)


def test_zero_weight_is_an_error_not_nan(tmp_path):
    model = Blocks((8, 8))
    model.layers[0].weight.data.zero_()
    with pytest.raises(ModelError, match=r"layers\.0 has numerical rank 0"):
        SVDBasis.from_model(model, rank=2, cache_dir=tmp_path)
    assert all(torch.isfinite(t).all() for t in _triplets(model.layers[0].weight.detach(), 2))


def test_bits_do_not_depend_on_the_number_of_threads_and_that_number_stays(tmp_path):
    before = torch.get_num_threads()
    shapes = [(300, 200), (200, 300), (200, 200), (96, 40)]
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(make(*shapes, cache=tmp_path / str(threads)))
            assert torch.get_num_threads() == threads
            made_later: list[int] = []
            thread = threading.Thread(target=lambda made=made_later: made.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert made_later == [threads]
    finally:
        torch.set_num_threads(before)
    assert equal(*found)


def test_bits_do_not_depend_on_how_the_weights_lie(tmp_path):
    rows, columns = Blocks(*SHAPES), Blocks(*SHAPES)
    for layer in columns.layers:
        layer.weight.data = layer.weight.data.T.contiguous().T
    hashes = {SVDBasis.from_model(m, 8, cache_dir=tmp_path / str(i)).hash(8) for i, m in enumerate((rows, columns))}
    assert len(hashes) == 1
