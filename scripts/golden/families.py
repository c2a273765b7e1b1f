"""Configurations of the tiny models: as small as their parts allow, and no two
sizes equal that a wrong reading could take for each other where that is cheap."""

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
    "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 126, "eos_token_id": 127,
    "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
    "intermediate_size": 64, "max_position_embeddings": 512, "max_window_layers": 2,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0,
    "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 128,
}
MOE = QWEN3 | {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
    "decoder_sparse_step": 1, "mlp_only_layers": [0], "moe_intermediate_size": 32,
    "norm_topk_prob": True, "num_experts": 8, "num_experts_per_tok": 2,
    "output_router_logits": False, "router_aux_loss_coef": 0.001,
}
WINDOW = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 126, "eos_token_id": 127,
    "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
    "intermediate_size": 64,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "max_position_embeddings": 512, "mlp_bias": False,
    "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "sliding_window": 16, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_cache": True, "vocab_size": 128,
}
UNTIED = {"tie_word_embeddings": False}
SMALL = {"intermediate_size": 32}
FEW = {"num_attention_heads": 2, "num_key_value_heads": 1}
ONE = {"num_key_value_heads": 1}
WIDE = {"hidden_size": 128, "intermediate_size": 128}

# What all families below have.
BASE = FEW | {
    "attention_dropout": 0.0, "bos_token_id": 126, "eos_token_id": 127,
    "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
    "intermediate_size": 64, "max_position_embeddings": 512, "num_hidden_layers": 2,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 128,
}


def family(name, architecture, *parts):
    whole = BASE | {"model_type": name, "architectures": [architecture]}
    for part in parts:
        whole = whole | part
    return whole


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
        "beta_fast": 8.0, "beta_slow": 1.0}
