"""TRL's GRPO trainer, told to roll out folded weights and to skip what carries no signal.

What is ours, and leaves the loss and its gradient the same:
- rollouts run on folded weights, so that sampling costs what the plain model costs, and read a shared prefix once;
- completions of groups without advantage (all right or all wrong) get no forward or backward pass: their terms are 0;
- equal completions of one prompt are run once, and the tokens that all prompts begin with are run once a step, where
  the model allows that (evaluation/layout.py); the rows of other models are run whole, all padding on their right.

What TRL would do otherwise and is undone:
- its trainer wraps `model.forward` for good; we put the plain one back;
- it takes log-probabilities in train mode; here it is eval mode, since dropout would make them noise (gradient
  checkpointing needs train mode: with it, a model that has dropout is refused);
- it adds the load-balancing loss of a mixture of experts, whose routers do not train here;
- it computes logits from the last hidden states by itself, by the settings that it knows: where a model's own logits
  are others (a soft cap under another name, a head of several layers), its own are used;
- it leaves positions to the model, which counts a row's padding in where it has learned ones: these get rows without
  padding on the left.
Trains whatever requires a gradient: the attached adapter or LoRA, or, without one, all weights (full fine-tuning).
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from boostlib.adapter import TinyLoRA
from boostlib.common import world
from boostlib.common.errors import ModelError, TrainingError, explain_oom
from boostlib.evaluation.generate import flat_linears, generate, prompts_of
from boostlib.evaluation.layout import layout
from boostlib.evaluation.sample import Draws
from boostlib.evaluation.vllm import complete, engine
from boostlib.models.language import weights_source
from boostlib.models.subject import Subject
from boostlib.records.rows import Training
from boostlib.strategies.lora import LoRA
from boostlib.tasks.base import Example, TextTask
from boostlib.training.logps import completion_logps, trusted
from boostlib.training.watch import Watch


@dataclass(frozen=True)
class Pass:
    """One pass of GRPO over `examples`, as `settings` (a GRPO) say."""

    settings: Any
    subject: Subject
    examples: Sequence[Example]
    seed: int

    def train(self, adapter: TinyLoRA | LoRA | None) -> Training:
        """Train what requires a gradient; adapter: it is attached, and rollouts fold it. As `GRPO.train`."""
        return self._run(adapter, self.settings.learning_rate)

    def probe(self) -> Training:
        """The same batches, losses and backward passes, but no step: nothing moves."""
        return self._run(None, 0.0)

    def _run(self, adapter, rate: float) -> Training:
        settings, subject, model = self.settings, self.subject, self.subject.model
        watch, trained = Watch([p for p in model.parameters() if p.requires_grad], adapter), Training()
        prompts = prompts_a_step(settings, len(self.examples))
        prompts_of(subject, self.examples)  # each has room for a completion
        if subject.tokenizer.pad_token_id is None and subject.tokenizer.eos_token_id is None:
            raise ModelError(
                "this tokenizer has neither an end token nor a padding token, and training puts rows of different "
                "lengths together: set tokenizer.pad_token to a token that no text of the task contains"
            )
        if settings.gradient_checkpointing and (active := dropouts(model)):
            raise TrainingError(
                f"GRPO(gradient_checkpointing=True) trains in train mode, and {active[0]} drops out: set it to 0 in "
                "the model's config, or leave gradient_checkpointing out"
            )
        engine_of = engine(settings.vllm, model, subject.tokenizer) if settings.use_vllm else None  # it seeds, too
        own_forward = vars(model).get("forward")
        with (
            tempfile.TemporaryDirectory() as scratch,
            warnings.catch_warnings(),
            explain_oom("micro_batch or prompts of GRPO", f"{settings.micro_batch} and {prompts}"),
            flat_linears(model),
            _source_for_reference(model, settings.beta),
        ):
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)  # renamed in transformers
            warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)  # renamed in torch
            trainer = FoldingTrainer(
                model,
                reward_function(subject.task, self.examples),
                self.config(scratch, rate),
                Dataset.from_list(
                    [{"prompt": self.examples[i].prompt, "index": i} for i in sampled(len(self.examples), prompts)]
                ),
                processing_class=subject.tokenizer,
                callbacks=[Recorder(trained, subject.on_step)],
            )
            trainer.adapter, trainer.rollout_batch, trainer.subject = adapter, settings.rollout_batch, subject
            trainer.engine, trainer.use_vllm = engine_of, engine_of is not None
            trainer.remove_callback(PrinterCallback)
            try:
                with world.explain_loss():
                    trainer.train()
            except FloatingPointError as error:  # folded weights that overflowed
                raise TrainingError(f"NaN in rollouts: lower learning_rate, now {settings.learning_rate}") from error
            finally:
                _restore_forward(model, own_forward)
                if settings.gradient_checkpointing:  # TRL leaves it on, and what comes next may want its cache
                    model.gradient_checkpointing_disable()
                model.eval()
        trained.tokens = world.total(trainer.generated_tokens)
        watch.check(had_signal=any(trained.signal) and rate > 0)
        return trained

    def config(self, scratch: str, rate: float) -> GRPOConfig:
        """TRL's settings for it; scratch: a folder that TRL may write to."""
        settings, subject, failures = self.settings, self.subject, len(self.examples)
        batch = prompts_a_step(settings, failures) * settings.samples // world.size()  # of each process
        micro = max(d for d in range(1, min(settings.micro_batch, batch) + 1) if batch % d == 0)
        config = GRPOConfig(
            output_dir=scratch,
            learning_rate=rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=settings.max_grad_norm,
            max_steps=settings.num_steps(failures),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch // micro,
            steps_per_generation=batch // micro,
            num_generations=settings.samples,
            max_completion_length=subject.task.max_new_tokens,
            temperature=settings.temperature,
            beta=settings.beta,
            loss_type="dapo",
            chat_template_kwargs=dict(getattr(subject.task, "prompt_options", {})) or None,
            gradient_checkpointing=settings.gradient_checkpointing,
            bf16=False,  # the model keeps its own dtype and v stays fp32: no autocast
            use_vllm=False,  # TRL would make an engine of its own, every round: ours is given to the trainer instead
            use_cpu=subject.model.device.type == "cpu",
            ddp_find_unused_parameters=False,  # every number takes part in every pass
            ddp_broadcast_buffers=False,  # they never change, and a pass may run the model twice
            seed=self.seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        config.mixed_precision = "no"  # nor any that a launcher's configuration asks for
        return config


def dropouts(model: nn.Module) -> list[str]:
    """What of a model drops out in train mode: modules, and settings of its config, with a share above 0."""
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p > 0]
    settings = model.config.to_dict().items()
    return found + [f"config.{name}" for name, p in settings if "drop" in name and isinstance(p, float) and p > 0]


