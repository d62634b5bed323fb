"""Attention written out: heads from fused or separate projections, grouped, rotary, windowed.

Letters: B batch, T and S tokens, E embedding, H heads, K key/value heads, D head size, F input features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ._registry import Built, micro


class Attention(nn.Module):
    """Between an embedding and a head, so that every one of its dimensions can shrink."""

    def __init__(self, width: int = 24, embed: int = 14) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, embed), nn.Linear(embed, 5)
        self.proj = nn.Linear(width, embed)
        self.num_heads, self.head_dim = 4, width // 4

    def mix(self, x_BTE: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x_BTF: Tensor) -> Tensor:
        x_BTE = self.embed(x_BTF)
        return self.head(x_BTE + self.proj(self.mix(x_BTE)))


def tokens(model: nn.Module, length: int = 3) -> Built:
    return model, (torch.randn(2, length, 6),), {}


OUTSIDE = {"embed.weight": 0, "proj.weight": (0, 1), "head.weight": 1}
FUSED = {**OUTSIDE, "qkv.weight": (0, 1), "qkv.bias": 0}
SEPARATE = {**OUTSIDE, "q.weight": (0, 1), "k.weight": (0, 1), "v.weight": (0, 1)}


class FusedQKV(Attention):
    """qkv as (3, H, D), the order of timm's ViT; scale from the attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(14, 72)
        self.scale = self.head_dim**-0.5

    def mix(self, x_BTE: Tensor) -> Tensor:
        b, t, _ = x_BTE.shape
        qkv = self.qkv(x_BTE).reshape(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q_BHTD, k_BHSD, v_BHSD = qkv.unbind(0)
        weights_BHTS = (q_BHTD * self.scale @ k_BHSD.transpose(-2, -1)).softmax(dim=-1)
        return (weights_BHTS @ v_BHSD).transpose(1, 2).reshape(b, t, self.num_heads * self.head_dim)


@micro("fused_qkv_3hd", halved=FUSED)
def fused_qkv_3hd() -> Built:
    return tokens(FusedQKV())


class FusedHeadFirst(Attention):
    """qkv as (H, 3, D), the order of BLOOM and GPT-NeoX, in one fused attention call."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(14, 72)

    def mix(self, x_BTE: Tensor) -> Tensor:
        b, t, _ = x_BTE.shape
        qkv = self.qkv(x_BTE).view(b, t, self.num_heads, 3 * self.head_dim).transpose(1, 2)
        q_BHTD, k_BHSD, v_BHSD = qkv.chunk(3, dim=-1)
        y_BHTD = scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, is_causal=True)
        return y_BHTD.transpose(1, 2).reshape(b, t, -1)


@micro("fused_qkv_h3d", halved=FUSED)
def fused_qkv_h3d() -> Built:
    return tokens(FusedHeadFirst())


class FusedSplit(Attention):
    """GPT-2: three equal pieces by split(width), then heads from the tensor's shape and num_heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.width = nn.Linear(14, 72), 24

    def heads(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.view(*x_BTC.shape[:-1], self.num_heads, -1).transpose(1, 2)

    def mix(self, x_BTE: Tensor) -> Tensor:
        q, k, v = (self.heads(part) for part in self.qkv(x_BTE).split(self.width, dim=2))
        scores = q @ k.transpose(-1, -2) / v.size(-1) ** 0.5
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return (scores.softmax(-1) @ v).permute(0, 2, 1, 3).contiguous().flatten(-2)


@micro("fused_qkv_split", halved=FUSED, exact=None)
def fused_qkv_split() -> Built:
    """The scale is read from a shape: 1/sqrt(D) follows by itself when head sizes shrink."""
    return tokens(FusedSplit())


class SeparateQKV(Attention):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(14, 24) for _ in range(3))

    def heads(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.view(x_BTC.shape[0], -1, self.num_heads, self.head_dim).transpose(1, 2)

    def mix(self, x_BTE: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x_BTE)), self.heads(self.k(x_BTE)), self.heads(self.v(x_BTE))
        y = scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(x_BTE.shape[0], x_BTE.shape[1], -1)


@micro("separate_qkv", halved=SEPARATE)
def separate_qkv() -> Built:
    """One head_dim serves q and k and also v, whose head axis is another one."""
    return tokens(SeparateQKV())


class BertStyle(SeparateQKV):
    """all_head_size kept beside num_heads and head_dim: three integers that must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.all_head_size = self.num_heads * self.head_dim

    def mix(self, x_BTE: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x_BTE)), self.heads(self.k(x_BTE)), self.heads(self.v(x_BTE))
        weights = (q @ k.transpose(-1, -2) / self.head_dim**0.5).softmax(-1)
        y = (weights @ v).permute(0, 2, 1, 3).contiguous()
        return y.view(y.size()[:-2] + (self.all_head_size,))  # noqa: RUF005 (as Hugging Face writes it)


@micro("separate_qkv_all_head_size", halved=SEPARATE)
def separate_qkv_all_head_size() -> Built:
    return tokens(BertStyle())


class QuotientHeads(SeparateQKV):
    """head size is `width // num_heads`, computed in forward from an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 24

    def heads(self, x_BTC: Tensor) -> Tensor:
        b, t, _ = x_BTC.shape
        return x_BTC.view(b, t, self.num_heads, self.width // self.num_heads).transpose(1, 2)


@micro("heads_by_quotient", halved=SEPARATE)
def heads_by_quotient() -> Built:
    return tokens(QuotientHeads())


class InferredHeads(SeparateQKV):
    """A literal number of heads, head size by -1: heads stay, every head narrows."""

    def heads(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.view(x_BTC.shape[0], x_BTC.shape[1], 4, -1).transpose(1, 2)


@micro("literal_heads_inferred_size", halved=SEPARATE)
def literal_heads_inferred_size() -> Built:
    return tokens(InferredHeads())


class LiteralHeads(SeparateQKV):
    def heads(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.view(x_BTC.shape[0], x_BTC.shape[1], 4, 6).transpose(1, 2)


@micro(
    "literal_heads_literal_size",
    halved={
        "embed.weight": 0,
        "q.weight": 1,
        "k.weight": 1,
        "v.weight": 1,
        "proj.weight": 0,
        "head.weight": 1,
    },
    whole={"q.weight": 0, "k.weight": 0, "v.weight": 0, "proj.weight": 1},
    frozen="view|literal|constant",
)
def literal_heads_literal_size() -> Built:
    return tokens(LiteralHeads())


class CrossAttention(Attention):
    """Queries from one stream, keys and values from another of other width and length."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Linear(7, 18)
        self.q, self.kv = nn.Linear(14, 24), nn.Linear(18, 48)

    def forward(self, x_BTF: Tensor, z_BSF: Tensor) -> Tensor:
        x_BTE, z_BSM = self.embed(x_BTF), self.memory(z_BSF)
        b, t, _ = x_BTE.shape
        q = self.q(x_BTE).reshape(b, t, self.num_heads, self.head_dim).transpose(1, 2)
        kv = (
            self.kv(z_BSM).reshape(b, z_BSM.shape[1], 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        )
        y = scaled_dot_product_attention(q, kv[0], kv[1]).transpose(1, 2).flatten(2)
        return self.head(x_BTE + self.proj(y))


@micro(
    "cross_attention",
    halved={**OUTSIDE, "memory.weight": 0, "q.weight": (0, 1), "kv.weight": (0, 1)},
)
def cross_attention() -> Built:
    return CrossAttention(), (torch.randn(2, 3, 6), torch.randn(2, 4, 7)), {}


def rotate_half(x: Tensor) -> Tensor:
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-second, first), dim=-1)


def repeat_kv(x_BKSD: Tensor, times: int) -> Tensor:
    """Llama's: (B, K, S, D) -> (B, K * times, S, D)."""
    b, k, s, d = x_BKSD.shape
    return x_BKSD[:, :, None].expand(b, k, times, s, d).reshape(b, k * times, s, d)


class Grouped(Attention):
    """Grouped-query attention: every key/value head serves R query heads."""

    def __init__(
        self, heads: int, kv_heads: int, head_dim: int, rotary: bool = False, fused: bool = False
    ) -> None:
        super().__init__(heads * head_dim)
        self.num_heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.num_key_value_groups = heads // kv_heads
        self.rotary, self.fused = rotary, fused
        self.q = nn.Linear(14, heads * head_dim, bias=False)
        self.k, self.v = (nn.Linear(14, kv_heads * head_dim, bias=False) for _ in range(2))
        frequency_D = 1.0 / 100 ** (torch.arange(0, head_dim, 2) / head_dim)
        self.register_buffer("frequency_D", frequency_D, persistent=False)

    def mix(self, x_BTE: Tensor) -> Tensor:
        b, t, _ = x_BTE.shape
        shape = (b, t, -1, self.head_dim)
        q, k, v = (f(x_BTE).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.rotary:
            angle_TD = torch.arange(t)[:, None] * self.frequency_D
            angle_TD = torch.cat((angle_TD, angle_TD), dim=-1)
            q, k = (x * angle_TD.cos() + rotate_half(x) * angle_TD.sin() for x in (q, k))
        if self.fused:
            y = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            k, v = repeat_kv(k, self.num_key_value_groups), repeat_kv(v, self.num_key_value_groups)
            y = (q @ k.mT * self.head_dim**-0.5).softmax(-1) @ v
        return y.transpose(1, 2).reshape(b, t, -1)


@micro("grouped_query", halved=SEPARATE)
def grouped_query() -> Built:
    return tokens(Grouped(8, 4, 6))


@micro("grouped_query_enable_gqa", halved=SEPARATE)
def grouped_query_enable_gqa() -> Built:
    return tokens(Grouped(8, 4, 6, fused=True))


@micro("grouped_query_rotary", halved=SEPARATE)
def grouped_query_rotary() -> Built:
    """Whole heads can go; halves of a head only in the pairs that are rotated together."""
    return tokens(Grouped(8, 4, 6, rotary=True))


@micro("multi_query", halved={**OUTSIDE, "q.weight": (0, 1), "k.weight": 1, "v.weight": 1})
def multi_query() -> Built:
    return tokens(Grouped(4, 1, 6))


@micro("multi_head_rotary", halved=SEPARATE)
def multi_head_rotary() -> Built:
    return tokens(Grouped(4, 4, 6, rotary=True))


class InterleavedRotary(Attention):
    """Pairs as neighbours (GPT-J, Llama's original): complex multiplication written with strided slices."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(14, 24) for _ in range(3))
        self.register_buffer("cos_TD", torch.rand(3, 3))
        self.register_buffer("sin_TD", torch.rand(3, 3))

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        a, b = x_BHTD[..., ::2], x_BHTD[..., 1::2]
        a, b = a * self.cos_TD - b * self.sin_TD, a * self.sin_TD + b * self.cos_TD
        return torch.stack((a, b), dim=-1).flatten(-2)

    def mix(self, x_BTE: Tensor) -> Tensor:
        b, t, _ = x_BTE.shape
        q, k, v = (f(x_BTE).view(b, t, self.num_heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)
        return y.transpose(1, 2).reshape(b, t, -1)


@micro("rotary_interleaved", halved=SEPARATE)
def rotary_interleaved() -> Built:
    return tokens(InterleavedRotary())


class ComplexRotary(InterleavedRotary):
    def rotate(self, x_BHTD: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x_BHTD.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.complex(self.cos_TD, self.sin_TD)).flatten(-2)


@micro("rotary_complex", halved=SEPARATE)
def rotary_complex() -> Built:
    return tokens(ComplexRotary())


class RelativePosition(Attention):
    """A table with one column a head, looked up by a constant index: the heads are coupled to it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(14, 72)
        self.table_PH = nn.Parameter(torch.randn(5, 4))
        index_TT = torch.arange(3)[:, None] - torch.arange(3)[None] + 2
        self.register_buffer("index_TT", index_TT)

    def mix(self, x_BTE: Tensor) -> Tensor:
        b, t, _ = x_BTE.shape
        qkv = self.qkv(x_BTE).reshape(b, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        bias_HTT = self.table_PH[self.index_TT.view(-1)].view(t, t, -1).permute(2, 0, 1).contiguous()
        weights = (q @ k.mT * self.head_dim**-0.5 + bias_HTT.unsqueeze(0)).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(b, t, -1)


@micro("relative_position_table", halved=FUSED, whole={"table_PH": 0})
def relative_position_table() -> Built:
    return tokens(RelativePosition())


class TalkingHeads(SeparateQKV):
    """Linear layers over the head axis itself, before and after softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4)

    def mix(self, x_BTE: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x_BTE)), self.heads(self.k(x_BTE)), self.heads(self.v(x_BTE))
        scores = self.before((q @ k.mT).permute(0, 2, 3, 1)).softmax(-2)
        weights = self.after(scores).permute(0, 3, 1, 2)
        return (weights @ v).transpose(1, 2).flatten(2)


@micro("talking_heads", halved=SEPARATE)
def talking_heads() -> Built:
    """Heads before, between and after the mixing are three axes tied by one num_heads."""
    return tokens(TalkingHeads())


class WithCache(SeparateQKV):
    """Keys and values of earlier tokens come in as inputs: their head axes are fixed from outside."""

    def forward(self, x_BTF: Tensor, keys_BHSD: Tensor, values_BHSD: Tensor) -> Tensor:
        x_BTE = self.embed(x_BTF)
        q, k, v = self.heads(self.q(x_BTE)), self.heads(self.k(x_BTE)), self.heads(self.v(x_BTE))
        k, v = torch.cat([keys_BHSD, k], dim=2), torch.cat([values_BHSD, v], dim=-2)
        y = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x_BTE + self.proj(y))


@micro(
    "key_value_cache",
    halved={"embed.weight": 0, "proj.weight": 0, "head.weight": 1, "q.weight": 1},
    whole={"k.weight": 0, "v.weight": 0, "q.weight": 0, "proj.weight": 1},
    frozen="input",
)
def key_value_cache() -> Built:
    return WithCache(), (torch.randn(2, 3, 6), torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6)), {}
