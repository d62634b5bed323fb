"""Masked and stripped Keras models through files, in this process and in a fresh one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunus
from keras_dependencies import half, layer_normalized
from keras_models import (
    BACKEND,
    batch,
    compiled,
    convolutions,
    fresh,
    keras,
    outputs,
    removed_are_zero,
    same,
    sequences,
    state,
    subclassed,
)
from prunus.keras import (
    AGPPruner,
    L1FilterPruner,
    LevelPruner,
    Pruner,
    PruningCallback,
    masks_of,
    sparsity,
    strip,
)

LOADING = """
import json, sys
import numpy as np
folder, masked = sys.argv[1], sys.argv[2] == "masked"
import keras_architectures, keras_models  # which register their layers
from keras_models import keras, compiled, outputs, removed_are_zero
if masked:
    import prunus.keras
found = []
for name in sys.argv[3:]:
    model = keras.models.load_model(f"{folder}/{name}.keras")
    data = np.load(f"{folder}/{name}.npz")
    entry = {"equal": bool(np.array_equal(outputs(model, data["x"]), data["outputs"]))}
    if masked:
        masks = list(prunus.keras.masks_of(model).values())
        same = [np.array_equal(mask, data[f"mask{i}"]) for i, mask in enumerate(masks)]
        entry["masks"] = len(same) if all(same) else "other masks"
    if getattr(model, "optimizer", None) is not None:
        model.fit(data["x"], data["y"], epochs=1, verbose=0)
        if masked:
            removed_are_zero(model)
            entry["held"] = True
    found.append(entry)
print(json.dumps(found))
print("prunus.keras" in sys.modules)
"""


def note(model: Any, folder: Path, name: str) -> None:
    x, y = batch(model)
    # By their order: layers that a class makes without giving them names are named anew in each process.
    masks = {f"mask{i}": mask for i, mask in enumerate(masks_of(model).values())}
    np.savez(folder / f"{name}.npz", x=x, y=y, outputs=outputs(model, x), **masks)
    model.save(folder / f"{name}.keras")


def test_files_in_a_fresh_process(tmp_path: Path) -> None:
    builders = {
        "sequences": sequences,
        "convolutions": convolutions,
        "layer_normalized": layer_normalized,
        "subclassed": subclassed,
    }
    if BACKEND == "jax":  # where every model is compiled in each process
        del builders["sequences"], builders["convolutions"]
    counts, plain = [], tmp_path / "plain"
    plain.mkdir()
    for name, build in builders.items():
        model = build()
        if name in ("subclassed", "layer_normalized"):
            compiled(model, keras.optimizers.SGD(0.01, momentum=0.9))
            model.fit(*batch(model), verbose=0)
        types = ["default", "Scaled"] if name == "subclassed" else ["default"]
        if name == "layer_normalized":  # scales and shifts have masks, too
            pruner: Pruner = L1FilterPruner(model, half(), dependency_aware=True)
            assert len(pruner.partners) == 7
        else:
            pruner = LevelPruner(model, [{"sparsity": 0.5, "op_types": types}])
        pruner.compress()
        counts.append(len(masks_of(model)))
        note(model, tmp_path, name)
        note(strip(model), plain, name)
    answer, _ = fresh(LOADING, str(tmp_path), "masked", *builders).splitlines()[-2:]
    expected: list[dict[str, Any]] = [{"equal": True, "masks": count} for count in counts]
    for entry in expected[-2:]:
        entry["held"] = True
    assert json.loads(answer) == expected
    # What has been stripped loads where nobody has heard of Prunus.
    answer, imported = fresh(LOADING, str(plain), "plain", *builders).splitlines()[-2:]
    assert json.loads(answer) == [{"equal": True}] * len(builders)
    assert imported == "False"


@pytest.mark.parametrize("build", [sequences, subclassed])
def test_weight_files_fit_plain_and_masked_models(build: Callable[[], Any], tmp_path: Path) -> None:
    model = build()
    x, _ = batch(model)
    model.save_weights(tmp_path / "dense.weights.h5")
    LevelPruner(model, [{"sparsity": 0.5, "op_types": ["default"]}]).compress()
    model.save_weights(tmp_path / "masked.weights.h5")
    expected, masks = outputs(model, x), masks_of(model)
    plain = build()
    plain.load_weights(tmp_path / "masked.weights.h5")
    np.testing.assert_allclose(outputs(plain, x), expected, rtol=1e-6, atol=1e-6)
    other = build()
    LevelPruner(other, [{"sparsity": 0.2, "op_types": ["default"]}])
    other.load_weights(tmp_path / "masked.weights.h5")
    assert np.array_equal(outputs(other, x), expected)
    assert all(np.array_equal(mask, masks[name]) for name, mask in masks_of(other).items())
    other.load_weights(tmp_path / "dense.weights.h5")  # the same weights: those that are left of them
    assert np.array_equal(outputs(other, x), expected)
    removed_are_zero(other)
    other.set_weights(model.get_weights())
    assert np.array_equal(outputs(other, x), expected)


def test_a_loaded_model_is_pruned_further(tmp_path: Path) -> None:
    model = compiled(subclassed(), "adam")
    x, y = batch(model)
    entry = {"final_sparsity": 0.8, "end_epoch": 4, "op_types": ["Dense"]}
    model.fit(x, y, epochs=2, verbose=0, callbacks=[PruningCallback(AGPPruner(model, [entry]))])
    before = list(masks_of(model).values())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    callback = PruningCallback(AGPPruner(loaded, [entry]))
    loaded.fit(x, y, initial_epoch=2, epochs=6, verbose=0, callbacks=[callback])
    after = list(masks_of(loaded).values())
    assert sparsity(loaded) == pytest.approx(0.8, abs=0.02)
    assert all((new <= old).all() and old.any() for new, old in zip(after, before, strict=True))
    removed_are_zero(loaded)


def test_copies_have_their_own_masks() -> None:
    model = subclassed()
    x, _ = batch(model)
    LevelPruner(model, [{"sparsity": 0.5, "op_types": ["Dense"]}]).compress()
    expected = outputs(model, x)
    copied = pickle.loads(pickle.dumps(model))
    strip(model)
    assert np.array_equal(outputs(copied, x), expected)
    assert sparsity(copied) == pytest.approx(0.5, abs=0.01)
    assert sparsity(model) == 0


def test_export_writes_a_plain_model_and_the_masks(tmp_path: Path) -> None:
    model = convolutions()
    x, _ = batch(model)
    pruner = LevelPruner(model, [{"sparsity": 0.5, "op_types": ["default"]}])
    with pytest.raises(prunus.PruningError, match="compress"):
        pruner.export_model(tmp_path / "model.keras")
    pruner.compress()
    with pytest.raises(prunus.PruningError, match="does not exist"):
        pruner.export_model(tmp_path / "nowhere" / "model.keras")
    before = state(model)
    pruner.export_model(tmp_path / "model.keras", tmp_path / "masks.npz")
    assert same(before, state(model))
    assert len(masks_of(model)) > 5
    plain = keras.models.load_model(tmp_path / "model.keras")
    assert type(plain) is keras.Sequential
    assert masks_of(plain) == {}
    np.testing.assert_allclose(outputs(plain, x), outputs(model, x), rtol=1e-6, atol=1e-6)
    with np.load(tmp_path / "masks.npz") as masks:
        assert all(np.array_equal(masks[name], mask) for name, mask in masks_of(model).items())
