"""Tiny configurations of 38 Hugging Face language architectures: decoders, encoders and encoder-decoders."""

from __future__ import annotations

from benchmarks.zoo.hf_arch import DECODER, ENCODER, GROUPED, VOCAB, Arch

GPT = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 64, "n_layer": 3, "n_head": 4}
ROTARY_GPT = {**GPT, "rotary_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
BART = {
    "vocab_size": VOCAB,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}

DECODERS = [
    Arch("llama", "LlamaConfig", "LlamaForCausalLM", GROUPED),
    Arch("qwen2", "Qwen2Config", "Qwen2ForCausalLM", GROUPED),
    Arch("qwen3", "Qwen3Config", "Qwen3ForCausalLM", {**GROUPED, "head_dim": 16}),
    Arch(
        "qwen2_moe",
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        {**GROUPED, **MOE, "num_experts": 4, "shared_expert_intermediate_size": 96},
    ),
    Arch("gemma", "GemmaConfig", "GemmaForCausalLM", {**GROUPED, "head_dim": 16}),
    Arch(
        "gemma2",
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {**GROUPED, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
    ),
    Arch(
        "gemma3",
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**GROUPED, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
    ),
    Arch("mistral", "MistralConfig", "MistralForCausalLM", GROUPED),
    Arch("mixtral", "MixtralConfig", "MixtralForCausalLM", {**GROUPED, "num_local_experts": 4}),
    Arch("phi", "PhiConfig", "PhiForCausalLM", DECODER),
    Arch("phi3", "Phi3Config", "Phi3ForCausalLM", GROUPED),
    Arch("gpt2", "GPT2Config", "GPT2LMHeadModel", {**GPT, "bos_token_id": 1, "eos_token_id": 2}),
    Arch(
        "gpt_neo",
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "intermediate_size": 128,
            "max_position_embeddings": 64,
            "window_size": 8,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Arch("gpt_neox", "GPTNeoXConfig", "GPTNeoXForCausalLM", DECODER),
    Arch("gptj", "GPTJConfig", "GPTJForCausalLM", ROTARY_GPT),
    Arch(
        "bloom",
        "BloomConfig",
        "BloomForCausalLM",
        {"vocab_size": VOCAB, "hidden_size": 64, "n_layer": 3, "n_head": 4},
    ),
    Arch(
        "falcon",
        "FalconConfig",
        "FalconForCausalLM",
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Arch(
        "opt",
        "OPTConfig",
        "OPTForCausalLM",
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    Arch(
        "mpt",
        "MptConfig",
        "MptForCausalLM",
        {"vocab_size": VOCAB, "d_model": 64, "n_layers": 3, "n_heads": 4, "max_seq_len": 64},
    ),
    Arch("stablelm", "StableLmConfig", "StableLmForCausalLM", GROUPED),
    Arch("olmo", "OlmoConfig", "OlmoForCausalLM", GROUPED),
    Arch("olmo2", "Olmo2Config", "Olmo2ForCausalLM", GROUPED),
    Arch("cohere", "CohereConfig", "CohereForCausalLM", GROUPED),
    Arch("starcoder2", "Starcoder2Config", "Starcoder2ForCausalLM", GROUPED),
    Arch("granite", "GraniteConfig", "GraniteForCausalLM", GROUPED),
    Arch("codegen", "CodeGenConfig", "CodeGenForCausalLM", ROTARY_GPT),
    Arch(
        "mamba",
        "MambaConfig",
        "MambaForCausalLM",
        {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8},
    ),
]

ENCODERS = [
    Arch("bert", "BertConfig", "BertForSequenceClassification", ENCODER, "masked_text"),
    Arch("roberta", "RobertaConfig", "RobertaForSequenceClassification", ENCODER, "masked_text"),
    Arch(
        "distilbert",
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {"vocab_size": VOCAB, "dim": 64, "hidden_dim": 128, "n_layers": 3, "n_heads": 4},
        "masked_text",
    ),
    Arch(
        "albert",
        "AlbertConfig",
        "AlbertForSequenceClassification",
        {**ENCODER, "embedding_size": 32},
        "masked_text",
    ),
    Arch(
        "electra",
        "ElectraConfig",
        "ElectraForSequenceClassification",
        {**ENCODER, "embedding_size": 32},
        "masked_text",
    ),
    Arch(
        "deberta_v2",
        "DebertaV2Config",
        "DebertaV2ForSequenceClassification",
        {
            **ENCODER,
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
        },
        "masked_text",
    ),
    Arch(
        "mobilebert",
        "MobileBertConfig",
        "MobileBertForSequenceClassification",
        {**ENCODER, "embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2},
        "masked_text",
    ),
    Arch(
        "modernbert",
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        {**ENCODER, "local_attention": 8, "bos_token_id": 1, "eos_token_id": 2}
        | {"cls_token_id": 1, "sep_token_id": 2},
        "masked_text",
    ),
]

ENCODER_DECODERS = [
    Arch(
        "t5",
        "T5Config",
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCAB,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 128,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        "seq2seq",
    ),
    Arch("bart", "BartConfig", "BartForConditionalGeneration", BART, "seq2seq"),
    Arch("marian", "MarianConfig", "MarianMTModel", BART, "seq2seq"),
]
