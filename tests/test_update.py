"""Thin factors and merging: nothing is rounded twice, nothing drifts, everything can be taken back."""

import pytest
import torch
from torch import nn

from boostlib import AdapterConfig, LowRankUpdate, SVDBasis, TinyLoRA
from boostlib.update import Weights


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Pair(nn.Module):
    """Two small linears, with seeded weights of `dtype`."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.one, self.two = nn.Linear(12, 20, bias=False), nn.Linear(20, 9, bias=False)
        for i, layer in enumerate((self.one, self.two)):
            layer.weight.data = (0.1 * randn(i, *layer.weight.shape)).to(dtype)


def update(seed: int, scale: float = 0.01, names=("one", "two")) -> LowRankUpdate:
    shapes = {"one": (20, 12), "two": (9, 20)}
    return LowRankUpdate({n: (scale * randn(seed, shapes[n][0], 2), randn(seed + 1, 2, shapes[n][1])) for n in names})


def dense(one: LowRankUpdate) -> dict[str, torch.Tensor]:
    return {name: b.double() @ a.double() for name, (b, a) in one.items()}


def test_sum_concatenates_factors_and_rounds_nothing():
    total = update(0) + update(5, names=("two",)) + update(9)
    assert total["one"][0].shape == (20, 4) and total["two"][1].shape == (6, 20)
    for name, value in dense(total).items():
        parts = [dense(u)[name] for u in (update(0), update(5, names=("two",)), update(9)) if name in u]
        torch.testing.assert_close(value, sum(parts), rtol=0, atol=1e-12)
    assert torch.equal(total["one"][0][:, :2], update(0)["one"][0])
    assert list(LowRankUpdate() + update(0)) == list(update(0) + LowRankUpdate()) == ["one", "two"]


def test_sum_leaves_its_parts_alone():
    one, other = update(0), update(5)
    _ = one + other
    assert one["one"][0].shape == (20, 2) and torch.equal(other["two"][1], update(5)["two"][1])


def test_norm_is_the_frobenius_norm_of_all_weights_together():
    total = update(0, 1.0) + update(3, 0.1)
    expected = sum(float(value.square().sum()) for value in dense(total).values()) ** 0.5
    assert total.norm() == pytest.approx(expected, rel=1e-9)
    assert LowRankUpdate().norm() == 0.0
    assert update(0, 0.0).norm() == 0.0


def test_norm_of_updates_that_cancel_is_a_small_real_number():
    for seed in range(20):
        b, a = update(seed, 0.3)["one"]
        norm = LowRankUpdate({"one": (torch.cat([b, -b], 1), torch.cat([a, a]))}).norm()
        assert isinstance(norm, float) and 0 <= norm < 1e-6


def test_save_and_load_give_the_same_bits(tmp_path):
    total = update(0) + update(4)
    total.save(tmp_path / "update.safetensors")
    again = LowRankUpdate.load(tmp_path / "update.safetensors")
    assert set(again) == set(total)
    assert all(torch.equal(x, y) for n in total for x, y in zip(total[n], again[n], strict=True))


def test_an_adapters_update_can_be_saved(tiny_llama, tmp_path):
    basis = SVDBasis.from_model(tiny_llama(), rank=4, cache_dir=tmp_path)
    adapter = TinyLoRA(basis, AdapterConfig(n_tie=7), round=1)
    adapter.v.data.fill_(0.5)
    adapter.update().save(tmp_path / "update.safetensors")
    again = LowRankUpdate.load(tmp_path / "update.safetensors")
    assert again.norm() == adapter.update().norm() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_hold_the_cast_of_the_fp32_sum(dtype):
    model, w0 = Pair(dtype), {n: m.weight.detach().clone() for n, m in Pair(dtype).named_children()}
    total = update(0) + update(3)
    Weights(model, ["one", "two"]).set(total)
    for name, module in model.named_children():
        exact = w0[name].double() + dense(total)[name]
        assert module.weight.dtype == dtype
        step = 2**-23 if dtype == torch.float32 else 2**-8  # half a unit in the last place
        assert ((module.weight.double() - exact).abs() <= step * exact.abs() + 1e-8).all()
        b, a = total[name]
        assert torch.equal(module.weight, torch.addmm(w0[name].float(), b, a).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_one_by_one_equals_setting_at_once(dtype):
    stepwise, at_once = Pair(dtype), Pair(dtype)
    weights, total = Weights(stepwise, ["one", "two"]), LowRankUpdate()
    for t in range(20):
        weights.merge(update(t))
        total = total + update(t)
    Weights(at_once, ["one", "two"]).set(total)
    for (name, one), other in zip(stepwise.named_parameters(), at_once.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert all(torch.equal(x, y) for n in total for x, y in zip(total[n], weights.update[n], strict=True))


def test_rollback_to_nothing_gives_w0_bit_for_bit():
    model, w0 = Pair(torch.bfloat16), Pair(torch.bfloat16).state_dict()
    weights = Weights(model, ["one", "two"])
    for t in range(5):
        weights.merge(update(t, 1.0))
    assert not torch.equal(model.one.weight, w0["one.weight"])
    weights.set(LowRankUpdate())
    assert all(torch.equal(tensor, w0[name]) for name, tensor in model.state_dict().items())
    assert len(weights.update) == 0


def test_a_weight_outside_the_update_is_untouched():
    model = Pair()
    before = model.two.weight.detach().clone()
    Weights(model, ["one", "two"]).merge(update(0, names=("one",)))
    assert torch.equal(model.two.weight, before)


def test_w0_is_a_copy_of_its_own():
    model = Pair()
    weights = Weights(model, ["one", "two"])
    pointer = model.one.weight.data_ptr()
    weights.merge(update(0))
    assert torch.equal(weights.w0["one"], Pair().one.weight)
    assert model.one.weight.data_ptr() == pointer  # written in place: an optimizer or a compiled graph keeps its tensor


def test_fold_retention_is_one_in_fp32_and_small_for_a_tiny_bf16_step():
    assert Weights(Pair(), ["one", "two"]).merge(update(0)) == pytest.approx(1, abs=1e-3)
    coarse = Weights(Pair(torch.bfloat16), ["one", "two"]).merge(update(0, 1e-6))
    assert abs(coarse) < 0.3
    large = Weights(Pair(torch.bfloat16), ["one", "two"]).merge(update(0, 1.0))
    assert large == pytest.approx(1, abs=0.01)


def test_fold_retention_of_a_later_round_counts_that_round_alone():
    weights = Weights(Pair(), ["one", "two"])
    weights.merge(update(0, 1.0))
    assert weights.merge(update(7, 0.05)) == pytest.approx(1, abs=1e-3)


def test_a_zero_update_is_kept_whole():
    model = Pair(torch.bfloat16)
    assert Weights(model, ["one", "two"]).merge(update(0, 0.0)) == 1.0
    assert torch.equal(model.one.weight, Pair(torch.bfloat16).one.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_of_a_fold_are_used_again_but_never_by_a_fold_inside_it(dtype):
    model = Pair(dtype)
    weights = Weights(model, ["one", "two"])
    fresh = {seed: weights.value("one", update(seed)) for seed in (0, 9)}
    with weights.holding(update(0)):
        first = model.one.weight.data_ptr()
        with weights.holding(update(9)):
            assert torch.equal(model.one.weight, fresh[9])
            assert model.one.weight.data_ptr() != first
        assert torch.equal(model.one.weight, fresh[0])
    with weights.holding(update(9, names=("one",))):
        assert model.one.weight.data_ptr() == first
        assert torch.equal(model.one.weight, fresh[9])
        assert torch.equal(model.two.weight, weights.w0["two"])
    assert torch.equal(model.one.weight, weights.w0["one"])


def test_a_fold_after_the_model_was_cast_starts_afresh():
    model = Pair(torch.bfloat16)
    weights = Weights(model, ["one", "two"])
    with weights.holding(update(0)):
        pass
    model.float()
    with weights.holding(update(0)):
        assert model.one.weight.dtype == torch.float32
        exact = weights.w0["one"].double() + dense(update(0))["one"]
        torch.testing.assert_close(model.one.weight.double(), exact, rtol=0, atol=1e-6)


def test_folded_weights_lie_as_w0_does_and_have_the_same_bits_either_way():
    rows, columns = Pair(), Pair()
    for layer in (columns.one, columns.two):
        layer.weight.data = layer.weight.data.T.contiguous().T
    values, retained = {}, set()
    for model in (rows, columns):
        weights = Weights(model, ["one", "two"])
        for _ in range(2):  # the second in tensors that are used again
            with weights.holding(update(3)):
                values[model] = model.one.weight.clone(), model.two.weight.clone()
                assert model.one.weight.stride() == weights.w0["one"].stride()
        retained.add(weights.merge(update(3)))
        assert torch.equal(model.one.weight, values[model][0])
        assert model.one.weight.stride() == weights.w0["one"].stride()
    assert all(torch.equal(a, b) for a, b in zip(values[rows], values[columns], strict=True))
    assert len(retained) == 1
    assert columns.one.weight.stride() == (1, 20) and rows.one.weight.stride() == (12, 1)
