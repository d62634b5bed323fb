"""What the pruners of prunus.keras choose: against brute force, and against prunus.pruners."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import prunus.pruners
from keras_models import (
    batch,
    compiled,
    convolutions,
    keras,
    layers,
    numpy,
    same,
    seeded,
    sequences,
    state,
    subclassed,
)
from prunus.keras import (
    AGP_Pruner,
    AGPPruner,
    ConfigError,
    FPGMPruner,
    L1FilterPruner,
    L2FilterPruner,
    LevelPruner,
    Pruner,
    PrunerStateError,
    SlimPruner,
    TaylorFOWeightFilterPruner,
    masks_of,
    sparsity,
    strip,
)

FILTERS = {"conv": (-1,), "grouped": (-1,), "transposed": (-2,), "depthwise": (-2, -1), "separable": (-1,)}


def kernel(model: Any, name: str) -> Any:
    layer = model.get_layer(name)
    return numpy(layer.pointwise_kernel if name == "separable" else layer.kernel)


def filters(weight: Any, name: str) -> Any:
    """The filters of a kernel as rows, by Keras's documentation of its layout."""
    axes = FILTERS[name]
    return np.moveaxis(weight, axes, range(len(axes))).reshape(np.prod([weight.shape[a] for a in axes]), -1)


def test_level_removes_the_smallest_of_each_weight() -> None:
    model = convolutions()
    before = {name: kernel(model, name) for name in (*FILTERS, "head")}
    returned = LevelPruner(model, [{"sparsity": 0.7, "op_types": ["default"]}]).compress()
    assert returned is model
    for name, weight in before.items():
        key = "pointwise_kernel" if name == "separable" else "kernel"
        flat = np.abs(weight).ravel()
        gone = np.argsort(flat, kind="stable")[: int(flat.size * 0.7)]
        expected = np.ones(flat.size, bool)
        expected[gone] = False
        np.testing.assert_array_equal(masks_of(model)[f"{name}/{key}"], expected.reshape(weight.shape))
        np.testing.assert_array_equal(
            kernel(model, name), np.where(expected.reshape(weight.shape), weight, 0)
        )
    assert masks_of(model)["separable/depthwise_kernel"].mean() == pytest.approx(0.3, abs=0.02)
    assert not any("bias" in name or "gamma" in name for name in masks_of(model))


def median_distances(rows: Any) -> Any:
    rows = rows.astype(np.float64)
    return [sum(np.linalg.norm(row - other) for other in rows) for row in rows]


@pytest.mark.parametrize(
    ("pruner", "score"),
    [
        (L1FilterPruner, lambda rows: np.abs(rows).sum(1)),
        (L2FilterPruner, lambda rows: np.sqrt((rows**2).sum(1))),
        (FPGMPruner, median_distances),
    ],
)
def test_filters_of_lowest_score_go_with_their_biases(pruner: type[Pruner], score: Any) -> None:
    model = convolutions()
    before = {name: kernel(model, name) for name in FILTERS}
    pruner(model, [{"sparsity": 0.5, "op_types": "default"}]).compress()
    for name, weight in before.items():
        rows = filters(weight, name)
        kept = np.ones(len(rows), bool)
        kept[np.argsort(score(rows))[: len(rows) // 2]] = False
        key = "pointwise_kernel" if name == "separable" else "kernel"
        masked = filters(masks_of(model)[f"{name}/{key}"], name)
        np.testing.assert_array_equal(masked.all(1), kept)
        np.testing.assert_array_equal(masked.any(1), kept)
        np.testing.assert_array_equal(masks_of(model)[f"{name}/bias"], kept)
    assert "head/kernel" not in masks_of(model)
    assert "separable/depthwise_kernel" not in masks_of(model)


def test_slim_ranks_the_scales_of_all_layers_together() -> None:
    model = convolutions()
    rng = np.random.default_rng(2)
    for name in ("norm", "norm_2"):
        norm = model.get_layer(name)
        norm.gamma.assign(rng.normal(size=norm.gamma.shape))
    scales = {name: np.abs(numpy(model.get_layer(name).gamma)) for name in ("norm", "norm_2")}
    SlimPruner(model, [{"sparsity": 0.6, "op_types": ["BatchNormalization"]}]).compress()
    limit = np.sort(np.concatenate(list(scales.values())))[int(20 * 0.6)]
    for name, scale in scales.items():
        for part in ("gamma", "beta"):
            np.testing.assert_array_equal(masks_of(model)[f"{name}/{part}"], scale >= limit)


def test_taylor_is_the_squared_product_of_weight_and_gradient() -> None:
    seeded()
    model = keras.Sequential([keras.Input((1, 1, 3)), layers.Conv2D(4, 1, name="conv"), layers.Flatten()])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 1, 1, 3)).astype("float32"), rng.normal(size=(64, 4)).astype("float32")
    weight, bias = kernel(model, "conv")[0, 0].astype(float), numpy(model.get_layer("conv").bias)
    before = [numpy(variable) for variable in model.non_trainable_variables]
    pruner = TaylorFOWeightFilterPruner(
        model, [{"sparsity": 0.5, "op_types": ["Conv2D"]}], data=(x, y), statistics_batch_num=2
    )
    pruner.compress()
    total = np.zeros((3, 4))
    for part in (slice(0, 32), slice(32, 64)):
        rows = x[part, 0, 0].astype(float)
        error = rows @ weight + bias - y[part]
        total += (weight * (rows.T @ error * 2 / error.size)) ** 2
    kept = np.ones(4, bool)
    kept[np.argsort(total.sum(0))[:2]] = False
    np.testing.assert_array_equal(masks_of(model)["conv/bias"], kept)
    left = [variable for variable in model.non_trainable_variables if "mask" not in variable.path]
    assert same(before, [numpy(variable) for variable in left])


