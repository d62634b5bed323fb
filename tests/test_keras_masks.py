"""Masks of prunus.keras hold in whatever trains the model, and the rest of it is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from keras_models import (
    BACKEND,
    batch,
    compiled,
    convolutions,
    keras,
    layers,
    numpy,
    outputs,
    removed_are_zero,
    same,
    seeded,
    sequences,
    state,
    subclassed,
)
from prunus.keras import AGPPruner, LevelPruner, masks_of, sparsity, strip

HALF = [{"sparsity": 0.5, "op_types": ["default"]}]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("build", [convolutions, sequences, subclassed])
def test_a_masked_model_computes_what_zeros_do_and_stays_so_in_fit(build: Callable[[], Any]) -> None:
    model = build()
    x, y = batch(model)
    whole = outputs(model, x)
    pruner = LevelPruner(model, HALF)
    assert np.array_equal(outputs(model, x), whole)  # masks of ones change nothing
    pruner.compress()
    zeroed = build()
    zeroed.set_weights([numpy(v) for v in model.weights if not v.path.endswith("_mask")])
    np.testing.assert_allclose(outputs(model, x), outputs(zeroed, x), rtol=1e-6, atol=1e-6)
    compiled(model, keras.optimizers.Adam(0.01, weight_decay=0.01))
    before = [numpy(v) for v in model.trainable_variables]
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    removed_are_zero(model)
    moved = [not np.array_equal(a, numpy(b)) for a, b in zip(before, model.trainable_variables, strict=True)]
    assert sum(moved) > len(moved) // 2
    assert sparsity(model) == pytest.approx(0.5, abs=0.01)


def dense_model() -> Any:
    seeded()
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(3)])


def dense_batch() -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(16, 6)).astype("float32"), np.arange(16) % 3


def one_step(model: Any, optimizer: Any) -> Callable[[Any, Any], None]:
    """A compiled step of one's own, as Keras's guides write it for each backend."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def step(x: Any, y: Any) -> None:
            step.traced += 1
            with tf.GradientTape() as tape:
                loss = LOSS(y, model(x, training=True))
            optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)

        step.traced = 0
        return step
    if BACKEND == "torch":

        def step(x: Any, y: Any) -> None:
            import torch

            model.zero_grad()
            LOSS(y, model(x, training=True)).backward()
            with torch.no_grad():
                optimizer.apply([v.value.grad for v in model.trainable_weights], model.trainable_weights)

        step.traced = 1
        return step

    import jax

    def loss_of(trainable: Any, fixed: Any, x: Any, y: Any) -> Any:
        predicted, fixed = model.stateless_call(trainable, fixed, x, training=True)
        return LOSS(y, predicted), fixed

    @jax.jit
    def compiled_step(state: Any, x: Any, y: Any) -> Any:
        step.traced += 1
        trainable, fixed, kept = state
        (_, fixed), grads = jax.value_and_grad(loss_of, has_aux=True)(trainable, fixed, x, y)
        trainable, kept = optimizer.stateless_apply(kept, grads, trainable)
        return trainable, fixed, kept

    def step(x: Any, y: Any) -> None:
        variables = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
        state = compiled_step([[v.value for v in part] for part in variables], x, y)
        for part, values in zip(variables, state, strict=True):
            for variable, value in zip(part, values, strict=True):
                variable.assign(value)

    step.traced = 0
    return step


def test_masks_change_under_a_compiled_step_without_another_trace() -> None:
    model = dense_model()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    entry = {"final_sparsity": 0.8, "end_epoch": 4, "op_types": ["default"]}
    pruner = AGPPruner(model, [entry], optimizer)
    pruner.compress()
    step = one_step(model, optimizer)
    x, y = (keras.ops.convert_to_tensor(part) for part in dense_batch())
    reached = []
    for epoch in range(5):
        pruner.update_epoch(epoch)
        for _ in range(2):
            step(x, y)
            if epoch:
                removed_are_zero(model)
        reached.append(sparsity(model))
    assert reached[-1] == pytest.approx(0.8, abs=0.02)
    assert len(set(reached)) == 4
    assert step.traced == 1  # type: ignore[attr-defined]


def test_gradients_of_what_is_removed_are_zero() -> None:
    """So any way of training will do, without Keras's optimizers too."""
    model = dense_model()
    LevelPruner(model, HALF).compress()
    x, y = (keras.ops.convert_to_tensor(part) for part in dense_batch())
    weights = model.trainable_weights
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x))
        gradients = tape.gradient(loss, weights)
    elif BACKEND == "torch":
        import torch

        gradients = torch.autograd.grad(LOSS(y, model(x)), [v.value for v in weights])
    else:
        import jax

        fixed = [v.value for v in model.non_trainable_variables]
        gradients = jax.jit(jax.grad(lambda w: LOSS(y, model.stateless_call(w, fixed, x)[0])))(
            [v.value for v in weights]
        )
    for layer in (0, 1):
        mask = masks_of(model)[f"{model.layers[layer].name}/kernel"]
        gradient = numpy(gradients[2 * layer])
        assert not gradient[~mask].any()
        assert gradient[mask].any()


def test_a_dense_value_put_under_a_mask_has_no_effect() -> None:
    model = dense_model()
    x, _ = dense_batch()
    LevelPruner(model, HALF).compress()
    expected = outputs(model, x)
    kernel = model.layers[0].kernel
    mask = masks_of(model)[f"{model.layers[0].name}/kernel"]
    kernel.assign(np.where(mask, numpy(kernel), 7.0))
    assert np.array_equal(outputs(model, x), expected)
    strip(model)
    assert np.array_equal(outputs(model, x), expected)


