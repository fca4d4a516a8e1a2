"""The Gibbs predictor of a run: its recorded numbers with Gaussian noise on them, evaluated, for theory.py's bounds.

    w_t = v_t + sigma eps_t, eps_t ~ N(0, I), in every merged round t     nats = ln(q(w) / p(w)) = KL + <v, eps> / sigma

q: density of the noisy numbers, p: of the prior N(0, sigma^2 I). One draw is one model W0 + sum_t dW_t(w_t),
for which the single-draw bound of theory.py holds as it stands; the mean over a few draws only estimates the Gibbs
predictor's errors. eps is drawn by Philox from (seed, draw, round): the same for every sigma. What the data chose
(theory.py: a plan, which rounds were merged) is paid for in "choices", nats on top of these.
"""

import pandas as pd
import torch
from torch import nn

from boostlib.adapter import TinyLoRA
from boostlib.analysis.bounds import (
    gap_bound,
    gaussian_kl,
    kl_inverse,
    pac_bayes_nats,
    require_fixed_before_the_data,
    which_nats,
)
from boostlib.common.errors import BoostError, RunError
from boostlib.common.stable import philox
from boostlib.config import data_hash
from boostlib.evaluation.evaluate import evaluate
from boostlib.records.ledger import Ledger
from boostlib.run import rebuilt_rounds, replay_run
from boostlib.tasks.base import Task
from boostlib.update import LowRankUpdate


def noisy_scores(
    ledger: Ledger,
    model: nn.Module,
    tokenizer,
    task: Task,
    sigma: float,
    draws: int = 2,
    seed: int = 0,
    split: str = "test",
    progress: bool = True,
    choices: float = 0.0,
) -> pd.DataFrame:
    """Accuracy on the training problems and on `split`, one row a draw of the noise; the model ends untrained.

    model: the run's untrained model, or the one that `boost` gave back. Columns: sigma, draw, n (training problems),
    kl, nats (see above), choices (nats: those given, as `theory.plan_nats`, and `theory.which_nats` of the run), train,
    `split`. Raises RunError where `task` holds other problems than the run's, BoostError for a run whose plan or head
    came from the training data and was not paid for.
    """
    require_fixed_before_the_data(ledger, choices)
    for name in ("train", split):
        if data_hash(task, name) != ledger.header["identity"]["data"].get(name):
            raise RunError(
                f"{ledger.dir} was not run on these problems (split {name!r}): load the task of its run.json"
            )
    run = replay_run(ledger, -1, model)
    adapters, rows = list(rebuilt_rounds(ledger, run.basis, run.config.adapter, len(run.rounds))), []
    kl = gaussian_kl(sum(float(one.v.detach().double().square().sum()) for one in adapters), sigma)
    choices += which_nats(ledger.rounds)
    batch = ledger.header["identity"]["batch_size"]
    recorded = [one.v.detach().clone() for one in adapters]
    try:
        for draw in range(draws):
            pairs = zip(adapters, recorded, strict=True)
            nats = kl + sum(_shake(one, v, sigma, seed, draw) for one, v in pairs)
            run.weights.set(sum((one.update() for one in adapters), start=LowRankUpdate()))
            found = [evaluate(model, tokenizer, task, name, batch, progress=progress) for name in ("train", split)]
            rows.append((sigma, draw, len(found[0].ids), kl, nats, choices, *(result.accuracy for result in found)))
    finally:
        run.weights.set(LowRankUpdate())
    return pd.DataFrame(rows, columns=["sigma", "draw", "n", "kl", "nats", "choices", "train", split])


def certify(
    scores: pd.DataFrame, delta: float = 0.05, split: str = "test", choices: float = 0.0, together: int = 1
) -> pd.DataFrame:
    """`noisy_scores` with what is promised of each draw's model: single-draw bounds, all rows together at 1 - delta.

    Adds "gap" (train minus `split`), "pinsker" and "tight" (bounds on train minus true accuracy, the second by the
    inverse of kl) and "at least" (the true accuracy that is promised). The column "choices" is paid for; choices: nats
    on top of it, as ln((T + 1)(T + 2)) where the number T of rounds was chosen after looking. together: as in
    `theory.gap_table`. Raises BoostError for a table without "choices".
    """
    if "choices" not in scores:
        raise BoostError('these scores have no column "choices": make them anew with noisy_scores, it says what to pay')
    share, rows = delta / len(scores), []
    for row in scores.to_dict("records"):
        n = row["n"] // together
        nats, error = max(0.0, pac_bayes_nats(row["nats"] + row["choices"] + choices, n, share)), 1 - row["train"]
        at_least = 1 - kl_inverse(error, nats / n)
        rows.append((row["train"] - row[split], gap_bound(nats, n), row["train"] - at_least, at_least))
    return scores.join(pd.DataFrame(rows, columns=["gap", "pinsker", "tight", "at least"], index=scores.index))


def _shake(adapter: TinyLoRA, v: torch.Tensor, sigma: float, seed: int, draw: int) -> float:
    """Set the adapter's numbers to v + sigma eps; returns <v, eps> / sigma, nats."""
    eps = torch.from_numpy(philox("gibbs", seed, draw, adapter.round).standard_normal(tuple(v.shape)))  # fp64
    adapter.v.data.copy_(v + sigma * eps)
    return float((v.double() * eps).sum()) / sigma
