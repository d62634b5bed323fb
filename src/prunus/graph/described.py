"""Integers with which torch's own layers describe their tensors: `in_features`, `num_channels` and so on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Description:
    """`attribute = size of dimension dim of tensor, times groups where grouped`."""

    attribute: str
    tensor: str
    dim: int
    grouped: bool = False


def descriptions(module: nn.Module) -> Iterator[Description]:
    """What the integers of one of torch's layers say about its tensors."""
    if isinstance(module, nn.Linear):
        yield Description("out_features", "weight", 0)
        yield Description("in_features", "weight", 1)
    elif isinstance(module, nn.Bilinear):
        for dim, attribute in enumerate(("out_features", "in1_features", "in2_features")):
            yield Description(attribute, "weight", dim)
    elif isinstance(module, nn.modules.conv._ConvNd):
        first, second = ("in", "out") if module.transposed else ("out", "in")
        yield Description(f"{first}_channels", "weight", 0)
        yield Description(f"{second}_channels", "weight", 1, grouped=True)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        key = "weight" if module._parameters.get("weight") is not None else "running_mean"
        yield Description("num_features", key, 0)
    elif isinstance(module, nn.GroupNorm):
        yield Description("num_channels", "weight", 0)
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield Description("num_embeddings", "weight", 0)
        yield Description("embedding_dim", "weight", 1)
    elif isinstance(module, nn.PReLU):
        yield Description("num_parameters", "weight", 0)
    elif isinstance(module, nn.RNNBase):
        yield Description("input_size", "weight_ih_l0", 1)
        if module.proj_size:
            yield Description("proj_size", "weight_hh_l0", 1)
            yield Description("hidden_size", "weight_hr_l0", 1)
        else:
            yield Description("hidden_size", "weight_hh_l0", 1)
    elif isinstance(module, nn.RNNCellBase):
        yield Description("input_size", "weight_ih", 1)
        yield Description("hidden_size", "weight_hh", 1)
    elif isinstance(module, nn.MultiheadAttention):
        if module._qkv_same_embed_dim:
            for attribute in ("embed_dim", "kdim", "vdim"):
                yield Description(attribute, "in_proj_weight", 1)
        else:
            for attribute, key in (("embed_dim", "q"), ("kdim", "k"), ("vdim", "v")):
                yield Description(attribute, f"{key}_proj_weight", 1)


def described(module: nn.Module) -> Iterator[tuple[str, int]]:
    """`(attribute, value)` as the tensors that the layer holds now say."""
    for item in descriptions(module):
        tensor = getattr(module, item.tensor, None)
        if isinstance(tensor, Tensor):
            factor = int(module.groups) if item.grouped else 1  # type: ignore[arg-type]
            yield item.attribute, tensor.shape[item.dim] * factor
    if isinstance(module, nn.MultiheadAttention):
        yield "head_dim", module.out_proj.weight.shape[1] // module.num_heads
