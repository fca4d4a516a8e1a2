"""A vLLM engine that answers in the model's place: rollouts of GRPO, and evaluation. Off by default.

    at every call: push cast(W0 + merged + dW), as the model holds it then, under the plain model's names; then decode

TRL's `VLLMGeneration` makes the engine, in this process or as a client of a server, and pushes. What is ours, and why:
- one engine for all rounds and evaluation: vLLM does not give an engine's memory back to its process, and a server's
  weight transfer listens on one port, while a trainer is made anew every round;
- an engine in this process is told the model's dtype: TRL names none, and vLLM's own choice for fp32 is bf16;
- on a CPU vLLM packs a linear's weights once they are loaded, so that TRL's push finds none to write to: vLLM's own
  `reload_weights` replaces it, and packs anew. A compiled graph would keep what was packed before, so that there the
  engine compiles nothing;
- v and a LoRA's wrappers are left out of what is pushed, and an embedded name becomes the folder that it stands for;
- what TRL and vLLM set in this process is taken back: variables of the environment, which would make the next trainer
  take this for a launched process, and torch's threads, which vLLM fixes on a CPU;
- the end tokens of the model and the tokenizer are given at every call. TRL states temperature, cut-offs and penalties
  in full, so that of the folder's generation_config.json nothing else could count.

What this does not cover: it was run against a real engine on a CPU alone, and never against a server, which needs CUDA
(common/SCALING.md). A server computes in the dtype that it was started with. Samples of a server do not follow the
run's seed. A task's `stop` is applied to finished completions.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import nn

from boostlib.common import world
from boostlib.common.errors import BoostError, ModelError
from boostlib.common.settings import Share, checked
from boostlib.evaluation.generate import cut_at, end_tokens
from boostlib.models.language import default_device, weights_source
from boostlib.models.subject import Subject

if TYPE_CHECKING:
    from trl.generation.vllm_generation import VLLMGeneration

ADDRESS = 'an address such as "http://localhost:8000"'
INSTALL = "pip install 'trl[vllm]'"
LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # set by TRL for an engine in here
SET = (*LAUNCH, "VLLM_ENABLE_V1_MULTIPROCESSING")  # and by vLLM

_ENGINES: dict[tuple, "VLLMGeneration"] = {}  # for as long as the process lives


@dataclass(frozen=True)
@checked
class VLLM:
    """Where vLLM runs; as a decoder, the greedy completions that it writes. No part of a run's identity; whether vLLM
    is used is.

    server: address of a vLLM server; None: an engine in this process. memory: the share of the GPU that it takes; on a
    CPU, where the engine is no process apart, the share of the machine's memory that this process takes with it.
    """

    server: Annotated[str, Field(strict=True, description=ADDRESS)] | None = None
    memory: Share = 0.3

    def __post_init__(self):
        if self.server is not None and not self.server.startswith(("http://", "https://")):
            raise BoostError(f"VLLM(server={self.server!r}): must be {ADDRESS}")

    def ready(self, subject: Subject) -> None:
        """Make the engine. Raises BoostError for a server and several processes."""
        if self.server and world.size() > 1:  # TRL's client takes as many prompts from each
            raise BoostError(
                f"{self}: a server evaluates for one process, and there are {world.size()}; use VLLM(), one in each"
            )
        engine(self, subject.model, subject.tokenizer)

    def complete(self, subject: Subject, prompt_ids: Sequence[list[int]], on_batch) -> list[list[int]]:
        """The greedy completion of every prompt, as token ids up to and with the end token."""
        made = engine(self, subject.model, subject.tokenizer)
        ids, _ = complete(made, subject, prompt_ids)
        on_batch(len(ids))
        return ids

    def entry(self) -> dict:
        """Nothing to say: the run's identity says that vLLM decodes."""
        return {}


def require_vllm(setting: str) -> None:
    """Raises BoostError, naming the setting that asks for it, where vLLM is not installed."""
    if find_spec("vllm") is None:
        raise BoostError(
            f"{setting}: vllm is not installed; `{INSTALL}` on a machine with a GPU, or leave it out (on a CPU: "
            "boostlib/common/SCALING.md)"
        )


def engine(where: VLLM, model: nn.Module, tokenizer) -> "VLLMGeneration":
    """The engine for models of this name and dtype, made at the first call, with the memory asked for there.

    Several processes call it together. Raises BoostError where it cannot be.
    """
    require_vllm(f"{where}")
    if not model.name_or_path:
        raise ModelError(f"{where}: vLLM reads a model by its name, and this one has none: load it with load_model")
    key = (where.server, model.name_or_path, model.dtype)
    if key not in _ENGINES:
        _ENGINES[key] = _start(where, model, tokenizer)
    return _ENGINES[key]


