"""What every test stands on: no network, one thread a process, and a model small enough to build anew in a moment.

`make test` runs two processes at once, and two torches of two threads each would fight over two cores. One thread also
keeps results equal bit for bit between a test and the children that it starts, which inherit the setting. It has to be
set before torch is imported.
"""

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="disabled",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
)

from collections.abc import Callable  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from helpers import Killed  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from boostlib.models.classifier import SequenceClassifier  # noqa: E402

# the time of one example says more about the machine than about the code
hypothesis.settings.register_profile("boostlib", deadline=None)
hypothesis.settings.load_profile("boostlib")


ALONE = ("test_notebooks.py", "test_zoo.py")  # files whose tests share nothing: a worker takes one test at a time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks come first, as each takes long; the zoo's many short tests last, to fill both workers to the end."""
    items.sort(key=lambda item: ("notebook" not in item.fixturenames, item.path.name == "test_zoo.py"))


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """With several workers a file's tests stay in one of them, as they share fixtures. xdist's own `--dist loadgroup`
    writes an attribute that pytest 9.2 does not read, and groups nothing."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if file.endswith(ALONE) else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


SPECIAL = ["<pad>", "<eos>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    """`tiny_llama(seed=0, dtype=torch.float32, layers=2)`: a fresh random model, 7 target modules a layer."""

    def build(seed: int = 0, dtype: torch.dtype = torch.float32, layers: int = 2) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=len(SPECIAL) + 256,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
            tie_word_embeddings=True,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).to(dtype).eval()

    return build


@pytest.fixture(scope="session")
def lively(tiny_llama):
    """lively(dtype): a tiny model that does not merely repeat its last token."""

    def build(dtype=torch.float32):
        model = tiny_llama(3)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "layers" in name and parameter.dim() == 2:
                    parameter.mul_(8)
        return model.to(dtype)

    return build


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that every text comes back as it was; ids 0 and 1 are pad and eos."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


PROTEIN_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTVWY"]


@pytest.fixture(scope="session")
def tiny_protein_tokenizer() -> PreTrainedTokenizerFast:
    """A token a residue, as AntiBERTy has them."""
    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(PROTEIN_TOKENS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=128, **special)


@pytest.fixture(scope="session")
def tiny_classifier() -> Callable[..., SequenceClassifier]:
    """`tiny_classifier(seed=0, dtype=torch.float32, layers=2)`: a fresh random encoder with a random head, 6 target
    modules a layer."""

    def build(seed: int = 0, dtype: torch.dtype = torch.float32, layers: int = 2) -> SequenceClassifier:
        config = BertConfig(
            vocab_size=len(PROTEIN_TOKENS),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=128,
            initializer_range=0.2,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = SequenceClassifier(BertModel(config).to(dtype))
            model.head.weight.data.normal_()
        return model.eval()

    return build


@pytest.fixture
def die_at(monkeypatch):
    """die_at(n): the n-th point where a crash must be survivable is the last; returns the points passed."""

    def arm(n: int | None) -> list[str]:
        passed = []

        def reached(point: str) -> None:
            passed.append(point)
            if len(passed) - 1 == n:
                raise Killed(point)

        monkeypatch.setattr("boostlib.common.durable.reached", reached)
        monkeypatch.setattr("boostlib.records.ledger.reached", reached)
        return passed

    return arm
