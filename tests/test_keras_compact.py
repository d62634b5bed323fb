"""Smaller Keras models: equal to the zeroed original, and as small as they can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from keras_architectures import MODELS, L, example, outputs, randomize, zero_filters
from keras_models import BACKEND, keras
from prunus.keras.compaction import compact, prune, trace


def close(a: Any, b: Any, x: Any, tolerance: float = 1e-5) -> None:
    for one, two in zip(outputs(a, x), outputs(b, x), strict=True):
        np.testing.assert_allclose(one, two, atol=tolerance * max(1.0, float(np.abs(one).max())), rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_pruned_equals_zeroed(name: str) -> None:
    model = randomize(MODELS[name]())
    x = example(model)
    plan = trace(model).plan(0.5)
    assert plan
    assert not plan.left_alone
    small, zeroed = plan.model(), plan.zeroed()
    close(zeroed, small, x)
    assert small.count_params() < 0.8 * model.count_params()
    assert zeroed.count_params() == model.count_params()
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(outputs(model, x), outputs(zeroed, x), strict=True))
    assert [w.name for w in small.weights if "variable" not in w.name] == [
        w.name for w in model.weights if "variable" not in w.name
    ]
    assert [layer.name for layer in small._flatten_layers()] == [
        layer.name for layer in model._flatten_layers()
    ]


@pytest.mark.parametrize("name", MODELS)
def test_compacted_equals_original(name: str) -> None:
    for seed in range(2):
        model = zero_filters(randomize(MODELS[name](), seed), 0.3, seed)
        x = example(model, size=7)
        close(model, compact(model), x)


@pytest.mark.parametrize(("other", "left"), [(0.3, 6), (-0.4, 8)])
def test_a_layer_norm_that_is_called_twice_loses_units_of_one_constant(other: float, left: int) -> None:
    inputs = keras.Input((6, 5))
    norm = L.LayerNormalization(name="norm")
    a, b = L.Dense(8, name="a"), L.Dense(8, name="b")
    model = randomize(keras.Model(inputs, L.Dense(3)(norm(a(inputs)) + norm(b(inputs)))))
    for layer, constant in ((a, 0.3), (b, other)):
        kernel, bias = layer.get_weights()
        kernel[:, :2] = 0
        bias[:2] = constant
        layer.set_weights([kernel, bias])
    norm.set_weights([np.where(np.arange(8) < 2, 0, weight) for weight in norm.get_weights()])
    small = compact(model)
    assert small.get_layer("norm").gamma.shape == (left,)
    close(model, small, example(model))


def test_zeroed_by_hand() -> None:
    """What `zeroed` sets to zero, weight by weight, for a residual block whose units can be told by name."""
    x = inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, padding="same", name="stem")(x)
    y = L.BatchNormalization(name="norm")(L.Conv2D(8, 3, padding="same", name="branch")(L.ReLU()(x)))
    model = randomize(keras.Model(inputs, L.Dense(2, name="head")(L.GlobalMaxPooling2D()(L.Add()([x, y])))))
    plan = trace(model).plan(0.25, importance="l2")
    (kept,) = plan.kept.values()
    assert len(kept) == 6
    gone = np.setdiff1d(np.arange(8), kept)

    value = keras.ops.convert_to_numpy
    scores = np.zeros(8)
    members = []
    for layer, attribute, dims in (
        ("stem", "kernel", (3,)),
        ("stem", "bias", (0,)),
        ("branch", "kernel", (2, 3)),
        ("branch", "bias", (0,)),
        ("norm", "gamma", (0,)),
        ("norm", "beta", (0,)),
        ("head", "kernel", (0,)),
    ):
        weight = np.array(value(getattr(model.get_layer(layer), attribute)), dtype=np.float64)
        for dim in dims:
            norm = np.sqrt((np.moveaxis(weight, dim, 0).reshape(8, -1) ** 2).sum(1))
            scores += norm / norm.mean()
            members.append((layer, attribute, dim))
    assert sorted(gone) == sorted(np.argsort(scores)[:2])

    by_hand = keras.models.clone_model(model)
    by_hand.set_weights(model.get_weights())
    for layer, attribute, dim in members:
        weight = getattr(by_hand.get_layer(layer), attribute)
        data = np.array(value(weight))
        np.moveaxis(data, dim, 0)[gone] = 0
        weight.assign(data)
    data = example(model)
    close(by_hand, plan.model(), data)
    for a, b in zip(by_hand.weights, plan.zeroed().weights, strict=True):
        np.testing.assert_array_equal(value(a), value(b))


def test_sizes_of_a_residual_network() -> None:
    small = prune(randomize(MODELS["residual"]()), 0.5)
    filters = [layer.filters for layer in small.layers if isinstance(layer, L.Conv2D)]
    assert filters == [4, 5, 4, 5, 6, 6]


def test_whole_groups_and_multipliers() -> None:
    inputs = keras.Input((6, 6, 8))
    x = L.Conv2D(12, 1)(inputs)
    x = L.Conv2D(8, 3, groups=4, name="grouped")(x)
    x = L.DepthwiseConv2D(2, depth_multiplier=2, name="depthwise")(x)
    model = randomize(keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x))))
    plan = trace(model).plan({"grouped": 0.5})
    small = plan.model()
    grouped = small.get_layer("grouped")
    assert (grouped.groups, grouped.filters, tuple(grouped.kernel.shape)) == (2, 4, (3, 3, 3, 4))
    assert tuple(small.get_layer("depthwise").kernel.shape) == (2, 2, 4, 2)
    close(plan.zeroed(), small, example(model))


# -- constants ----------------------------------------------------------------------------------------------


def chain(padding: str, kernel: int, activation: str = "relu", pad: bool = False) -> Any:
    x = inputs = keras.Input((7, 7, 2))
    x = L.Conv2D(4, 1, name="first")(x)
    x = L.Activation(activation)(L.BatchNormalization()(x))
    x = L.ZeroPadding2D(1)(x) if pad else x
    x = L.Conv2D(3, kernel, padding=padding, use_bias=False, name="second")(x)
    model = randomize(keras.Model(inputs, L.Dense(2, use_bias=False, name="head")(L.Flatten()(x))))
    layer = model.get_layer("first")
    weight = np.array(keras.ops.convert_to_numpy(layer.kernel))
    weight[..., :2] = 0
    layer.kernel.assign(weight)
    return model


@pytest.mark.parametrize(
    ("padding", "kernel", "activation", "pad", "left", "why"),
    [
        ("valid", 3, "sigmoid", False, 2, ""),
        ("same", 1, "sigmoid", False, 2, ""),
        ("same", 3, "sigmoid", False, 3, "zero padding of 'second'"),
        ("valid", 3, "sigmoid", True, 3, "zero padding of 'second'"),
        ("valid", 1, "softplus", True, 3, "zero padding of 'second'"),
        ("same", 2, "softplus", True, 3, "zero padding of 'second'"),
    ],
)
def test_constants_are_folded_where_that_is_exact(
    padding: str, kernel: int, activation: str, pad: bool, left: int, why: str
) -> None:
    model = chain(padding, kernel, activation, pad)
    plan = trace(model).compaction()
    small = plan.model()
    assert small.get_layer("first").filters == left
    assert small.get_layer("second").use_bias == (left == 2)
    assert why in "".join(plan.left_alone.values())
    assert bool(plan.left_alone) == (left == 3)
    close(model, small, example(model))


def test_zeros_meet_a_border_without_harm() -> None:
    """After `relu`, a constant below zero is zero, and may meet any padding."""
    model = chain("same", 3, pad=True)
    norm = next(layer for layer in model.layers if isinstance(layer, L.BatchNormalization))
    norm.beta.assign([-5.0, -5.0, 0.5, 0.5])
    small = compact(model)
    assert small.get_layer("first").filters == 2
    assert not small.get_layer("second").use_bias
    close(model, small, example(model))


def test_units_that_nothing_reads() -> None:
    """A unit whose weights are zero where it is read goes, and those that fed only it go with it."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(6, "tanh"), L.Dense(5, "tanh"), L.Dense(2)])
    randomize(model)
    second, last = model.layers[1:]
    weight = np.array(keras.ops.convert_to_numpy(last.kernel))
    weight[1:] = 0
    last.kernel.assign(weight)
    weight = np.array(keras.ops.convert_to_numpy(second.kernel))
    weight[2:, 0] = 0
    second.kernel.assign(weight)
    small = compact(model)
    assert [layer.units for layer in small.layers] == [2, 1, 2]
    close(model, small, example(model))


