"""Tiny configurations of 11 Hugging Face vision, vision-language and audio architectures."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.hf_arch import ENCODER, VISION, Arch

AUDIO: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}

VISION_MODELS = [
    Arch("vit", "ViTConfig", "ViTForImageClassification", VISION, "image"),
    Arch("deit", "DeiTConfig", "DeiTForImageClassification", VISION, "image"),
    Arch(
        "swin",
        "SwinConfig",
        "SwinForImageClassification",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 32,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        "image",
    ),
    Arch(
        "segformer",
        "SegformerConfig",
        "SegformerForImageClassification",
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 32, 48, 64],
            "num_attention_heads": [1, 2, 3, 4],
            "decoder_hidden_size": 32,
        },
        "image64",
    ),
    Arch(
        "convnextv2",
        "ConvNextV2Config",
        "ConvNextV2ForImageClassification",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "image_size": 64},
        "image64",
    ),
    Arch(
        "dinov2",
        "Dinov2Config",
        "Dinov2ForImageClassification",
        {k: v for k, v in VISION.items() if k != "intermediate_size"} | {"mlp_ratio": 2},
        "image",
    ),
]

VISION_LANGUAGE = [
    Arch(
        "clip",
        "CLIPConfig",
        "CLIPModel",
        {"projection_dim": 32},
        "image_text",
        nested={
            "text_config": {**ENCODER, "bos_token_id": 1, "eos_token_id": 2, "projection_dim": 32},
            "vision_config": {**VISION, "projection_dim": 32},
        },
    ),
    Arch(
        "siglip",
        "SiglipConfig",
        "SiglipModel",
        {},
        "image_text",
        nested={
            "text_config": {**ENCODER, "bos_token_id": 1, "eos_token_id": 2},
            "vision_config": VISION,
        },
    ),
]

AUDIO_MODELS = [
    Arch(
        "whisper",
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {
            "vocab_size": 100,
            "num_mel_bins": 16,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "max_source_positions": 30,
            "max_target_positions": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 3,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        "mel",
    ),
    Arch("wav2vec2", "Wav2Vec2Config", "Wav2Vec2ForCTC", AUDIO, "audio"),
    Arch("hubert", "HubertConfig", "HubertForCTC", AUDIO, "audio"),
]
