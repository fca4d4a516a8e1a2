"""Language models that load by a name: by what a token attends to, and by what the blocks are made of."""

from zoo.kinds import VOCABULARY, language

# --- attention to everything before, by position: the usual kind
USUAL = (
    "llama qwen2 qwen3 phi gpt_neox stablelm olmo olmo2 glm glm4 granite smollm3 gemma helium persimmon nemotron "
    "apertus bitnet ernie4_5 diffllama nanochat biogpt xglm"
)
for one in USUAL.split():
    language(one)
language("cohere", logit_scale=1.0)
language("phi3", sliding_window=None)
language("starcoder2", sliding_window=None)
language("llama tied", "llama", tie_word_embeddings=True)
language("llama dynamic rope", "llama", max_position_embeddings=24,
         rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0})  # fmt: skip
language("phi3 longrope", "phi3", sliding_window=None, original_max_position_embeddings=24,
         rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0, "partial_rotary_factor": 1.0,
                          "original_max_position_embeddings": 24,
                          "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]})  # fmt: skip
language("llama few positions", "llama", max_position_embeddings=24)
language("opt few positions", "opt", max_position_embeddings=24, dropout=0.0, word_embed_proj_dim=32)
language("falcon", num_kv_heads=1)
language("falcon new", "falcon", num_kv_heads=2, new_decoder_architecture=True)
language("opt", dropout=0.1, word_embed_proj_dim=32)
language("gptj", rotary_dim=4)
language("codegen", rotary_dim=4)
language("hunyuan_v1_dense")
language("llama4_text", attention_chunk_size=16, intermediate_size_mlp=48)

# --- position by distance
language("bloom")
language("mpt", max_seq_len=128, n_heads=4, n_layers=2)
language("falcon alibi", "falcon", alibi=True, num_kv_heads=1)

# --- windows
for one in ["gemma2", "gemma3_text", "gpt_oss", "vaultgemma"]:
    language(one)
language("mistral")
language("starcoder2 window", "starcoder2", sliding_window=8)
language("qwen2 window", "qwen2", use_sliding_window=True, max_window_layers=0)
language("gemma4_text", vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8, global_head_dim=8)
language("cohere2", num_hidden_layers=4, logit_scale=1.0)
language("olmo3", num_hidden_layers=4)
language("exaone4", num_hidden_layers=4)
language("gpt_neo", attention_types=[[["global", "local"], 1]], window_size=16, intermediate_size=48)
language("granite_swa")
language("modernbert-decoder", local_attention=16, num_hidden_layers=4, bos_token_id=2, cls_token_id=2, sep_token_id=3)
language("moshi")
language("doge", num_key_value_heads=4)
language("doge window", "doge", num_key_value_heads=4, keep_window_size=8)

# --- GPT-2's transposed weights, fused attention
language("gpt2", attn_pdrop=0.1)
language("gpt_bigcode")
language("openai-gpt")
language("ctrl", dff=48)

# --- mixtures of experts
MIXTURES = "qwen2_moe olmoe granitemoe phimoe minimax_m2 jetmoe aria_text flex_olmo"
for one in MIXTURES.split():
    language(one)
language("mixtral", sliding_window=None)
language("mixtral window", "mixtral", sliding_window=8)
language("qwen3_moe")
language("qwen3_moe dense", "qwen3_moe", mlp_only_layers=[0])  # and a layer without experts
language("deepseek_v2", first_k_dense_replace=1, num_key_value_heads=4)
language("deepseek_v3", first_k_dense_replace=1, num_key_value_heads=4)
language("glm4_moe", first_k_dense_replace=1)
language("ernie4_5_moe", moe_num_experts=4, moe_k=2, moe_num_shared_experts=1, moe_layer_start_index=1)
language("dots1", first_k_dense_replace=1)
language("hunyuan_v1_moe")
language("dbrx", attn_config={"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8}, n_heads=4, n_layers=2,
         max_seq_len=128, ffn_config={"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2})  # fmt: skip

# --- state beside or instead of attention
language("mamba", state_size=8, time_step_rank=6)
language("mamba with targets", "mamba", state_size=8, time_step_rank=6, targets=("in_proj", "x_proj", "out_proj"))
language("falcon_mamba", state_size=8, time_step_rank=6)
language("mamba2", state_size=8, num_heads=8, head_dim=8, n_groups=1, chunk_size=8)
JAMBA = dict(mamba_d_state=8, mamba_dt_rank=6, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2)
language("jamba", **JAMBA)
language("jamba with targets", "jamba", targets=("in_proj", "q_proj", "v_proj", "up_proj"), **JAMBA)
language("falcon_h1", mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8)
language("bamba", mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8, num_hidden_layers=4,
         attn_layer_indices=[1])  # fmt: skip
language("lfm2", layer_types=["conv", "full_attention"], block_multiple_of=8, block_ff_dim=48, intermediate_size=48)
language("recurrent_gemma", num_hidden_layers=3, lru_width=32, attention_window_size=16)
language("qwen3_next", num_hidden_layers=4, gain=0.5)
ZAMBA2 = dict(num_hidden_layers=4, layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], n_mamba_heads=8,
              mamba_d_state=8, mamba_headdim=8, chunk_size=8, num_mem_blocks=1, hybrid_layer_ids=[1, 3],
              attention_hidden_size=64, attention_head_dim=16, adapter_rank=8, kv_channels=8)  # fmt: skip
language("zamba2", **ZAMBA2)
language("zamba2 with targets", "zamba2", targets=("in_proj", "linear", "out_proj"), **ZAMBA2)
language("granitemoehybrid", mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8,
         layer_types=["mamba", "attention"])  # fmt: skip
language("nemotron_h", mamba_num_heads=8, mamba_head_dim=8, ssm_state_size=8, chunk_size=8, n_groups=1)
language("minimax", block_size=8)
language("rwkv", attention_hidden_size=32)
language("olmo_hybrid", num_hidden_layers=4, gain=0.5)

# --- more of each sort
MORE = "afmoe exaone_moe mimo_v2_flash flint hrm_text beam"
for one in MORE.split():
    language(one)
language("youtu", num_key_value_heads=4, tie_word_embeddings=False)
language("minicpm3", num_key_value_heads=4, dim_model_base=32)
language("longcat_flash", num_key_value_heads=4)
language("deepseek_v32", num_key_value_heads=4, index_topk=8, index_n_heads=4, index_head_dim=16)
for one in ("bailing_hybrid", "kimi_linear"):
    language(one, linear_head_dim=8, linear_num_heads=4, num_key_value_heads=4, mlp_layer_types=["dense", "sparse"],
             layer_types=["linear_attention", "full_attention"])  # fmt: skip
language("qwen3_5_text", num_hidden_layers=4, gain=0.5)
language("lfm2_moe", layer_types=["conv", "full_attention"])
language("zamba", num_hidden_layers=4, layers_block_type=["mamba", "hybrid"] * 2, mamba_d_state=8, n_mamba_heads=2,
         mamba_dt_rank=6, attention_hidden_size=64, attention_head_dim=16)  # fmt: skip
language("gemma3n_text", num_hidden_layers=4, vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8,
         num_kv_shared_layers=2, laurel_rank=4, activation_sparsity_pattern=[0.0] * 4,
         layer_types=["sliding_attention", "full_attention"] * 2)  # fmt: skip
language("mixtral router loss", "mixtral", sliding_window=None, output_router_logits=True)

# --- encoders and encoder-decoders given as language models
for one in ["bert", "roberta"]:
    language(f"{one} as a language model", one)
language("bart decoder as a language model", "bart", decoder_ffn_dim=48, encoder_ffn_dim=48, decoder_layers=2,
         encoder_layers=2, decoder_attention_heads=4, encoder_attention_heads=4, decoder_start_token_id=0)  # fmt: skip