def test_an_axis_keeps_its_last_unit() -> None:
    model = randomize(MODELS["multi_layer_perceptron"]())
    model.layers[0].kernel.assign(np.zeros((5, 8)))
    plan = trace(model).compaction()
    small = plan.model()
    assert small.layers[0].units == 1
    close(model, small, example(model))


def test_residual_units_go_only_together() -> None:
    model = randomize(MODELS["residual"]())
    stem = next(layer for layer in model.layers if isinstance(layer, L.Conv2D))
    stem.kernel.assign(np.zeros(stem.kernel.shape))
    plan = trace(model).compaction()
    assert stem.name not in "".join(plan.kept)
    assert "8 of 8 units are empty and stay: it meets what is not constant in 'add" in "".join(
        plan.left_alone.values()
    )


@pytest.mark.parametrize("constant", [0.0, 1.5])
def test_layer_norm_without_some_units(constant: float) -> None:
    inputs = keras.Input((6,))
    x = L.Dense(8, name="first")(inputs)
    x = L.LayerNormalization(name="norm")(x)
    model = randomize(keras.Model(inputs, L.Dense(2)(x)))
    first, norm = model.get_layer("first"), model.get_layer("norm")
    live = np.array([0, 1, 1, 0, 1, 1, 1, 1])
    first.kernel.assign(keras.ops.convert_to_numpy(first.kernel) * live)
    first.bias.assign(
        np.where(live, keras.ops.convert_to_numpy(first.bias), [constant, 0, 0, 2 * constant, 0, 0, 0, 0])
    )
    norm.gamma.assign(keras.ops.convert_to_numpy(norm.gamma) * live)
    small = compact(model)
    assert small.get_layer("first").units == 6
    assert small.get_layer("norm").absent == 2
    close(model, small, example(model))
    again = keras.models.clone_model(small)
    again.set_weights(small.get_weights())
    close(model, again, example(model))
    gamma = again.get_layer("norm").gamma  # a second cut of the same normalisation
    gamma.assign(keras.ops.convert_to_numpy(gamma) * [0, 1, 1, 1, 1, 1])
    layer = again.get_layer("first")
    layer.kernel.assign(keras.ops.convert_to_numpy(layer.kernel) * [0, 1, 1, 1, 1, 1])
    smaller = compact(again)
    assert smaller.get_layer("norm").absent == 3
    close(again, smaller, example(model))


