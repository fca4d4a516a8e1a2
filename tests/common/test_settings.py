"""Settings: what is not of its type, out of range or not finite is named when it is given, by one kind of error."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from boostlib import (
    GRPO,
    VLLM,
    AdapterConfig,
    BoostConfig,
    BoostError,
    CrossEntropy,
    Gate,
    Greedy,
    LoRAConfig,
    evaluate,
)
from boostlib.common.settings import Count, Positive, checks
from boostlib.config import recorded_config
from boostlib.evaluation.decode import Decode
from boostlib.evaluation.drafts import Drafts

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"
NO_COUNT = (0, -1, 1.5, True, "3", None, math.nan, math.inf, [2], 10**12, b"1", {}, 2j)
NO_POSITIVE = (0, 0.0, -0.1, True, "1", None, math.nan, math.inf, -math.inf, [1.0], 10**400)
NO_SEED = (-1, 1.5, True, "0", None, math.nan, 2**63, [0])
NO_FLAG = (0, 1, "yes", None, "False", [])
NO_NAMES = ("test", 3, None, ("",), (1,), [None], {"test"})

COUNTS = {
    LoRAConfig: ("rank",),
    AdapterConfig: ("rank", "u", "n_tie", "blocks"),
    BoostConfig: ("rounds", "batch_size"),
    GRPO: ("prompts", "samples", "max_samples", "max_steps", "micro_batch", "rollout_batch"),
    CrossEntropy: ("batch", "micro_batch", "max_steps", "checks", "patience"),
    Greedy: ("candidates", "probe_batches"),
    Decode: ("batch_size",),
    Drafts: ("batch_size",),
}
POSITIVE = {
    GRPO: ("learning_rate", "epochs", "temperature", "max_grad_norm"),
    CrossEntropy: ("learning_rate", "epochs", "max_grad_norm"),
}
OTHERS = [
    *((kind, "seed", value) for kind in (AdapterConfig, BoostConfig) for value in NO_SEED),
    *((kind, name, value) for kind, name in ((GRPO, "use_vllm"), (GRPO, "gradient_checkpointing"),
                                             (CrossEntropy, "balance"), (BoostConfig, "drafts")) for value in NO_FLAG),
    *((BoostConfig, "held_out", value) for value in (*NO_NAMES, ("train",), ("test", "test"))),
    *((BoostConfig, "targets", value) for value in ("q_proj", 3, (), ("",), (1,))),
    *((BoostConfig, "adapter", value) for value in (None, {}, 3, "rotate", AdapterConfig)),
    *((BoostConfig, "greedy", value) for value in (None, {}, True)),
    *((BoostConfig, "train_on", value) for value in ("everything", None, 1, "")),
    *((BoostConfig, "w0_device", value) for value in ("gpu", "", 3, "cuda:x")),
    *((BoostConfig, "vllm", value) for value in (True, "http://localhost", {})),
    *((AdapterConfig, "strategy", value) for value in ("Rotate", None, 1, "", ["rotate"])),
    *((AdapterConfig, "scaling", value) for value in ("none", None, 2.0)),
    (AdapterConfig, "u", 10**6),
    *((Greedy, "choose", value) for value in ("all", None, 0)),
    *((GRPO, "beta", value) for value in (-0.1, math.nan, True, "0", None, math.inf)),
    (GRPO, "samples", 1),
    *((CrossEntropy, "validation", value) for value in ("", 3, ("validation",))),
    *((Gate, name, value) for name in ("alpha", "harm") for value in (0, 1, -0.1, 2, math.nan, True, "0.05", None)),
    *((Gate, "allowed_guards", value) for value in (-1, 0.5, True, None, "1")),
    *((Gate, "patience", value) for value in (0, -3, 1.5, True, "2")),
    *((Gate, "failing_guards", value) for value in ("ignore", None, True)),
    *((Gate, "guard", value) for value in ("", 3, "train", ("guard",))),
    *((Gate, "value_on", value) for value in ((), "train", None, (1,))),
    *((Gate, "adjacent", value) for value in ("test", ("train",), None)),
    *((Gate, "costs", value) for value in ({"a": 0}, {"a": -1}, {"a": math.nan}, {"a": "2"}, {"a": True}, {1: 2.0},
                                           {"": 1.0}, {"a": math.inf}, 3, None)),
    *((VLLM, "memory", value) for value in (0, 1, -0.5, 1.5, math.nan, True, "0.3", None)),
    *((VLLM, "server", value) for value in ("gpu2:8000", "", 8000, True, "ftp://x")),
]  # fmt: skip
WRONG = [
    *((kind, name, value) for kind, names in COUNTS.items() for name in names for value in NO_COUNT),
    *((kind, name, value) for kind, names in POSITIVE.items() for name in names for value in NO_POSITIVE),
    *OTHERS,
]


@pytest.mark.parametrize(
    ("kind", "name", "value"), WRONG, ids=[f"{kind.__name__}-{name}-{str(value)[:20]}" for kind, name, value in WRONG]
)
def test_a_wrong_value_is_named(kind, name, value):
    with pytest.raises(BoostError) as error:
        kind(**{name: value})
    assert kind.__name__ in str(error.value) and name in str(error.value) and len(str(error.value)) < 300


def test_numpys_numbers_become_pythons_and_lists_become_tuples():
    config = BoostConfig(rounds=np.int64(3), held_out=["test"], seed=np.uint32(7), targets=["q_proj"])
    assert (type(config.rounds), type(config.seed)) == (int, int)
    assert config.held_out == ("test",) and config.targets == ("q_proj",)
    assert type(GRPO(learning_rate=np.float32(0.5)).learning_rate) is float and GRPO(epochs=2).epochs == 2
    json.dumps([dataclasses.asdict(config), GRPO(learning_rate=np.float64(0.1)).settings()])


def test_replace_is_checked_too():
    with pytest.raises(BoostError, match=r"GRPO\(prompts=0\): must be a whole number of at least 1"):
        dataclasses.replace(GRPO(), prompts=0)


def test_every_recorded_identity_is_accepted_as_it_is():
    kinds = {"grpo": GRPO, "cross_entropy": CrossEntropy}
    for path in RUNS.glob("*/run.json"):
        identity = json.loads(path.read_text())["identity"]
        trainer = dict(identity["trainer"])
        kind = kinds[trainer["kind"]]
        found = kind(**{k: v for k, v in trainer.items() if k not in ("kind", "sampler")}).settings()
        found.pop("sampler", None)  # runs recorded before it have none
        assert found == {k: v for k, v in trainer.items() if k != "sampler"}
        if isinstance(identity["adapter"], dict):
            assert recorded_config(identity, 1).learner.settings() == identity["adapter"]


def test_functions_check_what_they_annotate(tiny_llama, tiny_tokenizer):
    @checks
    def double(x: Positive, times: Count = 2, other=None):
        return x * times, other

    assert double(1.5, other="y") == (3.0, "y") and double(np.float64(2), np.int64(3)) == (6.0, None)
    for arguments in ({"x": 0}, {"x": 1, "times": 0}, {"x": "1"}, {"x": 1.0, "times": True}):
        with pytest.raises(BoostError, match=r"double\((x|times)="):
            double(**arguments)
    for size in (0, -1, 2.5, "8", True):
        with pytest.raises(BoostError, match=r"evaluate\(batch_size="):
            evaluate(tiny_llama(), tiny_tokenizer, None, batch_size=size)