def prompts_a_step(settings, failures: int) -> int:
    """Prompts of one step: `settings.prompts`, or as many as there are failures. Several processes take equal parts of
    its completions: the most prompts for which they can, and at least so many that they can."""
    unit, samples = world.size() // math.gcd(world.size(), settings.samples), settings.samples
    if settings.prompts < unit:
        raise TrainingError(
            f"GRPO(prompts={settings.prompts}): {world.size()} processes cannot take equal parts of {settings.prompts} "
            f"prompts with {samples} samples each: at least {unit} prompts, or fewer processes, which continue this run"
        )
    return max(unit, min(settings.prompts, failures) // unit * unit)


def sampled(failures: int, prompts: int) -> list[int]:
    """Indices of the examples to sample: each once, over again where a step takes more prompts than there are."""
    return [i % failures for i in range(max(failures, prompts))]


class FoldingTrainer(GRPOTrainer):
    """TRL's trainer with three seams used: how completions are made, which rows reach the loss, how they are run."""

    adapter: TinyLoRA | LoRA | None = None
    generated_tokens = 0
    rollout_batch = 512  # completions sampled together
    subject: Subject | Any = None  # set at once
    engine: Any = None  # vLLM's, where it samples: TRL's use_vllm then runs all rows forward once, to correct for it

    def __init__(self, model: nn.Module, *arguments, **settings):
        layout(model)  # refuses a model that writes no text, before TRL wraps this one
        super().__init__(model, *arguments, **settings)
        self.aux_loss_enabled = False  # routers do not train, so that no load needs balancing
        trusted(model, self.temperature)

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        with self.adapter.folded() if self.adapter else nullcontext():
            if self.engine:
                out = complete(self.engine, self.subject, prompt_ids, self.temperature, num_generations)
            else:
                out = self._sample(prompt_ids, num_generations), None
        self.generated_tokens += sum(map(len, out[0]))
        return out

    def _sample(self, prompt_ids, num_generations) -> list[list[int]]:
        blocks = [prompt_ids[i : i + num_generations] for i in range(0, len(prompt_ids), num_generations)]
        first = self.accelerator.process_index * len(prompt_ids)  # processes hold consecutive parts of a step
        whole = all(len(b) == num_generations and all(p == b[0] for p in b) for b in blocks)
        return generate(
            self.accelerator.unwrap_model(self.model),
            self.processing_class,
            [b[0] for b in blocks] if whole else prompt_ids,
            self.max_completion_length,
            temperature=self.temperature,
            samples=num_generations if whole else 1,
            batch_size=max(1, self.rollout_batch // num_generations) if whole else self.rollout_batch,
            stop=self.subject.task.stop,
            draws=Draws(("rollout", self.args.seed, num_generations, self.state.global_step), first),
            oom_setting="rollout_batch of GRPO (completions sampled together)",
        )

    def _compute_loss(self, model, inputs):
        alive = inputs["advantages"] != 0
        count, rows = self._rows_to_run(int(alive.sum())), len(alive)
        if self.beta != 0.0 or count == rows:  # with a KL term every row counts
            return super()._compute_loss(model, inputs)
        if not count:
            return sum(p.sum() for p in model.parameters() if p.requires_grad) * 0.0
        chosen = torch.argsort((~alive).int(), stable=True)[:count]  # those with an advantage, in order, come first
        kept = {k: v[chosen] if isinstance(v, Tensor) and v.dim() and len(v) == rows else v for k, v in inputs.items()}
        return super()._compute_loss(model, kept)

    @staticmethod
    def _rows_to_run(alive: int) -> int:
        """How many rows go through the model: over several processes as many in each, since TRL gathers a number a
        row, and at least one, since gradients are averaged in the backward pass."""
        return alive if world.size() == 1 else max(1, world.largest(alive))

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **kwargs
    ):
        trust = trusted(self.accelerator.unwrap_model(model), self.temperature)
        training, checkpoints = model.training, self.args.gradient_checkpointing and torch.is_grad_enabled()
        if not checkpoints:
            model.eval()  # no dropout; TRL itself looks at the mode to tell training from evaluation
        try:
            with _no_router_logits(self.accelerator.unwrap_model(model)):
                if trust.rows and (batch_size or checkpoints):
                    return super()._get_per_token_logps_and_entropies(
                        model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
                    )
                own = None if trust.head else self.temperature
                parts = [
                    completion_logps(model, *part, logits_to_keep, own)
                    for part in zip(*(x.split(batch_size or len(x)) for x in (input_ids, attention_mask)), strict=True)
                ]
        finally:
            model.train(training)
        logps, entropies = (torch.cat(side) for side in zip(*parts, strict=True))
        return logps, entropies if compute_entropy else None, None


class Recorder(TrainerCallback):
    """Keeps each step's reward and signal, passes them on, and stops at the first NaN."""

    def __init__(self, trained: Training, on_step: Callable[[dict], None] | None):
        self.trained, self.on_step = trained, on_step

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" not in (logs or {}):
            return
        if logs["reward"] is None or not math.isfinite(logs["reward"]):
            raise TrainingError(f"the reward is NaN at step {state.global_step}: the task's score is at fault")
        if not math.isfinite(logs.get("loss", 0.0)) or not math.isfinite(logs.get("grad_norm", 0.0)):
            raise TrainingError(
                f"NaN in loss or gradient at step {state.global_step}: lower learning_rate, now {args.learning_rate}"
            )
        self.trained.steps += 1
        self.trained.rewards.append(round(logs["reward"], 4))
        self.trained.signal.append(round(1.0 - logs["frac_reward_zero_std"], 4))
        if self.on_step:
            self.on_step({"step": self.trained.steps, "of": state.max_steps, "reward": logs["reward"]})


def reward_function(task: TextTask, examples: Sequence[Example]):
    def reward(prompts, completions, index, **_) -> list[float]:
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        scores = world.agreed(lambda: task.score_many(texts, [examples[i] for i in index]))
        return [score.reward for score in scores]

    return reward


@contextmanager
def _source_for_reference(model: nn.Module, beta: float) -> Iterator[None]:
    """Inside, with a KL term, the model's name is what TRL can load its reference, the untrained model, from."""
    name = model.config._name_or_path
    if beta:
        if not name:
            raise TrainingError(
                f"GRPO(beta={beta}): the KL term loads the untrained model by its name, and this one has none: load it "
                "with load_model, or leave beta at 0"
            )
        model.config._name_or_path = weights_source(name)
    try:
        yield
    finally:
        model.config._name_or_path = name


@contextmanager
def _no_router_logits(model: nn.Module) -> Iterator[None]:
    """Inside, a mixture of experts does not hand out its routers' logits, which TRL would make a loss of."""
    config = model.config.get_text_config()
    asked = getattr(config, "output_router_logits", None)
    if asked:
        config.output_router_logits = False
    try:
        yield
    finally:
        if asked:
            config.output_router_logits = asked


def _restore_forward(model: nn.Module, own_forward) -> None:
    vars(model).pop("forward", None)
    if own_forward is not None:
        model.forward = own_forward
