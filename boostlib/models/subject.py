"""What is trained and scored together: a model, its tokenizer, and the task that it is asked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass
class Subject:
    """A model with its tokenizer and task. on_step: is told of every optimizer step, {"step", "of", ...}."""

    model: nn.Module
    tokenizer: Any
    task: Any  # a Task: of texts (TextTask) for a language model, of labels (LabelTask) for a classifier
    on_step: Callable[[dict], None] | None = field(default=None, kw_only=True)
