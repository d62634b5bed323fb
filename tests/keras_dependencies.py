"""Small Keras models whose layers share channels, for the tests of pruners that are aware of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_architectures import L, Scale, randomize
from keras_models import keras, numpy

ALL = ["Conv2D", "DepthwiseConv2D", "Dense"]


def half(*types: str, leaving: Sequence[str] = ("head",), sparsity: float = 0.5) -> list[dict[str, Any]]:
    """Half of the filters of these types of layers, all if none is named, but of some layers nothing."""
    selected = {"sparsity": sparsity, "op_types": list(types or ALL)}
    return [selected, {"exclude": True, "op_names": list(leaving)}] if leaving else [selected]


def residual() -> Any:
    """A trunk that two branches add to, and a plain layer inside of each."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = L.ReLU(name="stem_out")(L.BatchNormalization(name="stem_norm")(x))
    for index in "ab":
        y = L.Conv2D(6, 3, padding="same", use_bias=False, name=f"{index}_in")(x)
        y = L.ReLU(name=f"{index}_hidden")(L.BatchNormalization(name=f"{index}_in_norm")(y))
        y = L.Conv2D(8, 3, padding="same", name=f"{index}_out")(y)
        x = L.ReLU(name=f"{index}_sum")(L.Add()([x, L.BatchNormalization(name=f"{index}_out_norm")(y)]))
    x = L.GlobalAveragePooling2D(name="pooled")(x)
    return randomize(keras.Model(inputs, L.Dense(3, name="head")(x)))


def depthwise() -> Any:
    """An inverted residual; each channel of the depthwise layer makes one."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", name="stem")(x)
    y = L.ReLU(6.0)(L.BatchNormalization(name="wide_norm")(L.Conv2D(10, 1, name="wide")(x)))
    y = L.DepthwiseConv2D(3, padding="same", name="each")(y)
    y = L.ReLU(6.0, name="each_out")(L.BatchNormalization(name="each_norm")(y))
    x = L.Add(name="sum")([x, L.Conv2D(6, 1, name="narrow")(y)])
    x = L.GlobalAveragePooling2D(name="pooled")(x)
    return randomize(keras.Model(inputs, L.Dense(3, name="head")(x)))


def joined() -> Any:
    """Channels of two layers beside those of the input, under one batch norm."""
    inputs = keras.Input((8, 8, 3))
    a = L.Conv2D(6, 3, padding="same", name="a")(inputs)
    b = L.Conv2D(4, 3, padding="same", name="b")(a)
    x = L.Concatenate(name="all")([a, inputs, b])
    x = L.ReLU(name="out")(L.BatchNormalization(name="norm")(x))
    x = L.GlobalAveragePooling2D(name="pooled")(x)
    return randomize(keras.Model(inputs, L.Dense(3, name="head")(x)))


def gated() -> Any:
    """Channels times a gate for each, made from their means."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Activation("silu")(L.BatchNormalization(name="norm")(L.Conv2D(8, 3, name="conv")(x)))
    s = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x))
    s = L.Conv2D(4, 1, activation="silu", name="squeeze")(s)
    s = L.Conv2D(8, 1, activation="sigmoid", name="excite")(s)
    x = L.Multiply(name="out")([x, s])
    x = L.GlobalAveragePooling2D(name="pooled")(x)
    return randomize(keras.Model(inputs, L.Dense(3, name="head")(x)))


def layer_normalized() -> Any:
    """Blocks with layer norms, dense layers and scales of their own, in a nested model."""
    inner_in = x = keras.Input((None, None, 8))
    y = L.Conv2D(8, 3, padding="same", groups=8, name="each")(x)
    y = L.LayerNormalization(name="norm")(y)
    y = L.Dense(8, name="narrow")(L.Dense(12, "gelu", name="wide")(y))
    inner = keras.Model(inner_in, L.Add()([x, Scale(0.5, 8, name="scale")(y)]), name="block")
    x = inputs = keras.Input((8, 8, 3))
    x = L.LayerNormalization(name="stem_norm")(L.Conv2D(8, 2, strides=2, name="stem")(x))
    x = L.LayerNormalization(name="out")(inner(inner(x)))
    x = L.GlobalAveragePooling2D(name="pooled")(x)
    return randomize(keras.Model(inputs, L.Dense(3, name="head")(x)))


FILTER_DIMS = {"DepthwiseConv2D": (-2, -1), "Conv2DTranspose": (-2,)}


def layer_of(model: Any, name: str) -> Any:
    for part in name.split("/"):
        model = model.get_layer(part)
    return model


def rows(model: Any, name: str) -> Any:
    """The filters of a layer's kernel, by Keras's documentation of its layout: (filters, entries)."""
    layer = layer_of(model, name)
    dims = FILTER_DIMS.get(type(layer).__name__, (-1,))
    weight = np.moveaxis(numpy(layer.kernel).astype(float), dims, range(len(dims)))
    return weight.reshape(int(np.prod(weight.shape[: len(dims)])), -1)


def lowest(scores: Any, fraction: float) -> Any:
    """Which units stay, without the `int(fraction * units)` of the lowest scores."""
    kept = np.ones(len(scores), bool)
    kept[np.argsort(scores, kind="stable")[: int(len(scores) * fraction)]] = False
    return kept


def kept_channels(masks: Mapping[str, Any], name: str, dims: Sequence[int] = (-1,)) -> Any:
    """Which channels of a variable a mask leaves; it has to leave whole ones."""
    mask = np.moveaxis(masks[name], dims, range(len(dims)))
    flat = mask.reshape(int(np.prod(mask.shape[: len(dims)])), -1)
    assert (flat.all(1) == flat.any(1)).all(), name
    return flat.all(1)


def inside(model: Any, name: str, x: Any) -> Any:
    """What a layer gives."""
    return numpy(keras.Model(model.inputs, model.get_layer(name).output)(x, training=False))
