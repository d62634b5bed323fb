"""Keras pruners aware of dependencies: what they choose against brute force, and that all of it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import prunus
from keras_architectures import MODELS, L, drawn, example, randomize
from keras_dependencies import (
    depthwise,
    gated,
    half,
    inside,
    joined,
    kept_channels,
    layer_normalized,
    layer_of,
    lowest,
    residual,
    rows,
)
from keras_models import (
    compiled,
    convolutions,
    keras,
    numpy,
    outputs,
    removed_are_zero,
    same,
    state,
    subclassed,
)
from prunus.errors import InputError
from prunus.keras import (
    AGPPruner,
    FPGMPruner,
    L1FilterPruner,
    L2FilterPruner,
    Pruner,
    SlimPruner,
    TaylorFOWeightFilterPruner,
    compact,
    masks_of,
    strip,
)

# Layers that share channels, and what else these run through.
TIED: dict[Callable[[], Any], dict[tuple[str, ...], tuple[str, ...]]] = {
    residual: {
        ("stem", "a_out", "b_out"): ("stem_norm", "a_out_norm", "b_out_norm"),
        ("a_in",): ("a_in_norm",),
        ("b_in",): ("b_in_norm",),
    },
    depthwise: {("stem", "narrow"): (), ("wide", "each"): ("wide_norm", "each_norm")},
    gated: {("conv", "excite"): ("norm",), ("squeeze",): ()},
    layer_normalized: {
        ("stem", "block/each", "block/narrow"): ("stem_norm", "block/norm", "block/scale", "out"),
        ("block/wide",): (),
    },
}
SCORES: dict[type[Pruner], Callable[[Any], Any]] = {
    L1FilterPruner: lambda filters: np.abs(filters).sum(1),
    L2FilterPruner: lambda filters: np.sqrt((filters**2).sum(1)),
    FPGMPruner: lambda filters: np.linalg.norm(filters[:, None] - filters[None], axis=2).sum(1),
}


def parameters(model: Any) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.weights)


@pytest.mark.parametrize("pruner", SCORES)
@pytest.mark.parametrize("build", TIED)
def test_layers_that_share_channels_lose_those_of_the_lowest_sum(
    build: Callable[[], Any], pruner: type[Pruner]
) -> None:
    model = build()
    x = example(model)
    expected = {
        layers: lowest(sum(SCORES[pruner](rows(model, name)) for name in layers), 0.5)
        for layers in TIED[build]
    }
    made = pruner(model, half(), dependency_aware=True)
    made.compress()
    masks = masks_of(model)
    seen = set()
    for layers, partners in TIED[build].items():
        for name in layers:
            dims = (-2, -1) if type(layer_of(model, name)).__name__ == "DepthwiseConv2D" else (-1,)
            np.testing.assert_array_equal(kept_channels(masks, f"{name}/kernel", dims), expected[layers])
            seen.add(f"{name}/kernel")
            if layer_of(model, name).use_bias:
                np.testing.assert_array_equal(masks[f"{name}/bias"], expected[layers])
                seen.add(f"{name}/bias")
        for name in partners:
            keys = [key for key in ("gamma", "beta") if hasattr(layer_of(model, name), key)]
            for key in keys:
                np.testing.assert_array_equal(masks[f"{name}/{key}"], expected[layers])
            seen.update(f"{name}/{key}" for key in keys)
    assert seen == masks.keys()
    assert set(made.partners) == {name for name in seen if name.endswith(("gamma", "beta"))}
    removed_are_zero(model)
    masked, small = outputs(model, x), compact(model)
    np.testing.assert_allclose(outputs(small, x), masked, rtol=1e-4, atol=1e-5)
    for layers, kept in expected.items():
        for name in layers:
            assert rows(small, name).shape[0] == kept.sum(), name


@pytest.mark.parametrize(
    ("build", "ends"),
    [
        (
            residual,
            {"stem_out": "stem_norm", "a_hidden": "a_in_norm", "a_sum": "stem_norm", "b_sum": "stem_norm"},
        ),
        (depthwise, {"each_out": "wide_norm", "sum": "stem"}),
        (joined, {"out": "norm"}),
        (gated, {"out": "conv"}),
        (layer_normalized, {"stem_norm": "stem", "out": "stem"}),
    ],
)
def test_channels_that_no_layer_makes_are_zero(build: Callable[[], Any], ends: dict[str, str]) -> None:
    model = build()
    x = example(model)
    before = {name: inside(model, name, x) for name in ends}
    L1FilterPruner(model, half(), dependency_aware=True).compress()
    masks = masks_of(model)
    for name, maker in ends.items():
        gone = ~masks[f"{maker}/{'beta' if maker.endswith('norm') else 'bias'}"]
        assert gone.sum() >= 3
        assert before[name][..., gone].any(), name
        after = inside(model, name, x)
        assert not after[..., gone].any(), name
        assert after[..., ~gone].any(), name


def test_a_batch_norm_over_channels_that_are_joined_loses_those_of_pruned_layers() -> None:
    model = joined()
    kept = {name: lowest(np.abs(rows(model, name)).sum(1), 0.5) for name in "ab"}
    L1FilterPruner(model, half("Conv2D"), dependency_aware=True).compress()
    expected = np.concatenate([kept["a"], np.ones(3, bool), kept["b"]])
    for key in ("gamma", "beta"):
        np.testing.assert_array_equal(masks_of(model)[f"norm/{key}"], expected)
    model = joined()
    L1FilterPruner(model, half("Conv2D", leaving=["b"]), dependency_aware=True).compress()
    expected = np.concatenate([kept["a"], np.ones(7, bool)])
    np.testing.assert_array_equal(masks_of(model)["norm/beta"], expected)


def test_depthwise_layers_pass_on_what_is_left_where_they_are_not_pruned_themselves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = depthwise()
    kept = lowest(np.abs(rows(model, "wide")).sum(1), 0.5)
    pruner = L1FilterPruner(model, half("Conv2D"), dependency_aware=True)
    pruner.preview()
    assert "6 variables lose channels with these layers: each/bias, each/kernel" in capsys.readouterr().out
    pruner.compress()
    masks = masks_of(model)
    assert {"each/kernel", "each/bias"} <= set(pruner.partners)
    np.testing.assert_array_equal(kept_channels(masks, "each/kernel", (-2, -1)), kept)
    for name in ("wide/bias", "each/bias", "wide_norm/beta", "each_norm/gamma"):
        np.testing.assert_array_equal(masks[name], kept)
    assert compact(model).get_layer("each").kernel.shape[-2] == 5


def test_the_lowest_sparsity_counts_and_a_layer_that_is_not_pruned_keeps_its_channels() -> None:
    model = residual()
    total = sum(np.abs(rows(model, name)).sum(1) for name in ("stem", "a_out", "b_out"))
    config = [{"sparsity": 0.9, "op_types": ["Conv2D"]}, {"sparsity": 0.25, "op_names": ["a_out"]}]
    L1FilterPruner(model, config, dependency_aware=True).compress()
    for name in ("stem", "a_out", "b_out"):
        np.testing.assert_array_equal(
            kept_channels(masks_of(model), f"{name}/kernel"), lowest(total, 0.25), err_msg=name
        )
    assert kept_channels(masks_of(model), "a_in/kernel").sum() == 6 - int(6 * 0.9)
    model = residual()
    pruner = L1FilterPruner(model, half("Conv2D", leaving=["b_out"]), dependency_aware=True)
    pruner.compress()
    assert kept_channels(masks_of(model), "a_out/kernel").sum() == 4
    assert set(pruner.partners) == {f"{name}_in_norm/{key}" for name in "ab" for key in ("gamma", "beta")}
    assert "b_out/kernel" not in masks_of(model)


def test_partners_keep_the_masks_that_they_have_had() -> None:
    model = residual()
    kept = lowest(sum(np.abs(rows(model, name)).sum(1) for name in ("stem", "a_out", "b_out")), 0.5)
    gamma = model.get_layer("stem_norm").gamma
    gamma.assign(np.where(np.arange(8) == np.flatnonzero(kept)[0], 0.01, 1.0))
    SlimPruner(model, [{"sparsity": 0.125, "op_names": ["stem_norm"]}]).compress()
    assert masks_of(model)["stem_norm/gamma"].sum() == 7
    L1FilterPruner(model, half(), dependency_aware=True).compress()
    np.testing.assert_array_equal(masks_of(model)["a_out_norm/gamma"], kept)
    kept[np.flatnonzero(kept)[0]] = False
    np.testing.assert_array_equal(masks_of(model)["stem_norm/gamma"], kept)


def test_what_attention_tables_and_inputs_make_is_kept() -> None:
    words = keras.Input((6,), dtype="int32")
    x = L.Embedding(20, 8, name="table")(words)
    x = L.LayerNormalization(name="first")(L.Add()([x, L.Dense(8, name="a")(x)]))
    y = L.Dense(6, name="b")(x)
    z = L.LayerNormalization(name="second")(y + L.MultiHeadAttention(2, 4, name="attention")(y, y))
    z = L.LayerNormalization(name="third")(L.Dense(6, name="c")(z))
    model = randomize(keras.Model(words, L.Dense(3, name="head")(z)))
    pruner = L1FilterPruner(model, half(), dependency_aware=True)
    assert pruner.partners == ["third/beta", "third/gamma"]
    pruner.compress()
    images = keras.Input((8, 8, 6))
    x = L.BatchNormalization(name="norm")(images)
    y = L.Conv2D(8, 1, name="conv")(x)
    model = keras.Model(images, [y, L.DepthwiseConv2D(3, name="each")(x)])
    assert L1FilterPruner(model, half(leaving=()), dependency_aware=True).partners == []


def test_each_axis_keeps_a_channel() -> None:
    model = residual()
    L1FilterPruner(model, half(sparsity=0.99), dependency_aware=True).compress()
    assert {int(kept_channels(masks_of(model), f"{n}/kernel").sum()) for n in ("stem", "a_out", "a_in")} == {
        1
    }
    assert np.isfinite(outputs(compact(model), example(model))).all()


def test_gradients_choose_for_all_layers_that_share_channels() -> None:
    model = compiled(residual())
    x, y = example(model, 8), np.arange(8) % 3
    pruner = TaylorFOWeightFilterPruner(model, half(), data=(x, y), dependency_aware=True)
    weights = {w.name: w for wrapper in pruner.wrappers for w in wrapper.weights}
    pruner.algorithm.prepare(model, list(weights.values()))
    total = sum(
        pruner.algorithm.scores(weights[f"{name}/kernel"], "out_channel").numpy()
        for name in ("stem", "a_out", "b_out")
    )
    pruner.compress()
    np.testing.assert_array_equal(kept_channels(masks_of(model), "b_out/kernel"), lowest(total, 0.5))
    np.testing.assert_array_equal(masks_of(model)["stem_norm/beta"], lowest(total, 0.5))


def test_gradually_tied_layers_start_when_all_have_started() -> None:
    model = residual()
    gradual = {"final_sparsity": 0.75, "end_epoch": 5}
    config = [
        {**gradual, "op_types": ["Conv2D"]},
        {**gradual, "op_names": ["b_out"], "initial_sparsity": 0.25, "start_epoch": 2},
    ]
    pruner = AGPPruner(model, config, pruning_algorithm="l1", dependency_aware=True)
    pruner.compress()
    gone: set[int] = set()
    counts = []
    for epoch in range(6):
        pruner.update_epoch(epoch)
        masks = masks_of(model)
        kept = kept_channels(masks, "stem/kernel")
        for name in ("a_out/kernel", "b_out/kernel", "stem_norm/gamma", "b_out_norm/beta"):
            np.testing.assert_array_equal(kept_channels(masks, name), kept)
        assert gone <= set(np.flatnonzero(~kept))
        gone = set(np.flatnonzero(~kept))
        counts.append(len(gone))
        kernel = model.get_layer("a_out").kernel
        kernel.assign(np.random.default_rng(epoch).normal(size=kernel.shape))
    assert counts[:2] == [0, 0]
    assert counts[2] == 2
    assert counts[-1] == 6
    np.testing.assert_allclose(
        outputs(compact(model), example(model)), outputs(model, example(model)), 1e-4, 1e-5
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_partners_hold_through_training_and_come_off(optimizer: str) -> None:
    made = keras.optimizers.SGD(0.05, momentum=0.9) if optimizer == "sgd" else keras.optimizers.Adam(0.01)
    model = compiled(depthwise(), made)
    x, y = example(model, 8), np.arange(8) % 3
    model.fit(x, y, epochs=1, verbose=0)
    L1FilterPruner(model, half("Conv2D"), dependency_aware=True).compress()
    before = masks_of(model)
    model.fit(x, y, epochs=3, verbose=0)
    removed_are_zero(model)
    masks = masks_of(model)
    assert all(np.array_equal(masks[name], mask) for name, mask in before.items())
    for name in ("wide_norm/beta", "each_norm/gamma", "each/bias"):
        layer, key = name.split("/")
        values = numpy(getattr(model.get_layer(layer), key))
        np.testing.assert_array_equal(values != 0, masks[name])
    masked = outputs(model, x)
    small = compact(model)
    assert small.get_layer("each").kernel.shape[-2] == 5
    np.testing.assert_allclose(outputs(small, x), masked, rtol=1e-4, atol=1e-5)
    strip(model)
    assert masks_of(model) == {}
    np.testing.assert_allclose(outputs(model, x), masked, rtol=1e-5, atol=1e-6)
    assert parameters(compact(model)) == parameters(small)


def test_what_cannot_be_aware_of_dependencies_is_refused_and_nothing_is_touched() -> None:
    model = convolutions()
    before = state(model)
    filters = {"sparsity": 0.5, "op_types": ["Conv2D"]}
    gradual = [{"final_sparsity": 0.5, "op_types": ["default"]}]
    norms = [{"final_sparsity": 0.5, "op_types": ["BatchNormalization"]}]
    for make, told in [
        (lambda: AGPPruner(model, gradual, dependency_aware=True), "remove filters, not 'level'"),
        (
            lambda: AGPPruner(model, norms, pruning_algorithm="slim", dependency_aware=True),
            "remove filters, not 'slim'",
        ),
        (lambda: L1FilterPruner(model, [filters], dependency_aware="yes"), "a bool, got 'yes'"),
        (
            lambda: L1FilterPruner(model, [{**filters, "granularity": "in_channel"}], dependency_aware=True),
            "another granularity",
        ),
        (
            lambda: FPGMPruner(model, [{**filters, "global_group_id": "g"}], dependency_aware=True),
            "global_group_id",
        ),
    ]:
        with pytest.raises(prunus.PruningError, match=told):
            make()
    assert same(before, state(model))
    assert type(model) is keras.Sequential
    other = subclassed()
    before = state(other)
    with pytest.raises(InputError, match=r"Functional or Sequential.*leave dependency_aware out"):
        L1FilterPruner(other, [{"sparsity": 0.5, "op_types": ["Dense"]}], dependency_aware=True)
    assert same(before, state(other))
    assert type(other).__mro__[1] is keras.Model


def pruned_and_compacted(model: Any, seed: int) -> tuple[float, int, int]:
    """How far the smaller model is from the masked one, and the parameters before and after."""
    kinds = sorted({type(layer).__name__ for layer in model._flatten_layers()})
    types = [kind for kind in kinds if "Conv" in kind or kind == "Dense"]
    pruner = (L1FilterPruner, L2FilterPruner, FPGMPruner)[seed % 3]
    pruner(model, half(*types, leaving=()), dependency_aware=True).compress()
    removed_are_zero(model)
    x = example(model)
    masked = keras.tree.flatten(model(x, training=False))
    small = compact(model)
    found = keras.tree.flatten(small(x, training=False))
    error = max(
        float(np.abs(numpy(a) - numpy(b)).max() / max(np.abs(numpy(a)).max(), 1e-3))
        for a, b in zip(masked, found, strict=True)
    )
    return error, parameters(strip(model)), parameters(small)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_small_networks_of_every_kind(name: str) -> None:
    error, before, after = pruned_and_compacted(randomize(MODELS[name]()), len(name))
    assert error < 1e-4
    assert after < before


def test_networks_drawn_at_random() -> None:
    found = [pruned_and_compacted(drawn(seed), seed) for seed in range(12)]
    assert max(error for error, _, _ in found) < 1e-4
    assert np.mean([after / before for _, before, after in found]) < 0.5


@pytest.mark.parametrize(("name", "options"), [("MobileNetV2", {"alpha": 0.35}), ("EfficientNetB0", {})])
def test_networks_of_applications_end_at_a_quarter(name: str, options: dict[str, Any]) -> None:
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=4, classifier_activation=None, **options
    )
    randomize(model)
    before = parameters(model)
    L1FilterPruner(model, half("default", leaving=()), dependency_aware=True).compress()
    x = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype("float32")
    masked, small = outputs(model, x), compact(model)
    np.testing.assert_allclose(outputs(small, x), masked, atol=1e-4 * float(np.abs(masked).max()), rtol=0)
    assert parameters(small) < 0.3 * before
