"""Keras models and data for the tests of `prunus.keras`; the backend is that of KERAS_BACKEND, or torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

keras = pytest.importorskip("keras", minversion="3.3")
layers = keras.layers
BACKEND = keras.backend.backend()
ROOT = Path(__file__).parents[1]


def seeded(seed: int = 0) -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    return np.random.default_rng(seed)


def convolutions() -> Any:
    """Every convolution, batch norms, and a dense layer."""
    seeded()
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(8, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise"),
            layers.SeparableConv2D(12, 3, padding="same", name="separable"),
            layers.BatchNormalization(name="norm_2"),
            layers.Conv2DTranspose(6, 3, name="transposed"),
            layers.Conv2D(8, 3, groups=2, name="grouped"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="head"),
        ]
    )


def sequences() -> Any:
    """Attention, wrappers, recurrent cells, a nested model, a table: a Functional model of sequences."""
    seeded()
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, name="table")(inputs)
    inner = keras.Sequential([keras.Input((6, 8)), layers.Dense(8, name="inside")], name="nested")
    x = inner(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de", name="einsum")(x)
    x = layers.Reshape((6, 8))(x)
    x = layers.TimeDistributed(layers.Dense(4, name="each"), name="steps")(x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")(x)
    x = layers.GRU(4, name="gru")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


@keras.saving.register_keras_serializable("prunus_tests")
class Residual(keras.Model):  # type: ignore[misc]
    """A subclassed model, with layers in a list and a custom layer."""

    def __init__(self, width: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.width = width
        self.first = layers.Dense(width)
        self.blocks = [layers.Dense(width, activation="relu") for _ in range(2)]
        self.scale = Scaled(name="scaled")
        self.head = layers.Dense(3)

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.scale(x))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("prunus_tests")
class Scaled(layers.Layer):  # type: ignore[misc]
    """A layer that nobody knows: weights of its own, one of them in a list, where no mask can reach it."""

    def build(self, shape: Any) -> None:
        self.mixing = self.add_weight(shape=(shape[-1], shape[-1]), name="mixing")
        self.hidden = [self.add_weight(shape=(shape[-1],), name="scale", initializer="ones")]

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, self.mixing) * self.hidden[0]


def subclassed() -> Any:
    rng = seeded()
    model = Residual()
    model(rng.normal(size=(2, 5)).astype("float32"))
    return model


def batch(model: Any, size: int = 16) -> tuple[Any, Any]:
    """Inputs of a model above, and classes from 0 to 2."""
    rng = np.random.default_rng(1)
    if isinstance(model, Residual):
        x = rng.normal(size=(size, 5)).astype("float32")
    elif len(model.input_shape) == 2:
        x = rng.integers(0, 20, (size, 6))
    else:
        x = rng.normal(size=(size, *model.input_shape[1:])).astype("float32")
    return x, np.arange(size) % 3


def compiled(model: Any, optimizer: Any = "adam", **options: Any) -> Any:
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    return model


def numpy(value: Any) -> Any:
    """A copy of a variable's or a tensor's values."""
    value = getattr(value, "value", value)
    return np.array(keras.ops.convert_to_numpy(value))


def state(model: Any) -> list[Any]:
    return [numpy(variable) for variable in model.variables]


def same(before: list[Any], after: list[Any]) -> bool:
    """Bit for bit."""
    pairs = zip(before, after, strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def outputs(model: Any, x: Any) -> Any:
    if BACKEND == "jax":  # one compilation in place of one for each operation
        return numpy(model.predict_on_batch(x))
    return numpy(model(keras.ops.convert_to_tensor(x), training=False))


def removed_are_zero(model: Any) -> None:
    """What masks remove is zero in the variables themselves."""
    from prunus.keras.masked import holder_of
    from prunus.keras.walking import find_layers

    count = 0
    for each in find_layers(model):
        holder = holder_of(each.layer)
        for key, mask in {} if holder is None else dict(holder.masks).items():
            gone = numpy(mask) == 0
            assert not numpy(vars(each.layer)[key])[gone].any(), (each.name, key)
            count += int(gone.sum())
    assert count


def fresh(code: str, *arguments: str) -> str:
    """What a fresh process of this backend prints."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
