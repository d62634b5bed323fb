"""PyTorch's own attention modules, and a Hugging Face Llama."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hugging_face import tiny_llama

from ._registry import Built, micro


class SelfAttention(nn.Module):
    """nn.MultiheadAttention between two linear layers; `what` picks the outputs that are used."""

    def __init__(self, what: str = "output", **options: Any) -> None:
        super().__init__()
        self.what = what
        self.embed, self.head = nn.Linear(6, 24), nn.Linear(24, 5)
        self.attn = nn.MultiheadAttention(24, 4, **options)

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        if self.what == "output":
            return self.head(x + self.attn(x, x, x, need_weights=False)[0])
        y, weights = self.attn(x, x, x, average_attn_weights=self.what == "mean weights")
        return self.head(x + y), weights


ATTENDED = {
    "embed.weight": 0,
    "attn.in_proj_weight": (0, 1),
    "attn.out_proj.weight": (0, 1),
    "head.weight": 1,
}


@micro("mha_self", halved={**ATTENDED, "attn.in_proj_bias": 0})
def mha_self() -> Built:
    """embed_dim is asserted in forward, head size is embed_dim // num_heads, and the input is as wide."""
    return SelfAttention(), (torch.randn(3, 2, 6),), {}


@micro("mha_batch_first", halved=ATTENDED)
def mha_batch_first() -> Built:
    return SelfAttention(batch_first=True, bias=False), (torch.randn(2, 3, 6),), {}


@micro("mha_head_weights", halved=ATTENDED)
def mha_head_weights() -> Built:
    """The weights of every head are an output: heads stay, head sizes shrink."""
    return SelfAttention("weights", batch_first=True), (torch.randn(2, 3, 6),), {}


@micro("mha_mean_weights", halved=ATTENDED, exact=None)
def mha_mean_weights() -> Built:
    """The mean over heads is an output: a removed head would have been part of it."""
    return SelfAttention("mean weights"), (torch.randn(3, 2, 6),), {}


class CrossAttended(nn.Module):
    """Queries, keys and values of three widths; the mask is an input, an extra key is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory = nn.Linear(6, 24), nn.Linear(7, 14)
        self.attn = nn.MultiheadAttention(24, 4, kdim=14, vdim=14, batch_first=True, add_bias_kv=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x_BTF: Tensor, z_BSF: Tensor, padding_BS: Tensor) -> Tensor:
        z_BSM = self.memory(z_BSF)
        y_BTE, _ = self.attn(self.embed(x_BTF), z_BSM, z_BSM, key_padding_mask=padding_BS, need_weights=True)
        return self.head(y_BTE)


@micro(
    "mha_cross",
    halved={
        "embed.weight": 0,
        "memory.weight": 0,
        "attn.q_proj_weight": (0, 1),
        "attn.k_proj_weight": (0, 1),
        "attn.v_proj_weight": (0, 1),
        "attn.bias_k": 2,
        "attn.out_proj.weight": (0, 1),
        "head.weight": 1,
    },
)
def mha_cross() -> Built:
    padding_BS = torch.tensor([[False, False, True, True], [False] * 4])
    return CrossAttended(), (torch.randn(2, 3, 6), torch.randn(2, 4, 7), padding_BS), {}


@micro(
    "mha_on_the_input",
    whole={"in_proj_weight": (0, 1), "out_proj.weight": 0},
    frozen="input|output|embed_dim",
)
def mha_on_the_input() -> Built:
    """Alone, the module's width is fixed by its input: embed_dim is checked against the query."""
    x_TBE = torch.randn(3, 2, 24)
    return nn.MultiheadAttention(24, 4), (x_TBE, x_TBE, x_TBE), {"need_weights": False}


class Encoder(nn.Module):
    def __init__(self, layers: int, **options: Any) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 24), nn.Linear(24, 5)
        layer = nn.TransformerEncoderLayer(24, 4, 20, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x_BTF: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x_BTF)))


def encoder_layer(at: str) -> dict[str, Any]:
    return {
        f"{at}.self_attn.in_proj_weight": (0, 1),
        f"{at}.self_attn.out_proj.weight": (0, 1),
        f"{at}.linear1.weight": (0, 1),
        f"{at}.linear2.weight": (0, 1),
        f"{at}.norm1.weight": 0,
    }


@micro(
    "transformer_encoder",
    halved={"embed.weight": 0, **encoder_layer("encoder.layers.0"), **encoder_layer("encoder.layers.1")},
    exact=False,
    norms_only=True,
)
def transformer_encoder() -> Built:
    return Encoder(2), (torch.randn(2, 3, 6),), {}


@micro(
    "transformer_encoder_pre_norm",
    halved={"embed.weight": 0, **encoder_layer("encoder.layers.0")},
    exact=False,
    norms_only=True,
)
def transformer_encoder_pre_norm() -> Built:
    return Encoder(1, norm_first=True, activation="gelu"), (torch.randn(2, 3, 6),), {}


@micro(
    "transformer_encoder_layer_alone",
    halved={"linear1.weight": 0, "linear1.bias": 0, "linear2.weight": 1},
    whole={"norm1.weight": 0, "linear1.weight": 1},
    frozen="input|output",
)
def transformer_encoder_layer_alone() -> Built:
    """Its width comes in and goes out; only the feed-forward axis can go, and that is exact."""
    return nn.TransformerEncoderLayer(24, 4, 20, batch_first=True), (torch.randn(2, 3, 24),), {}


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory, self.head = nn.Linear(6, 24), nn.Linear(7, 24), nn.Linear(24, 5)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(24, 4, 20), 2)

    def forward(self, x_TBF: Tensor, z_SBF: Tensor) -> Tensor:
        mask_TT = nn.Transformer.generate_square_subsequent_mask(len(x_TBF), dtype=x_TBF.dtype)
        return self.head(self.decoder(self.embed(x_TBF), self.memory(z_SBF), tgt_mask=mask_TT))


@micro(
    "transformer_decoder",
    halved={
        "embed.weight": 0,
        "memory.weight": 0,
        **encoder_layer("decoder.layers.0"),
        "decoder.layers.1.multihead_attn.in_proj_weight": (0, 1),
        "decoder.layers.1.multihead_attn.out_proj.weight": (0, 1),
        "head.weight": 1,
    },
    exact=False,
    norms_only=True,
)
def transformer_decoder() -> Built:
    return Decoder(), (torch.randn(3, 2, 6), torch.randn(4, 2, 7)), {}


@micro(
    "hugging_face_llama",
    halved={
        "model.layers.1.self_attn.q_proj.weight": (0, 1),
        "model.layers.1.self_attn.k_proj.weight": (0, 1),
        "model.layers.1.mlp.gate_proj.weight": (0, 1),
        "model.layers.1.mlp.down_proj.weight": (0, 1),
        "model.embed_tokens.weight": 1,
        "lm_head.weight": 1,
    },
    exact=False,
    norms_only=True,
    tolerance=1e-5,
)
def hugging_face_llama() -> Built:
    """Keyword inputs, a ModelOutput, grouped queries, rotary positions, a config."""
    return tiny_llama(), (), {"input_ids": torch.randint(0, 31, (2, 4)), "use_cache": False}
