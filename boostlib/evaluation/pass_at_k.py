"""pass@k: how often at least one of k samples is right (Chen et al. 2021, arXiv 2107.03374, section 2.1).

    pass@k = mean over problems of 1 - C(n - c, k) / C(n, k)      n samples of a problem, c of them right

Unbiased for every k <= n, unlike 1 - (1 - c/n)^k. pass@1 of greedy decoding is `evaluate(...).accuracy`.
"""

from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from boostlib.common.errors import BoostError
from boostlib.evaluation.generate import generate, prompts_of
from boostlib.evaluation.sample import Draws
from boostlib.models.subject import Subject
from boostlib.tasks.base import Example

PROBLEMS = 8  # sampled together


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """The estimate for samples `correct`, (problems, n) bool. Raises BoostError unless 1 <= k <= n."""
    correct = np.asarray(correct, dtype=bool)
    n = correct.shape[1]
    if not 1 <= k <= n:
        raise BoostError(f"pass@{k} of {n} samples a problem: k must be between 1 and {n}; draw more samples")
    wrong = n - correct.sum(axis=1)  # (problems,)
    steps = np.arange(k)
    none_right = np.prod(np.clip(wrong[:, None] - steps, 0, None) / (n - steps), axis=1)  # C(wrong, k) / C(n, k)
    return float(1.0 - none_right.mean())


def sample_correct(
    subject: Subject, examples: Sequence[Example], samples: int = 10, temperature: float = 0.8, seed: int = 0
) -> np.ndarray:
    """Which of `samples` completions of each problem are right: (problems, samples) bool."""
    tokenizer, task = subject.tokenizer, subject.task
    with tqdm(total=len(examples), desc="sample", unit="ex", leave=False) as bar:
        ids = generate(
            subject.model,
            tokenizer,
            prompts_of(subject, examples),
            task.max_new_tokens,
            temperature=temperature,
            samples=samples,
            batch_size=PROBLEMS,
            on_batch=bar.update,
            stop=task.stop,
            draws=Draws(("pass@k", seed)),
        )
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    scores = task.score_many(texts, [example for example in examples for _ in range(samples)])
    return np.array([score.correct for score in scores], dtype=bool).reshape(len(examples), samples)
