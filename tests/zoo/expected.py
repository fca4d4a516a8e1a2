"""What is not to work: kinds that are refused, and single steps that are.

The texts are regular expressions that a message matches: its reason, and its remedy where there is one.
"""

CACHE = "generates otherwise than its own plain pass says"
MERGED = r"what trains there would not be what is merged.*Leave such modules out: targets="
BLIND = r"would change them blindly. Leave them out: targets="
SHARED = r"share one weight.*leave what is shared out: targets="
CODES = r"holds no plain matrix.*Load the model unquantised"
CAUSAL = "is a causal language model.*Use an encoder, or load_model"
LACKS = "the checkpoint lacks .*give a whole checkpoint"
PADDING = "reads its padding.*Use an encoder that masks padding"

REFUSED: dict[str, str] = {
    "moshi": CACHE,
    "rwkv": CACHE,
    "doge": f"dt_proj.*{BLIND}",
    "doge window": f"dt_proj.*{BLIND}|{CACHE}",
    "deepseek_v32": f"indexer.*{BLIND}|its sparse attention leaves tokens out",
    "mamba": f"dt_proj.*{MERGED}",
    "falcon_mamba": f"dt_proj.*{MERGED}",
    "jamba": f"dt_proj.*{MERGED}",
    "zamba": SHARED,
    "zamba2": SHARED,
    "bert as a language model": "is no causal language model.*use load_classifier",
    "roberta as a language model": "is no causal language model.*use load_classifier",
    "bart decoder as a language model": f"encoder_attn.*{BLIND}",
    "t5 as a language model": "a (language|decoder-only) model",
    "bart as a language model": "a (language|decoder-only) model",
    "paligemma": "reads both ways",
    "llava by name": "does not load as a language model.*pass the model",
    "shared parameter": SHARED,
    "shared storage": SHARED,
    "int8 weights": CODES,
    "fp8 weights": CODES,
    "weight norm": r"holds no plain matrix.*remove_parametrizations",
    "offloaded": "was offloaded.*Load the whole model on one device|generates no text: .*meta tensor",
    "PEFT-wrapped": "Merge that first.*merge_and_unload",
    "fp16": "is in float16.*load it in bf16 or fp32",
    "compiled": "was compiled.*_orig_mod",
    "weight read, layer not called": f"up_proj.*{MERGED}",
    "scaled output": f"up_proj.*{MERGED}",
    "scaled weight": f"up_proj.*{MERGED}",
    "missing weight": LACKS,
    "encoder missing weight": LACKS,
    "encoder torch attention": f"out_proj.*{MERGED}",
    "encoder torch transformer layer": MERGED,
    "encoder squeezebert": "no linear layers inside blocks",
    "encoder ibert": "no linear layers inside blocks",
    "encoder longformer": f"query_global.*{BLIND}",
    "encoder big_bird": "draws at random what it attends to.*original_full",
    "encoder bart": "is an encoder-decoder model.*use an encoder",
    "encoder nystromformer": PADDING,
    "encoder convbert": PADDING,
    "encoder fnet": PADDING,
    "encoder llama": CAUSAL,
    "encoder gpt2": CAUSAL,
    "encoder mistral": CAUSAL,
    "encoder mamba": CAUSAL,
}
PARTLY: dict[tuple[str, str], str] = {
    (name, check): "and the model reads at most 24.*shorten it, lower max_new_tokens"
    for name in ("llama few positions", "opt few positions", "llama dynamic rope", "phi3 longrope")
    for check in ("greedy", "sampling", "drafts", "training")
}
PARTLY |= {
    (name, "PEFT"): "PEFT does not load it" for name in ("mamba with targets", "mamba2", "falcon_h1", "nemotron_h")
}
PARTLY["shared module", "export"] = "is not saved by transformers.*shared tensors"