def test_taylor_says_what_is_missing() -> None:
    model = convolutions()
    config = [{"sparsity": 0.5, "op_types": ["Conv2D"]}]
    with pytest.raises(prunus.PruningError, match="data="):
        TaylorFOWeightFilterPruner(model, config)
    x, y = batch(model)
    pruner = TaylorFOWeightFilterPruner(model, config, data=(x, y))
    with pytest.raises(prunus.PruningError, match="compile the model"):
        pruner.compress()
    compiled(model)
    pruner = TaylorFOWeightFilterPruner(model, config, data=(x, y), statistics_batch_num=3)
    with pytest.raises(prunus.PruningError, match="1 batches, and 3"):
        pruner.compress()
    assert sparsity(model) == 0


def test_two_of_four_inputs_stay_and_what_does_not_fit_is_named() -> None:
    model = convolutions()
    before = kernel(model, "conv")
    config = [{"sparsity": 0.5, "op_types": ["default"], "granularity": "2:4"}]
    with pytest.warns(UserWarning, match="pruned") as caught:
        LevelPruner(model, config).compress()
    told = [one for one in caught if "pruned" in str(one.message)]
    messages = [str(one.message) for one in told]
    assert any("'depthwise' is not pruned" in message for message in messages)
    assert any("'separable' is pruned in part only: depthwise_kernel" in message for message in messages)
    assert all(one.filename == __file__ for one in told)
    mask = masks_of(model)["conv/kernel"]
    assert mask.shape == (3, 3, 4, 8)
    np.testing.assert_array_equal(mask.sum(2), 2)
    top = np.sort(np.abs(before), axis=2)[:, :, 2:3]
    np.testing.assert_array_equal(mask, np.abs(before) >= top)
    head = masks_of(model)["separable/pointwise_kernel"][0, 0]
    np.testing.assert_array_equal(head.reshape(4, 4, 12).sum(1), 2)


def test_blocks_count_outputs_then_inputs() -> None:
    seeded()
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6, name="dense")])
    weight = kernel(model, "dense")
    entry = {"sparsity": 0.5, "op_names": ["dense"], "granularity": [3, 2]}
    LevelPruner(model, [entry]).compress()
    norms = np.abs(weight).reshape(4, 2, 2, 3).sum((1, 3))
    kept = norms > np.sort(norms.ravel())[3]
    expected = np.repeat(np.repeat(kept, 2, 0), 3, 1)
    np.testing.assert_array_equal(masks_of(model)["dense/kernel"], expected)