def test_momentum_does_not_move_what_has_been_removed_meanwhile() -> None:
    model = dense_model()
    x, y = dense_batch()
    average = BACKEND != "jax"  # where a second fit with a moving average fails in Keras itself
    compiled(model, keras.optimizers.SGD(0.1, momentum=0.9, use_ema=average))
    model.fit(x, y, epochs=3, verbose=0)
    LevelPruner(model, HALF).compress()
    masks = masks_of(model)
    for index in (0, 1):
        mask = masks[f"{model.layers[index].name}/kernel"]
        slots = [v for v in model.optimizer.variables if tuple(v.shape) == mask.shape]
        assert len(slots) == 1 + average
        assert not any(numpy(slot)[~mask].any() for slot in slots)
        assert all(numpy(slot)[mask].any() for slot in slots)
    model.fit(x, y, epochs=3, verbose=0)
    removed_are_zero(model)


def test_a_train_step_of_ones_own() -> None:
    class Twice(keras.Sequential):  # type: ignore[misc]
        """Where a step takes another form on each backend, what they share is the loss."""

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return 2 * super().compute_loss(*args, **kwargs)

        def train_step(self, *args: Any, **kwargs: Any) -> Any:
            self.counted = True
            return super().train_step(*args, **kwargs)

    seeded()
    model = compiled(Twice([keras.Input((6,)), layers.Dense(8), layers.Dense(3)]))
    x, y = dense_batch()
    model.fit(x, y, verbose=0)  # a step is compiled that knows of no masks
    LevelPruner(model, HALF).compress()
    model.counted = False
    model.fit(x, y, epochs=2, verbose=0)
    assert model.counted
    removed_are_zero(model)
    assert isinstance(model, Twice)


def test_a_table_that_another_layer_reads_is_masked_there_too() -> None:
    class Tied(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = layers.Embedding(10, 4, name="table")

        def call(self, x: Any) -> Any:
            return keras.ops.matmul(self.table(x), keras.ops.transpose(self.table.embeddings))

    seeded()
    model = Tied()
    x = np.arange(10).reshape(2, 5)
    model(x)
    LevelPruner(model, HALF).compress()
    table = model.table.embeddings
    mask = masks_of(model)["table/embeddings"]
    table.assign(np.where(mask, numpy(table), 3.0))
    masked = np.where(mask, numpy(table), 0)
    np.testing.assert_allclose(outputs(model, x), masked[x] @ masked.T, rtol=1e-5, atol=1e-6)


def test_spectral_normalization_and_mixed_precision() -> None:
    seeded()
    inner = layers.Dense(8, name="inner")
    model = keras.Sequential(
        [keras.Input((6,)), layers.SpectralNormalization(inner), layers.Dense(3, dtype="mixed_float16")]
    )
    LevelPruner(model, HALF).compress()
    compiled(model)
    x, y = dense_batch()
    model.fit(x, y, epochs=1, verbose=0)
    # A norm of all weights may move removed ones (on JAX gradients flow through it), to no effect.
    expected = outputs(model, x)
    removed = ~next(mask for name, mask in masks_of(model).items() if "inner" in name)
    strip(model)
    assert not numpy(inner.kernel)[removed].any()
    np.testing.assert_array_equal(outputs(model, x), expected)
    assert keras.backend.standardize_dtype(model(x).dtype) == "float16"


def test_masks_that_are_told_are_copies() -> None:
    model = convolutions()
    LevelPruner(model, HALF).compress()
    told = masks_of(model)
    for mask in told.values():
        assert mask.dtype == bool
        mask[...] = False
    assert all(mask.any() for mask in masks_of(model).values())


def test_strip_gives_back_the_plain_model() -> None:
    model = convolutions()
    x, _ = batch(model)
    plain, types = state(model), [type(layer) for layer in model.layers]
    random = np.random.get_state()[1].copy()  # noqa: NPY002
    pruner = LevelPruner(model, [{"sparsity": 0.5, "op_names": ["conv"]}])
    pruner.compress()
    expected = outputs(model, x)
    assert strip(model) is model
    assert type(model) is keras.Sequential
    assert [type(layer) for layer in model.layers] == types
    assert len(model.variables) == len(plain)
    assert np.array_equal(outputs(model, x), expected)
    conv = [v.path for v in model.variables].index(model.get_layer("conv").kernel.path)
    assert same(plain[:conv] + plain[conv + 1 :], state(model)[:conv] + state(model)[conv + 1 :])
    assert np.array_equal(np.random.get_state()[1], random)  # noqa: NPY002
    assert masks_of(model) == {}
    LevelPruner(model, HALF).compress()  # and it can be pruned again
    assert sparsity(model) > 0.49
    assert strip(strip(model)) is model


def test_a_masked_layer_looks_like_itself() -> None:
    model = dense_model()
    plain = [layer.get_config() for layer in model.layers]
    LevelPruner(model, HALF).compress()
    for layer, config in zip(model.layers, plain, strict=True):
        assert isinstance(layer, layers.Dense)
        assert type(layer).__name__ == "Dense"
        assert layer.get_config() == config
        assert isinstance(layer.kernel, keras.Variable)
        assert type(type(layer).from_config(config)) is layers.Dense
    clone = keras.models.clone_model(model)
    assert type(clone) is keras.Sequential
    assert masks_of(clone) == {}
    half = keras.Model(model.inputs, model.layers[0].output)
    x, _ = dense_batch()
    assert outputs(half, x).shape == (16, 8)
