"""Tasks: data, prompt, extraction and score of one data set, a file each. See `base.py` for what they share."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from boostlib.common.errors import BoostError
from boostlib.common.settings import AnyPath, short, valid
from boostlib.tasks.arithmetic import Arithmetic
from boostlib.tasks.base import Example, LabelTask, Score, SplitTask, Task, TextTask
from boostlib.tasks.binding import Binding
from boostlib.tasks.error_log import ErrorLog
from boostlib.tasks.gsm8k import GSM8K
from boostlib.tasks.humaneval import HumanEval
from boostlib.tasks.labelled_texts import LabelledTexts
from boostlib.tasks.math500 import Math500
from boostlib.tasks.mbpp import MBPP
from boostlib.tasks.order_binding import OrderBinding
from boostlib.tasks.python_basics import PythonBasics
from boostlib.tasks.python_more import PythonMore
from boostlib.tasks.synthetic_binding import SyntheticBinding
from boostlib.tasks.tickets import Tickets
from boostlib.tasks.word_problems import WordProblems

__all__ = ["TASKS", "Example", "LabelTask", "Score", "SplitTask", "Task", "TextTask", "load_task"]

TEXTS = (Arithmetic, WordProblems, GSM8K, Math500, PythonBasics, PythonMore, MBPP, HumanEval, ErrorLog)
LABELS = (SyntheticBinding, OrderBinding, Binding, Tickets, LabelledTexts)
TASKS: dict[str, type[SplitTask]] = {task.name: task for task in (*TEXTS, *LABELS)}


def load_task(
    name: str,
    data_dir: AnyPath | None = None,
    limits: Mapping[str, int] | None = None,
    **settings: Any,
) -> SplitTask:
    """The task `name` with its `settings`, which are the fields of its class, e.g. `load_task("arithmetic", seed=1)`.

    `data_dir` is the folder of data files (see `rows.py`); generated tasks need none. `limits={"train": 500}` keeps a
    fixed random sample of a split.

    Raises BoostError for an unknown task or setting, listing the known ones, or a value out of range; DataError for a
    limit on a split that is not there.
    """
    if not isinstance(name, str) or name not in TASKS:
        raise BoostError(f"unknown task {short(name)}; known: {', '.join(TASKS)}")
    valid(f"load_task({name!r}, data_dir=", data_dir, AnyPath | None)
    task = TASKS[name]
    known = [field.name for field in fields(task) if field.init and field.name not in ("limits", "data_dir")]
    unknown = [setting for setting in settings if setting not in known]
    if unknown:
        raise BoostError(f"{name} has no setting '{unknown[0]}'; its settings: {', '.join(sorted(known))}")
    folder = {"data_dir": data_dir} if any(field.name == "data_dir" for field in fields(task)) else {}
    limits = {} if limits is None else dict(limits) if isinstance(limits, Mapping) else limits
    return task(limits=limits, **folder, **settings)