@pytest.mark.parametrize(
    "entry",
    [
        {"sparsity": 0.6},
        {"sparsity": 0.5, "granularity": "2:4"},
        {"sparsity": 0.5, "granularity": [2, 2]},
        {"sparsity": 0.5, "granularity": "per_row"},
        {"sparsity": 0.5, "granularity": "out_channel"},
        {"sparsity": 0.5, "granularity": "in_channel", "align": 2},
        {"sparsity": 0.5, "global_group_id": "all", "max_sparse_ratio": 0.7},
    ],
)
def test_one_configuration_means_the_same_in_pytorch(entry: dict[str, Any]) -> None:
    seeded()
    model = keras.Sequential(
        [keras.Input((5, 5, 4)), layers.Conv2D(8, 3), layers.Flatten(), layers.Dense(12)]
    )
    conv, dense = model.layers[0], model.layers[-1]
    twin = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Linear(72, 12))
    with torch.no_grad():
        twin[0].weight.copy_(torch.from_numpy(numpy(conv.kernel).transpose(3, 2, 0, 1)))
        twin[1].weight.copy_(torch.from_numpy(numpy(dense.kernel).T))
    LevelPruner(model, [{**entry, "op_types": ["default"]}]).compress()
    prunus.pruners.LevelPruner(twin, [{**entry, "op_types": ["default"]}]).compress()
    masks = masks_of(model)
    ours = masks[f"{conv.name}/kernel"].transpose(3, 2, 0, 1), masks[f"{dense.name}/kernel"].T
    for mask, layer in zip(ours, twin, strict=True):
        np.testing.assert_array_equal(mask, layer.weight_mask.numpy() != 0)


def test_gradual_pruning_follows_the_formula_and_nothing_comes_back() -> None:
    assert AGP_Pruner is AGPPruner
    model = convolutions()
    config_list = [
        {
            "initial_sparsity": 0.1,
            "final_sparsity": 0.9,
            "start_epoch": 1,
            "end_epoch": 6,
            "frequency": 2,
            "op_names": ["head", "conv"],
        }
    ]
    pruner = AGP_Pruner(model, config_list, pruning_algorithm="level")
    pruner.compress()
    assert sparsity(model) == 0
    gone: set[int] = set()
    weight = model.get_layer("conv").kernel
    for epoch in range(8):
        pruner.update_epoch(epoch)
        done, span = (epoch - 1) // 2 * 2, 4
        wanted = 0.9 if done >= span else 0.9 + (0.1 - 0.9) * (1 - done / span) ** 3 if epoch else 0.0
        mask = masks_of(model)["conv/kernel"]
        assert (~mask).sum() == int(mask.size * wanted), epoch
        now = set(np.flatnonzero(~mask))
        assert gone <= now
        gone = now
        rng = np.random.default_rng(epoch)
        weight.assign(rng.normal(size=weight.shape))  # what is left is ranked anew, what is gone stays gone
    with pytest.raises(prunus.PruningError, match="lies before epoch 7"):
        pruner.update_epoch(3)


def test_layers_inside_of_others_are_chosen_by_name_and_type() -> None:
    model = sequences()

    def chosen(*entries: dict[str, Any]) -> list[str]:
        return [wrapper.name for wrapper in LevelPruner(strip(model), list(entries)).wrappers]

    half = {"sparsity": 0.5}
    attention = [f"attention/{part}" for part in ("query", "key", "value", "attention_output")]
    cells = ["both/forward_lstm/lstm_cell", "both/backward_lstm/lstm_cell"]
    assert chosen({**half, "op_types": ["MultiHeadAttention"]}) == attention
    assert chosen({**half, "op_names": ["attention"]}) == attention
    assert chosen({**half, "op_names": ["query", "attention/key"]}) == attention[:2]
    assert chosen({**half, "op_types": "Bidirectional"}) == cells
    assert chosen({**half, "op_types": ["LSTM", "GRUCell"]}) == [*cells, "gru/gru_cell"]
    assert chosen({**half, "op_names": ["nested/*", "steps"]}) == ["nested/inside", "steps/each"]
    everything = chosen({**half, "op_types": ["default"]})
    assert everything == [
        "table", "nested/inside", *attention, "einsum", "steps/each", *cells, "gru/gru_cell", "head",
    ]  # fmt: skip
    fewer = chosen({**half, "op_types": ["default"]}, {"exclude": True, "op_names": ["both", "attention"]})
    assert fewer == [name for name in everything if not name.startswith(("both", "attention"))]