def test_units_that_only_a_statistic_needs_stay() -> None:
    inputs = keras.Input((6,))
    x = L.LayerNormalization(name="norm")(L.Dense(8, name="first")(inputs))
    model = randomize(keras.Model(inputs, L.Dense(2)(x)))
    norm = model.get_layer("norm")
    for variable in (norm.gamma, norm.beta):
        variable.assign(keras.ops.convert_to_numpy(variable) * [0, 0, 0, 1, 1, 1, 1, 1])
    small = compact(model)
    assert small.get_layer("first").units == 8
    close(model, small, example(model))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no channels_first convolution on the CPU")
def test_channels_first() -> None:
    inputs = keras.Input((3, 8, 8))
    x = L.Conv2D(8, 3, padding="same", data_format="channels_first")(inputs)
    x = L.ReLU()(L.BatchNormalization(axis=1)(x))
    x = L.DepthwiseConv2D(3, data_format="channels_first")(x)
    x = L.MaxPooling2D(2, data_format="channels_first")(x)
    model = randomize(keras.Model(inputs, L.Dense(3)(L.Flatten(data_format="channels_first")(x))))
    plan = trace(model).plan(0.5)
    small = plan.model()
    assert small.layers[1].filters == 4
    assert small.layers[1].data_format == "channels_first"
    close(plan.zeroed(), small, example(model))
    zero_filters(model, 0.5)
    close(model, compact(model), example(model))


def test_mobile_units_that_are_zero_in_the_depthwise_kernel() -> None:
    model = randomize(MODELS["inverted_residual"]())
    for layer in model.layers:
        if isinstance(layer, L.DepthwiseConv2D):
            weight = np.array(keras.ops.convert_to_numpy(layer.kernel))
            weight[:, :, :10] = 0
            layer.kernel.assign(weight)
    small = compact(model)
    assert [layer.kernel.shape[2] for layer in small.layers if isinstance(layer, L.DepthwiseConv2D)] == [
        14,
        14,
    ]
    close(model, small, example(model))


def test_global_ranking_round_to_and_protect() -> None:
    model = randomize(MODELS["residual"]())
    graph = trace(model)
    sizes = {axis.name: axis.size for axis in graph.axes}
    plan = graph.plan(0.5, scope="global", protect=0.25)
    assert sum(sizes[name] - len(kept) for name, kept in plan.kept.items()) == sum(
        axis.size // 2 for axis in graph.axes if axis.prunable
    )
    assert all(len(kept) >= sizes[name] / 4 for name, kept in plan.kept.items())
    assert len({len(kept) / sizes[name] for name, kept in plan.kept.items()}) > 1
    assert all(len(kept) % 4 == 0 for kept in graph.plan(0.5, round_to=4).kept.values())


def test_units_near_all_others_go_first_by_the_geometric_median() -> None:
    model = randomize(keras.Sequential([keras.Input((5,)), L.Dense(8, "relu", name="hidden"), L.Dense(3)]))
    inner, outer = (keras.ops.convert_to_numpy(layer.kernel).astype(float) for layer in model.layers)

    def distances(rows: Any) -> Any:
        found = np.linalg.norm(rows[:, None] - rows[None], axis=2).sum(1)
        return found / found.mean()

    scores = distances(inner.T) + distances(outer)  # a bias is no vector
    (kept,) = trace(model).plan(0.5, importance="fpgm").kept.values()
    np.testing.assert_array_equal(kept, np.sort(np.argsort(scores)[4:]))


def test_importance_of_ones_own() -> None:
    model = randomize(MODELS["multi_layer_perceptron"]())
    last = trace(model).plan(0.5, importance=lambda rows: np.arange(len(rows)))
    assert [list(kept) for kept in last.kept.values()] == [[4, 5, 6, 7], [3, 4, 5]]


def test_ignore_and_ratios_by_name() -> None:
    model = randomize(conv_model())
    assert [
        layer.filters for layer in prune(model, 0.5, ignore=["a"]).layers if hasattr(layer, "filters")
    ] == [8, 4]
    assert [layer.filters for layer in prune(model, {"a": 0.25}).layers if hasattr(layer, "filters")] == [
        6,
        8,
    ]


def conv_model() -> Any:
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, name="b")(L.Conv2D(8, 3, name="a")(inputs))
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