def complete(
    engine: "VLLMGeneration",
    subject: Subject,
    prompt_ids: Sequence[list[int]],
    temperature: float = 0.0,
    samples: int = 1,
) -> tuple[list[list[int]], list[list[float | None]]]:
    """A completion of every prompt with the weights that the model holds now, and the log-probability of each token.

    Its length and stop are the task's. temperature 0 decodes greedily. samples: how often each prompt stands in
    `prompt_ids`, in a row. Raises BoostError for whatever goes wrong in TRL, vLLM or a server.
    """
    model, stop = subject.model, subject.task.stop
    engine.model, engine.temperature, engine.max_completion_length = model, temperature, subject.task.max_new_tokens
    engine.generation_kwargs = {"stop_token_ids": end_tokens(model, subject.tokenizer)}
    try:
        push(engine)
        _, ids, logps, _ = engine.generate(prompt_ids, None, samples)
    except Exception as error:  # TRL's client raises nothing narrower
        raise BoostError(
            f"vLLM ({engine.mode}) did not take the weights of {model.name_or_path!r} or answer {len(prompt_ids)} "
            f"prompts: {type(error).__name__}: {error}. The same command without vllm decodes with the model itself"
        ) from error
    finally:
        engine.model = None  # it outlives the models that it answers for
    ids = [cut_at(row, subject.tokenizer, stop) if stop else list(row) for row in ids]
    return ids, [[first for first, *_ in row[: len(kept)]] for row, kept in zip(logps, ids, strict=True)]


def push(engine: "VLLMGeneration") -> None:
    """Give the engine the weights that its model holds now."""
    with plain_names(engine.model):
        if engine.mode == "server" or not on_cpu():
            engine.sync_weights()
        else:
            weights = ((name, parameter.data) for name, parameter in engine.model.named_parameters())
            engine.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            engine.llm.reset_prefix_cache()


def on_cpu() -> bool:
    """Whether vLLM runs on a CPU, as it does where torch sees no GPU."""
    return default_device().type == "cpu"


@contextmanager
def plain_names(model: nn.Module) -> Iterator[None]:
    """Inside, `model.named_parameters()` gives the plain model's: without v, without LoRA's factors and wrappers."""
    every = model.named_parameters

    def plain(prefix: str = "", recurse: bool = True):
        for name, parameter in every(prefix, recurse):
            if not name.startswith("boost_adapter.") and ".lora_" not in name:
                yield name.replace(".base_layer.", "."), parameter

    model.named_parameters = plain
    try:
        yield
    finally:
        del model.named_parameters


def _start(where: VLLM, model: nn.Module, tokenizer) -> "VLLMGeneration":
    from accelerate import Accelerator
    from trl.generation.vllm_generation import VLLMGeneration  # takes seconds to import

    name, dtype = model.name_or_path, str(model.dtype).removeprefix("torch.")
    model.name_or_path = source = weights_source(name)
    try:
        with _settings_taken_back(), _llm_given(dtype=dtype, **({"enforce_eager": True} if on_cpu() else {})):
            return VLLMGeneration(
                model,
                Accelerator(),
                tokenizer,
                mode="server" if where.server else "colocate",
                server_base_url=where.server,
                gpu_memory_utilization=where.memory,
            )
    except Exception as error:  # TRL's client raises nothing narrower
        serve = f"start it with `trl vllm-serve --model {source} --dtype {dtype}`"
        room = "lower memory, or free memory on the GPU"
        if not where.server and on_cpu():
            room = "memory is a share of the machine's: lower it, or set VLLM_CPU_KVCACHE_SPACE=1, in GiB, in its place"
        raise BoostError(f"no vLLM engine by {where}: {error} ({serve if where.server else room})") from error
    finally:
        model.name_or_path = name


@contextmanager
def _llm_given(**settings) -> Iterator[None]:
    """Inside, TRL makes `vllm.LLM` with these settings too."""
    import trl.generation.vllm_generation as module

    made = module.LLM
    module.LLM = partial(made, **settings)
    try:
        yield
    finally:
        module.LLM = made


@contextmanager
def _settings_taken_back() -> Iterator[None]:
    """Afterwards the environment and torch's threads are as they were."""
    variables = {key: os.environ.get(key) for key in SET}
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        for key, value in variables.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
