"""Classes for cases that have none: suggested from how similar the model finds them, and left to be edited.

    x_i = mean over the tokens of prompt i of the last hidden state;  clusters of (x_i - mean of all x), by cosine

Agglomerative clustering (average linkage), whose number of groups, 2 to `most`, has the best silhouette unless it is
given. Nothing is random: the same model and cases give the same groups. A group is called "group 1", "group 2", by
size, and comes with the words that set it apart (tf-idf); the names are there to be changed.

Departures and limits: tokens that all prompts begin with (worked examples, a system message) are left out of the mean,
and what all prompts share is subtracted, as hidden states of one model mostly point the same way. A group is a
similarity of prompts, not of errors.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import silhouette_score
from torch import nn

from boostlib.common.durable import write_durably
from boostlib.common.errors import DataError
from boostlib.evaluation.generate import encode, shared_prefix
from boostlib.tasks.base import Example, Prompt
from boostlib.tasks.log_rows import complain, read_log

LONGEST_SHOWN = 60


@torch.no_grad()
def embed(model: nn.Module, tokenizer, prompts: Sequence[Prompt], batch_size: int = 16) -> np.ndarray:
    """(n, hidden) float32: the mean last hidden state of each prompt, over tokens that not all prompts begin with."""
    ids = encode(tokenizer, prompts)
    start = len(shared_prefix(ids)) if len(ids) > 1 else 0
    found, was_training = [], model.training
    model.eval()
    for first in range(0, len(ids), batch_size):
        rows = {"input_ids": ids[first : first + batch_size]}
        batch = tokenizer.pad(rows, padding_side="right", return_tensors="pt").to(model.device)  # (B, T) each
        states = model.base_model(**batch).last_hidden_state.float()  # (B, T, H)
        own = batch["attention_mask"][:, start:].unsqueeze(-1)
        found.append(((states[:, start:] * own).sum(1) / own.sum(1)).cpu().numpy())
    model.train(was_training)
    return np.concatenate(found)


def cluster(features: np.ndarray, groups: int | None = None, most: int = 8) -> np.ndarray:
    """(n,) group of each row, 0 the largest. Raises DataError for fewer than 3 rows, or more groups than rows."""
    n = len(features)
    if n < 3 or not 1 < (groups or 2) < n:
        raise DataError(f"{n} cases cannot be put into {groups or 2} groups: that takes more cases than groups")
    centred = features - features.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    tried = [groups] if groups else range(2, min(most, n - 1) + 1)
    found = [AgglomerativeClustering(k, metric="cosine", linkage="average").fit_predict(unit) for k in tried]
    scores = [silhouette_score(unit, labels, metric="cosine") for labels in found] if len(found) > 1 else [0.0]
    labels = found[int(np.argmax(scores))]
    sizes = sorted(set(labels), key=lambda k: (-(labels == k).sum(), np.flatnonzero(labels == k)[0]))
    return np.array([sizes.index(label) for label in labels])


def suggest_classes(
    model: nn.Module, tokenizer, examples: Sequence[Example], groups: int | None = None, most: int = 8
) -> pd.DataFrame:
    """One row a case without a class (`Example.kind`): id, suggested class, words of its group, prompt. Edit `class`,
    then `write_classes`. groups: how many; None: the best from 2 to `most`.

    Raises DataError where fewer than 3 cases have no class.
    """
    cases = [example for example in examples if not example.kind]
    texts = [_text(example.prompt) for example in cases]
    if not cases:
        raise DataError("every case has a class already: there is nothing to group")
    labels = cluster(embed(model, tokenizer, [example.prompt for example in cases]), groups, most)
    words = _words(texts, labels)
    return pd.DataFrame(
        {
            "id": [example.id for example in cases],
            "class": [f"group {label + 1}" for label in labels],
            "words": [words[label] for label in labels],
            "prompt": [text[-LONGEST_SHOWN:] for text in texts],
        }
    )


def write_classes(table: pd.DataFrame, log: str | Path, out: str | Path) -> None:
    """Copy the error log `log` to the new file `out` with the classes of `table` filled in; other rows as they are.

    Raises DataError: `out` exists, `table` names an id that the log does not have or has no class for one.
    """
    rows, problems = read_log(Path(log))
    complain(problems, log)
    if Path(out).exists():
        raise DataError(f"{out} exists: write to a new file, so that no edited classes are lost")
    chosen = dict(zip(table["id"].astype(str), table["class"], strict=True))
    unknown = sorted(set(chosen) - {str(row.get("id")) for _, row in rows})
    empty = sorted(id for id, name in chosen.items() if not isinstance(name, str) or not name.strip())
    if unknown or empty:
        raise DataError(f"{log}: the table names ids that are not in the log: {unknown}; ids without a class: {empty}")
    filled = [row | ({"class": chosen[str(row["id"])]} if str(row.get("id")) in chosen else {}) for _, row in rows]
    write_durably(Path(out), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in filled).encode())


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def _words(texts: Sequence[str], labels: np.ndarray) -> list[str]:
    """For each group, the three tokens whose tf-idf exceeds that of the other cases most."""
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]")
    weights = vectorizer.fit_transform(texts).toarray()  # (n, words)
    names = vectorizer.get_feature_names_out()
    found = []
    for label in range(labels.max() + 1):
        inside = labels == label
        lead = weights[inside].mean(axis=0) - weights[~inside].mean(axis=0)
        found.append(" ".join(names[i] for i in np.argsort(-lead, kind="stable")[:3] if lead[i] > 0))
    return found
