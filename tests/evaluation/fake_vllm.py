"""A stand-in for vLLM, below the code of TRL that drives it: an engine in this process, and a server with its client.

As the real one does, it reads the model from a folder, in bf16 unless told otherwise, knows the plain model's names
alone, computes with nothing but the weights that it was sent, and seeds torch anew when it is made. On a CPU, as the
real one, it has no weights to write to once it is made, and leaves the process with one thread for good. It keeps every
complete set of weights it was sent.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

END = 1  # of the tiny tokenizer


@dataclass
class Record:
    """What the fakes saw. `on_push` is told whenever a whole set of weights has arrived; `breaks` at that tensor."""

    made: list[dict[str, Any]] = field(default_factory=list)  # settings of each engine and client
    pushes: list[dict[str, Tensor]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)  # how it was asked to sample
    on_push: Callable[[], None] = lambda: None
    breaks: str = ""
    on_cpu: bool = False
    answer: int = 200  # what the server answers
    served: str = ""  # the folder that the server was started with


class Model:
    """The engine's own copy of a model."""

    def __init__(self, record: Record, folder: str, dtype: str, packed: bool = False):
        self.record, self.arrived, self.packed = record, {}, packed
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
        torch.manual_seed(0)

    def load_weights(self, pairs) -> None:
        for name, tensor in pairs:
            if self.packed:
                raise AttributeError("'Parameter' object has no attribute 'weight_loader'")
            if name == self.record.breaks:
                raise RuntimeError("the link broke")
            self.model.get_parameter(name).data.copy_(tensor)  # AttributeError for a name that it does not know
            self.arrived[name] = tensor.detach().clone()

    def reload_weights(self, weights_iterator) -> None:
        self.packed = False
        self.load_weights(weights_iterator)
        self.packed = True

    def finish(self) -> None:
        self.record.pushes.append(self.arrived)
        self.arrived = {}
        self.record.on_push()

    @torch.no_grad()
    def sample(self, prompt: list[int], temperature: float, limit: int) -> list[tuple[int, float]]:
        """(token, log-probability) one after the other."""
        out: list[tuple[int, float]] = []
        while len(out) < limit and (not out or out[-1][0] != END):
            ids = torch.tensor([[*prompt, *(token for token, _ in out)]])
            logits = self.model(input_ids=ids).logits[0, -1] / (temperature or 1.0)
            logps = logits.log_softmax(-1)
            token = int(torch.multinomial(logps.exp(), 1)) if temperature else int(logits.argmax())
            out.append((token, float(logps[token])))
        return out


def colocated(record: Record) -> type:
    """`vllm.LLM`."""

    class LLM:
        def __init__(self, model: str, dtype: str = "bfloat16", **settings):
            record.made.append({"model": model, "dtype": dtype, **settings})
            self.inner = Model(record, model, dtype, packed=record.on_cpu)
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            torch.set_num_threads(1)
            if record.on_cpu:
                torch.set_num_threads = lambda threads: None
            worker = SimpleNamespace(model_runner=SimpleNamespace(model=self.inner))
            self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))

        def collective_rpc(self, method: str, kwargs: dict) -> None:
            getattr(self.inner, method)(**kwargs)

        def reset_prefix_cache(self) -> None:
            self.inner.finish()

        def generate(self, prompts, sampling_params, use_tqdm):
            record.asked.append(vars(sampling_params))
            return [self._output(one["prompt_token_ids"], sampling_params) for one in prompts]

        def _output(self, prompt: list[int], how):
            pairs = self.inner.sample(prompt, how.temperature, how.max_tokens)
            logprobs = [{token: SimpleNamespace(rank=1, logprob=logp)} for token, logp in pairs]
            completion = SimpleNamespace(token_ids=[token for token, _ in pairs], logprobs=logprobs)
            return SimpleNamespace(prompt_token_ids=prompt, outputs=[completion])

    return LLM


def client(record: Record) -> type:
    """`trl`'s VLLMClient, and the server behind it."""

    class VLLMClient:
        def __init__(self, base_url: str, group_port: int, connection_timeout: float):
            if not record.served:
                raise ConnectionError(f"The vLLM server can't be reached at {base_url}")
            self.inner = Model(record, record.served, "float32")
            record.made.append({"base_url": base_url, "joined": 0})

        def init_communicator(self, device) -> None:
            record.made[-1]["joined"] += 1

        def update_named_params(self, metadata, named_params) -> None:
            for announced, (name, tensor) in zip(metadata, named_params, strict=True):
                assert announced == (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
                self.inner.load_weights([(name, tensor)])

        def reset_prefix_cache(self) -> None:
            self.inner.finish()

        def generate(self, prompts, features, n: int, temperature: float, max_tokens: int, **how):
            if record.answer != 200:
                raise Exception(f"Request failed: {record.answer}, no room")
            record.asked.append({"n": n, "temperature": temperature, "max_tokens": max_tokens, **how})
            found = [self.inner.sample(prompt, temperature, max_tokens) for prompt in prompts for _ in range(n)]
            return {
                "prompt_ids": prompts,
                "completion_ids": [[token for token, _ in pairs] for pairs in found],
                "logprobs": [[[logp] for _, logp in pairs] for pairs in found],
            }

    return VLLMClient


def install(record: Record, monkeypatch) -> Record:
    """Puts the fakes where TRL and boostlib look for vLLM, until the test ends."""
    import trl.generation.vllm_generation as module

    monkeypatch.setattr(module, "is_vllm_available", lambda: True)
    monkeypatch.setattr(module, "LLM", colocated(record), raising=False)
    monkeypatch.setattr(module, "SamplingParams", SimpleNamespace, raising=False)
    monkeypatch.setattr(module, "VLLMClient", client(record))
    monkeypatch.setattr("boostlib.evaluation.vllm.find_spec", lambda name: object())
    monkeypatch.setattr("boostlib.evaluation.vllm.on_cpu", lambda: record.on_cpu)
    monkeypatch.setattr("boostlib.evaluation.vllm._ENGINES", {})
    monkeypatch.setattr(torch, "set_num_threads", torch.set_num_threads)
    return record