def test_what_cannot_be_pruned_is_named_and_the_rest_is_pruned() -> None:
    model = subclassed()
    config = [{"sparsity": 0.5, "op_types": ["Dense", "Scaled"]}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner = LevelPruner(model, config)  # the weight of the custom layer that is an attribute
    assert "scaled" in [wrapper.name for wrapper in pruner.wrappers]
    with pytest.warns(UserWarning, match="'norm' is not pruned: none of its weights has two dimensions"):
        LevelPruner(convolutions(), [{"sparsity": 0.5, "op_types": ["Dense", "BatchNormalization"]}])
    model = convolutions()
    with pytest.raises(prunus.PruningError, match="nothing that the configuration selects"):
        LevelPruner(model, [{"sparsity": 0.5, "op_names": ["norm"]}])
    assert type(model) is keras.Sequential


def test_faults_are_told_before_anything_is_touched() -> None:
    model = convolutions()
    before = state(model)
    for config, told in [
        ([{"sparsity": 1.5, "op_types": ["Conv2D"]}], "up to, but not including, 1"),
        ([{"sparsity": 0.5, "op_types": ["conv2D"]}], "did you mean 'Conv2D'"),
        ([{"sparsity": 0.5, "op_names": ["convv"]}], "did you mean 'conv'"),
        ([{"sparsity": 0.5}], "selects no layers"),
        ([{"op_types": ["default"]}], "'sparsity' is missing"),
    ]:
        with pytest.raises(ConfigError, match=told):
            LevelPruner(model, config)
    with pytest.raises(ConfigError, match="after 'end_epoch'"):
        AGPPruner(model, [{"final_sparsity": 0.5, "start_epoch": 3, "end_epoch": 1, "op_types": "default"}])
    with pytest.raises(ConfigError, match="BatchNormalization"):
        L1FilterPruner(model, [{"sparsity": 0.5, "op_types": ["BatchNormalization"]}])
    with pytest.raises(prunus.PruningError, match="there are level, l1"):
        AGPPruner(model, [{"final_sparsity": 0.5, "op_types": "default"}], pruning_algorithm="lasso")
    with pytest.raises(prunus.PruningError, match="no such options"):
        AGPPruner(model, [{"final_sparsity": 0.5, "op_types": "default"}], data=1)
    with pytest.raises(TypeError, match=r"prunus\.pruners"):
        LevelPruner(torch.nn.Linear(2, 2), [{"sparsity": 0.5, "op_types": ["default"]}])
    with pytest.raises(prunus.PruningError, match="no weights yet"):
        LevelPruner(keras.Sequential([layers.Dense(3)]), [{"sparsity": 0.5, "op_types": ["default"]}])
    assert same(before, state(model))
    assert type(model) is keras.Sequential
    pruner = LevelPruner(model, [{"sparsity": 0.5, "op_types": ["default"]}])
    pruner.compress()
    with pytest.raises(PrunerStateError, match="before"):
        pruner.compress()


def test_a_preview_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    model = sequences()
    pruner = LevelPruner(model, [{"sparsity": 0.5, "op_types": ["EinsumDense"]}])
    before = state(model)
    rows = {row.layer: row for row in pruner.preview().rows}
    assert "attention/query" in capsys.readouterr().out
    assert rows["attention/query"].sparsity == 0.5
    assert rows["gru/gru_cell"].why_not == "no entry selects it"
    assert same(before, state(model))


NNI_LEVEL = """
from nni.algorithms.compression.tensorflow.pruning import LevelPruner
config_list = [{ 'sparsity': 0.8, 'op_types': ['default'] }]
pruner = LevelPruner(model, config_list)
pruner.compress()
"""
NNI_AGP = """
from nni.algorithms.compression.tensorflow.pruning import AGP_Pruner
config_list = [{
    'initial_sparsity': 0,
    'final_sparsity': 0.8,
    'start_epoch': 0,
    'end_epoch': 10,
    'frequency': 1,
    'op_types': 'default'
}]
pruner = AGP_Pruner(model, config_list)
pruner.compress()
for epoch in range(12):
    pruner.update_epoch(epoch)
"""
NNI_FPGM = """
from nni.algorithms.compression.tensorflow.pruning import FPGMPruner
config_list = [{
    'sparsity': 0.5,
    'op_types': ['Conv2D']
}]
pruner = FPGMPruner(model, config_list)
pruner.compress()
"""


@pytest.mark.parametrize(("snippet", "wanted"), [(NNI_LEVEL, 0.8), (NNI_AGP, 0.8), (NNI_FPGM, 0.5)])
def test_documented_snippets_run_with_one_import_changed(snippet: str, wanted: float) -> None:
    space = {"model": convolutions()}
    exec(snippet.replace("nni.algorithms.compression.tensorflow.pruning", "prunus.keras"), space)
    assert sparsity(space["model"]) == pytest.approx(wanted, abs=0.01)