LLAMA3 = family("llama", "LlamaForCausalLM", {
    "attention_bias": False, "mlp_bias": False, "head_dim": 32, "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32}})
LINEAR = family("llama", "LlamaForCausalLM", UNTIED | SMALL | {
    "attention_bias": True, "mlp_bias": True, "head_dim": 32,
    "rope_scaling": {"type": "linear", "factor": 4.0}})
MISTRAL = family("mistral", "MistralForCausalLM", UNTIED | SMALL | {
    "head_dim": 32, "rope_scaling": YARN, "sliding_window": None})
MINISTRAL3 = family("ministral3", "Ministral3ForCausalLM", {
    "head_dim": 32, "sliding_window": None, "rope_parameters": {
        **YARN, "type": "yarn", "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.3, "rope_theta": 1000000.0}})
QWEN2 = family("qwen2", "Qwen2ForCausalLM", {
    "max_window_layers": 2, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
    "sliding_window": 32768, "use_sliding_window": False})
QWEN2_MOE = family("qwen2_moe", "Qwen2MoeForCausalLM", UNTIED | {
    "decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 32,
    "norm_topk_prob": False, "num_experts": 4, "num_experts_per_tok": 2,
    "output_router_logits": False, "router_aux_loss_coef": 0.001,
    "rope_theta": 1000000.0, "shared_expert_intermediate_size": 64,
    "use_sliding_window": False})
GEMMA2 = family("gemma2", "Gemma2ForCausalLM", SMALL | {
    "attention_bias": False, "attn_logit_softcapping": 5.0, "cache_implementation": "hybrid",
    "final_logit_softcapping": 8.0, "head_dim": 32, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 8,
    "rms_norm_eps": 1e-06, "sliding_window": 4096})
GEMMA3 = family("gemma3_text", "Gemma3ForCausalLM", SMALL | {
    "attention_bias": False, "attn_logit_softcapping": None, "final_logit_softcapping": None,
    "head_dim": 32, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 96,
    "num_hidden_layers": 3, "query_pre_attn_scalar": 16, "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 1000.0, "rope_scaling": None, "rope_theta": 1000000.0,
    "sliding_window": 16, "sliding_window_pattern": 3})
# The parts of gemma3 in the shape of the multimodal repositories: much is left
# to defaults there, as in google/gemma-3-4b-it.
NESTED = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "boi_token_index": 120, "eoi_token_index": 121, "image_token_index": 122,
    "eos_token_id": [1, 127], "initializer_range": 0.02, "mm_tokens_per_image": 4,
    "torch_dtype": "bfloat16", "vocab_size": 128,
    "text_config": {
        "head_dim": 16, "hidden_size": 64, "intermediate_size": 32, "model_type": "gemma3_text",
        "num_hidden_layers": 2, "query_pre_attn_scalar": 4,
        "rope_scaling": {"factor": 4.0, "rope_type": "linear"}, "rope_theta": 1000.0,
        "sliding_window": 16, "sliding_window_pattern": 2},
}
PHI3 = family("phi3", "Phi3ForCausalLM", SMALL | {
    "attention_bias": False, "embd_pdrop": 0.0, "mlp_bias": False,
    "original_max_position_embeddings": 64, "partial_rotary_factor": 0.75,
    "resid_pdrop": 0.0, "sliding_window": 262144, "rope_scaling": {
        "type": "longrope", "short_factor": [1.0 + i / 24 for i in range(12)],
        "long_factor": [1.0, 1.125, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]}})
MIXTRAL = family("mixtral", "MixtralForCausalLM", UNTIED | {
    "intermediate_size": 32, "num_experts_per_tok": 2, "num_local_experts": 4,
    "output_router_logits": False, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
    "sliding_window": None})
GPT_OSS = family("gpt_oss", "GptOssForCausalLM", UNTIED | {
    "attention_bias": True, "experts_per_token": 2, "head_dim": 32,
    "layer_types": ["sliding_attention", "full_attention"], "num_experts_per_tok": 2,
    "num_local_experts": 4, "output_router_logits": False, "rope_scaling": {
        **YARN, "factor": 8.0, "truncate": False}, "rope_theta": 150000,
    "router_aux_loss_coef": 0.9, "sliding_window": 16, "swiglu_limit": 7.0})
OLMO2 = family("olmo2", "Olmo2ForCausalLM", UNTIED | SMALL | {
    "attention_bias": False, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 500000.0})
OLMO3 = family("olmo3", "Olmo3ForCausalLM", UNTIED | {
    "attention_bias": False, "layer_types": [
        "sliding_attention", "sliding_attention", "full_attention"],
    "num_hidden_layers": 3, "rms_norm_eps": 1e-06, "rope_scaling": YARN,
    "rope_theta": 500000.0, "sliding_window": 16})
SMOLLM3 = family("smollm3", "SmolLM3ForCausalLM", SMALL | {
    "attention_bias": False, "layer_types": ["full_attention"] * 3, "mlp_bias": False,
    "no_rope_layer_interval": 4, "no_rope_layers": [1, 0, 1], "num_hidden_layers": 3,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 5000000.0,
    "sliding_window": None, "use_sliding_window": False})
GRANITE = family("granite", "GraniteForCausalLM", {
    "attention_bias": False, "attention_multiplier": 0.4, "embedding_multiplier": 6.0,
    "logits_scaling": 2.5, "mlp_bias": False, "residual_multiplier": 0.3,
    "rope_scaling": None})
GRANITE4 = family("granitemoehybrid", "GraniteMoeHybridForCausalLM", SMALL | {
    "attention_bias": False, "attention_multiplier": 0.09, "embedding_multiplier": 5.0,
    "layer_types": ["attention"] * 2, "logits_scaling": 0.5, "mlp_bias": False,
    "num_experts_per_tok": 0, "num_local_experts": 0, "position_embedding_type": "rope",
    "residual_multiplier": 0.4, "rope_scaling": None, "shared_intermediate_size": 32})

MISTRAL3 = {
    "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
    "image_token_index": 120, "spatial_merge_size": 2, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "text_config": {
        k: v for k, v in MINISTRAL3.items() if k not in ("architectures", "torch_dtype")},
}
# Gated delta nets, attention in every other layer; the second has no experts.
DELTA = {
    "attention_bias": False, "head_dim": 16, "hidden_size": 32,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_value_head_dim": 12, "num_attention_heads": 4,
    "num_hidden_layers": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-06}
QWEN3_NEXT = family("qwen3_next", "Qwen3NextForCausalLM", UNTIED | DELTA | {
    "decoder_sparse_step": 1, "full_attention_interval": 2, "intermediate_size": 24,
    "mlp_only_layers": [1], "moe_intermediate_size": 12, "norm_topk_prob": True,
    "num_experts": 4, "num_experts_per_tok": 2, "output_router_logits": False,
    "partial_rotary_factor": 0.5, "rope_scaling": None, "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 16,
    "use_sliding_window": False})
MROPE = {"mrope_interleaved": True, "mrope_section": [1, 1, 1],
         "partial_rotary_factor": 0.5, "rope_theta": 100000.0, "rope_type": "default"}


def qwen3_5(name, architecture, *parts):
    """A text model in the shape of the multimodal repositories."""
    text = family(name + "_text", "", DELTA, {"full_attention_interval": 3, "layer_types": [
        "linear_attention", "linear_attention", "full_attention", "linear_attention"],
        "attn_output_gate": True, "mamba_ssm_dtype": "float32", "mlp_only_layers": [],
        "mtp_num_hidden_layers": 1, "rope_parameters": MROPE}, *parts)
    for key in ("architectures", "rope_theta", "torch_dtype", "tie_word_embeddings"):
        del text[key]
    return {
        "architectures": [architecture], "model_type": name, "image_token_id": 120,
        "text_config": text, "tie_word_embeddings": False, "torch_dtype": "float32",
        "vision_start_token_id": 121, "vision_config": {
            "depth": 1, "hidden_size": 16, "model_type": name, "out_hidden_size": 32}}


QWEN3_5 = qwen3_5("qwen3_5", "Qwen3_5ForConditionalGeneration", {
    "intermediate_size": 48, "num_key_value_heads": 1})
QWEN3_5_MOE = qwen3_5("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", {
    "moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 16})
del QWEN3_5_MOE["text_config"]["intermediate_size"]
LFM2 = family("lfm2", "Lfm2ForCausalLM", {
    "block_auto_adjust_ff_dim": True, "block_dim": 48, "block_ff_dim": 72,
    "block_ffn_dim_multiplier": 1.1, "block_mlp_init_scale": 1.0, "block_multiple_of": 8,
    "block_norm_eps": 1e-05, "block_out_init_scale": 1.0, "block_use_swiglu": True,
    "conv_L_cache": 3, "conv_bias": False, "conv_dim": 48, "conv_dim_out": 48,
    "conv_use_xavier_init": True, "full_attn_idxs": [1], "hidden_size": 48, "norm_eps": 1e-05,
    "num_attention_heads": 4, "num_heads": 4, "num_hidden_layers": 3,
    "num_key_value_heads": 2, "rope_theta": 1000000.0, "use_pos_enc": True})
for key in ("hidden_act", "intermediate_size", "rms_norm_eps"):
    del LFM2[key]
F32 = {"torch_dtype": "float32"}

# Name: configuration, and quantization as (group size, bits, mode). What a model
# starts from follows from its place here, so new ones go to the end. An adapter
# names the model it is for, and has what mlx-lm calls lora_parameters.
MODELS = {
    "qwen3-bf16": (QWEN3 | SMALL | FEW, None),
    "qwen3-f16": (QWEN3 | SMALL | FEW | UNTIED | {"torch_dtype": "float16"}, None),
    "qwen3-2bit": (QWEN3 | WIDE | FEW, (64, 2, "affine")),
    "qwen3-3bit": (QWEN3 | WIDE | FEW | {"head_dim": 64}, (128, 3, "affine")),
    "qwen3-4bit": (QWEN3, (64, 4, "affine")),
    "qwen3-5bit": (QWEN3 | SMALL | ONE | UNTIED, (32, 5, "affine")),
    "qwen3-6bit": (QWEN3 | FEW | UNTIED, (64, 6, "affine")),
    "qwen3-8bit": (QWEN3 | SMALL | FEW, (32, 8, "affine")),
    "qwen3-mxfp4": (QWEN3 | FEW | UNTIED, (32, 4, "mxfp4")),
    "llama-window-bf16": (WINDOW | SMALL | FEW, None),
    "llama-window-4bit": (WINDOW, (64, 4, "affine")),
    "qwen3-moe-bf16": (MOE | SMALL | FEW | {
        "mlp_only_layers": [1], "moe_intermediate_size": 16}, None),
    "qwen3-moe-4bit": (MOE | ONE, (32, 4, "affine")),
    "llama3-rope-4bit": (LLAMA3, (64, 4, "affine")),
    "qwen2-4bit": (QWEN2, (64, 4, "affine")),
    "gemma2-bf16": (GEMMA2, None),
    "gemma3-4bit": (GEMMA3, (32, 4, "affine")),
    "gemma3-nested-bf16": (NESTED, None),
    "phi3-longrope-bf16": (PHI3, None),
    "mixtral-4bit": (MIXTRAL, (32, 4, "affine")),
    "gpt-oss-mxfp4": (GPT_OSS | F32, (32, 4, "mxfp4")),
    "olmo2-bf16": (OLMO2, None),
    "olmo3-4bit": (OLMO3, (64, 4, "affine")),
    "smollm3-bf16": (SMOLLM3, None),
    "granite-4bit": (GRANITE, (64, 4, "affine")),
    "granite4-dense-bf16": (GRANITE4, None),
    "mistral-yarn-bf16": (MISTRAL, None),
    "llama-linear-bias-f32": (LINEAR | F32, None),
    "ministral3-f32": (MINISTRAL3 | F32, None),
    "qwen2-moe-f32": (QWEN2_MOE | F32 | {
        "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
        "head_dim": 16, "num_attention_heads": 4, "num_hidden_layers": 2}, None),
    "llama-lora-4bit": ("llama3-rope-4bit", {
        "rank": 4, "dropout": 0.0, "scale": 10.0, "keys": [
            "self_attn.q_proj", "self_attn.v_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]}),
    "mistral3-nested-f32": (MISTRAL3 | F32, None),
    "qwen3-next-f32": (QWEN3_NEXT | F32, None),
    "qwen3-next-4bit": (QWEN3_NEXT | F32 | {
        "head_dim": 32, "hidden_size": 64, "intermediate_size": 64, "linear_key_head_dim": 32,
        "linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_value_head_dim": 32,
        "moe_intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
        "num_key_value_heads": 1, "shared_expert_intermediate_size": 32}, (32, 4, "affine")),
    "qwen3.5-f32": (QWEN3_5, None),
    "qwen3.5-moe-f32": (QWEN3_5_MOE, None),
    "lfm2-f32": (LFM2 | F32, None),
    "lfm2-bias-f32": ({k: v for k, v in LFM2.items() if k not in (
        "block_ff_dim", "full_attn_idxs")} | F32 | {
        "block_auto_adjust_ff_dim": False, "conv_L_cache": 4,
        "conv_bias": True, "intermediate_size": 64, "layer_types": [
            "full_attention", "conv", "conv"], "num_hidden_layers": 3}, None),
}
# Those that training does not bring to a margin that half precision leaves: they
# are random and in f32, where little margin is enough.
UNTRAINED = {
    "gpt-oss-mxfp4", "llama-linear-bias-f32", "ministral3-f32", "qwen2-moe-f32",
    "mistral3-nested-f32", "qwen3-next-f32", "qwen3-next-4bit", "qwen3.5-f32",
    "qwen3.5-moe-f32", "lfm2-f32", "lfm2-bias-f32",
}
# For those that are not there after 240 steps: how many, and the part of them in
# which they are pressed to fail where something is missing, and the last rate.
PATIENT = {
    "qwen2-4bit": (320, 15 / 16), "phi3-longrope-bf16": (320, 7 / 8),
    "gemma3-4bit": (360, 3 / 4), "gemma3-nested-bf16": (280, 7 / 8),
    "mixtral-4bit": (280, 3 / 4), "olmo2-bf16": (280, 3 / 4),
    "olmo3-4bit": (320, 3 / 4), "smollm3-bf16": (280, 3 / 4), "granite-4bit": (280, 3 / 4),
    "granite4-dense-bf16": (280, 3 / 4), "mistral-yarn-bf16": (280, 3 / 4),
    
    "llama-lora-4bit": (320, 3 / 4),
}
