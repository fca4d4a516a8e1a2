"""What a run spans after every round, from its ledger alone, against dense linear algebra on the run's own weights."""

import numpy as np
import pytest
import torch
from helpers import FakeTrainer, ParityTask, config

from boostlib import Ledger, LowRankUpdate, boost, effective_rank, epsilon_rank
from boostlib.analysis.growth import EPS, growth_summary, growth_table, recorded_updates, spectra
from boostlib.common.errors import BoostError
from boostlib.experiments.methods import finetune
from boostlib.plots import rank as plots_rank
from boostlib.run import Run


@pytest.fixture
def grown(tiny_llama, tiny_tokenizer, tmp_path):
    """`grown(rounds, **settings)`: (ledger, untrained model, boosted model) of a finished run."""

    def build(rounds: int = 4, trainer=None, **settings):
        model = tiny_llama()
        run = boost(
            model,
            tiny_tokenizer,
            ParityTask(),
            trainer or FakeTrainer(),
            config(rounds, **settings),
            tmp_path / f"run{len(list(tmp_path.iterdir()))}",
            progress=False,
        )
        return run.ledger, tiny_llama(), model

    return build


@pytest.mark.parametrize(("strategy", "ranks"), [("rotate", [2, 4, 6, 8]), ("top", [2, 2, 2, 2])])
def test_exact_rank_by_round_in_every_weight(grown, strategy, ranks):
    ledger, untrained, _ = grown(strategy=strategy)
    table = growth_table(recorded_updates(ledger, untrained))
    assert len(table) == 4 * 14
    for t, rank in enumerate(ranks, start=1):
        assert (table[table.rounds == t].exact == rank).all()


def test_every_column_is_that_of_the_summed_update(grown):
    ledger, untrained, boosted = grown(3)
    updates = recorded_updates(ledger, untrained)
    last = growth_table(updates).query("rounds == 3").set_index("module")
    total = sum(updates, start=LowRankUpdate())
    before = dict(untrained.named_parameters())
    for name, module in boosted.named_modules():
        if name in total:
            torch.testing.assert_close(before[f"{name}.weight"] + total[name][0] @ total[name][1], module.weight)
            for eps in EPS:
                assert last.loc[name, eps] == epsilon_rank(*total[name], eps)
            assert last.loc[name, "effective"] == pytest.approx(effective_rank(*total[name]))


def test_a_skipped_round_is_not_counted_and_adds_nothing(grown):
    ledger, untrained, _ = grown(4, trainer=FakeTrainer(skip=(1,)))
    table = growth_table(recorded_updates(ledger, untrained))
    assert table.rounds.max() == 3
    assert (table[table.rounds == 3].exact == 6).all()


def test_a_boosted_model_is_refused_once_its_run_is_gone(grown):
    ledger, _, boosted = grown(3)
    with pytest.raises(BoostError, match="not the model that .* started from"):
        recorded_updates(ledger, boosted)


def test_a_boosted_model_goes_back_to_w0_while_its_run_is_kept(tiny_llama, tiny_tokenizer, tmp_path):
    boosted, untrained = tiny_llama(), tiny_llama()
    run = boost(boosted, tiny_tokenizer, ParityTask(), FakeTrainer(), config(3), tmp_path / "run", progress=False)
    wanted, found = recorded_updates(run.ledger, untrained), recorded_updates(run.ledger, boosted)
    assert len(found) == 3
    for ours, theirs in zip(found, wanted, strict=True):
        assert all(torch.equal(a, b) for name in theirs for a, b in zip(ours[name], theirs[name], strict=True))
    before = dict(untrained.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in boosted.named_parameters())


def test_the_summary_gives_median_and_range():
    import pandas as pd

    table = pd.DataFrame({"rounds": [1] * 3 + [2] * 3, "module": list("abc") * 2, "exact": [2, 2, 2, 4, 4, 4],
                          0.1: [1, 1, 2, 1, 3, 4], "effective": [1.0, 1.5, 2.0, 1.0, 2.5, 3.25]})  # fmt: skip
    row = growth_summary({"some": table}).loc["some"]
    assert (row["merged rounds"], row["exact rank"], row["eps 0.1"]) == (2, "4 (4 to 4)", "3 (1 to 4)")
    assert row["effective"] == "2.5 (1.0 to 3.2)"


def test_spectra_start_at_one_and_end_with_the_rank():
    b, a = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), torch.eye(5, 12)
    found = spectra(LowRankUpdate({"one": (b, a), "two": (b[:, :2], a[:2])}))
    dense = np.linalg.svd((b @ a).numpy().astype(float), compute_uv=False)[:5]
    np.testing.assert_allclose(found[0], dense / dense[0], rtol=1e-6)
    assert found[1, 0] == 1 and (found[1, 2:] == 0).all()


def test_a_run_of_all_weights_has_no_adapters_to_rebuild(tiny_llama, tiny_tokenizer, tmp_path):
    class Nudge(FakeTrainer):
        def train(self, subject, examples, adapter=None, seed=0):
            with torch.no_grad():
                next(subject.model.parameters()).add_(0.01)
            from boostlib.records.rows import Training

            return Training(steps=1)

    finetune(Run(tiny_llama(), tiny_tokenizer, ParityTask(), Nudge(), config(1)), tmp_path / "full")
    with pytest.raises(BoostError, match="all weights"):
        recorded_updates(Ledger(tmp_path / "full"), tiny_llama())


def test_figures_draw_the_tables(grown):
    ledger, untrained, _ = grown(3)
    updates = recorded_updates(ledger, untrained)
    table = growth_table(updates)
    ax = plots_rank.plot_growth({"rotate": table, "once": table[table.rounds == 1]}, "exact")
    assert list(ax.lines[0].get_ydata()) == [2, 4, 6]
    assert {text.get_text() for text in ax.texts} == {"rotate", "once"}
    ax = plots_rank.plot_eps(table)
    assert {text.get_text() for text in ax.texts} == {"exact", "eps = 0.1", "eps = 0.01", "eps = 0.001", "effective"}
    total = sum(updates, start=LowRankUpdate())
    ax = plots_rank.plot_spectra({"rotate": spectra(total)})
    assert len(ax.lines[0].get_ydata()) == 6 and ax.lines[0].get_ydata()[0] == 1
