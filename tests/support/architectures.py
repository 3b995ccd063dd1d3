"""Tiny random models of every causal architecture that transformers has."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

# By the names that configurations have for them.
SIZES: dict[str, Any] = {
    **dict.fromkeys("hidden_size d_model n_embd dim emb_dim lru_width".split(), 32),
    **dict.fromkeys("word_embed_proj_dim embedding_size dim_model".split(), 32),
    **dict.fromkeys("intermediate_size ffn_dim n_inner ffn_hidden_size dim_ff".split(), 64),
    **dict.fromkeys("decoder_ffn_dim encoder_ffn_dim dff shared_intermediate_size".split(), 64),
    **dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size".split(), 16),
    **dict.fromkeys("num_hidden_layers n_layer n_layers num_layers decoder_layers".split(), 2),
    **dict.fromkeys("num_decoder_layers encoder_layers num_encoder_layers".split(), 2),
    **dict.fromkeys("num_attention_heads n_head n_heads num_heads num_kv_heads".split(), 4),
    **dict.fromkeys("decoder_attention_heads encoder_attention_heads".split(), 4),
    **dict.fromkeys("num_decoder_attention_heads num_encoder_attention_heads".split(), 4),
    **dict.fromkeys("max_position_embeddings n_positions n_ctx max_seq_len".split(), 512),
    **dict.fromkeys("num_experts num_local_experts n_routed_experts".split(), 4),
    **dict.fromkeys("moe_num_experts moe_num_shared_experts".split(), 4),
    **dict.fromkeys("num_experts_per_tok moe_topk".split(), 2),
    **dict.fromkeys("n_group topk_group mamba_n_groups n_groups mamba_ngroups".split(), 1),
    **dict.fromkeys("kv_lora_rank head_dim qk_nope_head_dim qk_rope_head_dim".split(), 8),
    **dict.fromkeys("v_head_dim mamba_d_state state_size ssm_state_size rotary_dim".split(), 8),
    **dict.fromkeys("linear_key_head_dim linear_value_head_dim index_head_dim".split(), 8),
    **dict.fromkeys("sliding_window attention_window global_head_dim dim_head".split(), 8),
    **dict.fromkeys(
        "q_lora_rank mamba_d_head mamba_headdim mamba_head_dim qk_head_dim".split(), 16
    ),
    **dict.fromkeys(
        "mamba_n_heads mamba_num_heads n_mamba_heads linear_num_value_heads".split(), 4
    ),
    **dict.fromkeys("linear_num_key_heads mamba_expand time_step_rank index_n_heads".split(), 2),
    "mamba_d_ssm": 64,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 2,
    "index_topk": 64,
    "use_mamba_kernels": False,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 258,
}
LATENT = {"num_key_value_heads": 4}  # multi-head latent attention has a key for every head
HYBRID = {"num_hidden_layers": 4}  # every fourth layer is attention
OPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys("axk1 axk2 deepseek_v3 deepseek_v32 glm4_moe_lite".split(), LATENT),
    **dict.fromkeys("glm_moe_dsa minicpm3 youtu dots3_note dots3_note_text".split(), LATENT),
    **dict.fromkeys("qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text".split(), HYBRID),
    **dict.fromkeys(
        "qwen3_next qwen4_exp qwen4_exp_text kimi_linear recurrent_gemma".split(), HYBRID
    ),
    "bailing_hybrid": {"layer_group_size": 2, "num_key_value_heads": 4, "head_dim": 16},
    "deepseek_v2": {"topk_method": "greedy", "num_experts_per_tok": 2, **LATENT},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
    "ernie4_5_moe": {"moe_k": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    **{key: {"bos_token_id": 0} for key in "cwm emu3 mllama modernbert-decoder".split()},
    "falcon_alibi": {"alibi": True, "new_decoder_architecture": False, "multi_query": False},
    "reformer": {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (16, 32)},
}
NAMES = {"falcon_alibi": "falcon"}


def tiny_of(architecture: str, seed: int = 0) -> PreTrainedModel:
    """A random float32 model whose logits are sharp, of what the architecture reads text with.

    Raises:
        Exception: the sizes do not fit this architecture, of whatever kind it says so by.
    """
    whole = AutoConfig.for_model(NAMES.get(architecture, architecture))
    text = whole.get_text_config(decoder=True)
    known = {**(whole.to_dict() if type(whole) is type(text) else {}), **text.to_dict()}
    sizes = {key: size for key, size in SIZES.items() if known.get(key) is not None}
    if "num_key_value_heads" in known:
        sizes["num_key_value_heads"] = SIZES["num_key_value_heads"]
    ids = {"vocab_size": 258, "eos_token_id": 256, "pad_token_id": 257, "bos_token_id": None}
    own = {"is_decoder": True, "tie_word_embeddings": False, **OPTIONS.get(architecture, {})}
    config = type(text)(**{**sizes, **ids, **own})
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > 5_000_000:
        raise ValueError(f"{size} parameters are not tiny")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "conv" not in name and "A_log" not in name:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
        head = model.get_output_embeddings()
        if head is not None:
            head.weight.mul_(8.0)
            head.weight[256:] = 0
    model.generation_config = GenerationConfig()  # no forced tokens
    model.generation_config.eos_token_id = 256
    model.generation_config.pad_token_id = 257
    return model
