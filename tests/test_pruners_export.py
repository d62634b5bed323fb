"""Exported weights, masks and ONNX agree with the masked model; a failed export leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pruner_models import images, plain, residual, train
from prunus.errors import ArgumentTypeError, InputError, PruningError
from prunus.pruners import (
    ActivationAPoZRankFilterPruner,
    L1FilterPruner,
    LevelPruner,
    ModelSpeedup,
    PrunerStateError,
    SlimPruner,
    apply_compression_results,
)
from snapshots import Snapshot

LEVEL = [{"sparsity": 0.5, "op_types": ["default"]}]


def pruned(pruner_type: Any = LevelPruner, types: str = "default") -> tuple[nn.Module, Any]:
    model = residual()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    pruner = pruner_type(model, [{"sparsity": 0.5, "op_types": [types]}], optimizer)
    pruner.compress()
    train(model, optimizer, 2)
    return model.eval(), pruner


@pytest.mark.parametrize(
    ("pruner_type", "types"),
    [
        (LevelPruner, "default"),
        (L1FilterPruner, "Conv2d"),
        (SlimPruner, "BatchNorm2d"),
        (ActivationAPoZRankFilterPruner, "Conv2d"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_and_masks_load_into_a_model_without_pruner(
    tmp_path: Path, pruner_type: Any, types: str, suffix: str
) -> None:
    model, pruner = pruned(pruner_type, types)
    before = Snapshot.of(model)
    weights, masks = tmp_path / f"model{suffix}", tmp_path / f"mask{suffix}"
    pruner.export_model(weights, mask_path=str(masks))
    assert before.differences(model, identity=True, randomness=True) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([weights.name, masks.name])
    if suffix == ".pth":
        state = torch.load(weights, weights_only=True)
        found = torch.load(masks, weights_only=True)
        assert list(found) == [wrapper.name for wrapper in pruner.get_modules_wrapper()]
        for wrapper in pruner.get_modules_wrapper():
            assert set(found[wrapper.name]) == {"weight_mask", "bias_mask"}
            assert torch.equal(found[wrapper.name]["weight_mask"], wrapper.weight_mask)
    else:
        from safetensors.torch import load_file

        state = load_file(weights)
    other = residual(1)
    other.load_state_dict(state)
    x = images(model)
    assert torch.equal(other.eval()(x), model(x))

    dense = residual(1)
    dense.load_state_dict({key: torch.ones_like(value) for key, value in dense.state_dict().items()})
    assert apply_compression_results(dense, masks) is dense
    for wrapper in pruner.get_modules_wrapper():
        assert torch.equal(dense.get_submodule(wrapper.name).weight.detach(), wrapper.weight_mask)


def test_onnx_computes_what_the_masked_model_does(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, pruner = pruned(L1FilterPruner, "Conv2d")
    model.train()
    before = Snapshot.of(model)
    pruner.export_model(
        tmp_path / "model.pth",
        tmp_path / "mask.pth",
        tmp_path / "model.onnx",
        input_shape=[4, 3, 10, 10],
        device="cpu",
    )
    assert before.differences(model, identity=True, randomness=True) == []
    x = images(model)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model.eval()(x).numpy(), atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pth", "mask.pth", "model.onnx"}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("gone/model.pth",), InputError, "gone"),
        (("model.pth", "gone/mask.pth"), InputError, "mask_path"),
        (("model.pth", "mask.pth", "model.onnx"), InputError, "input_shape"),
        (("model.pth", "mask.pth", "model.onnx", (0, 3)), InputError, "above zero"),
        (("model.pth", "mask.pth", "model.onnx", 3), ArgumentTypeError, "tuple"),
        (("model.pth", "mask.pth", "model.onnx", (1, 7, 10, 10)), PruningError, "ONNX"),
        (("model.pth", "model.pth"), InputError, "same file"),
        ((".",), InputError, "folder"),
        ((None,), ArgumentTypeError, "model_path"),
    ],
)
def test_what_cannot_be_exported_leaves_model_and_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, error: Any, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    model, pruner = pruned()
    Path("model.pth").write_text("here before")
    before = Snapshot.of(model)
    with pytest.raises(error, match=text):
        pruner.export_model(*arguments)
    assert before.differences(model, identity=True) == []
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]
    assert Path("model.pth").read_text() == "here before"


def test_a_plain_state_dict_loads_under_masks() -> None:
    model, pruner = pruned()
    mask = model.stem.weight_mask.clone()
    other = residual(3)
    pruner.load_model_state_dict(other.state_dict())
    assert torch.equal(model.stem.weight_mask, mask)
    assert torch.equal(model.stem.weight, other.stem.weight * mask)
    assert torch.equal(model.bn1.running_mean, other.bn1.running_mean)
    before = Snapshot.of(model)
    state = other.state_dict()
    del state["fc.weight"]
    state["fc.bias"] = torch.zeros(7)
    state["head.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"missing: fc\.weight.*head\.weight.*fc\.bias \(7,\)"):
        pruner.load_model_state_dict(state)
    assert before.differences(model) == []


def test_masks_of_another_model_are_refused(tmp_path: Path) -> None:
    _, pruner = pruned()
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    with pytest.raises(InputError, match="'stem'"):
        apply_compression_results(plain(), tmp_path / "mask.pth")
    other = residual()
    other.point = nn.Conv2d(8, 4, 1)
    before = Snapshot.of(other)
    with pytest.raises(InputError, match="'point'"):
        apply_compression_results(other, tmp_path / "mask.pth")
    assert before.differences(other) == []
    with pytest.raises(InputError, match="no file"):
        apply_compression_results(other, tmp_path / "none.pth")
    torch.save({"stem": {"weight": torch.zeros(8, 3, 3, 3), "bias": None}}, tmp_path / "nni.pth")
    apply_compression_results(other, tmp_path / "nni.pth")  # the keys of NNI 1.x
    assert not bool(other.stem.weight.any())
    (tmp_path / "text.pth").write_text("masks")
    torch.save({"stem.weight": torch.zeros(8)}, tmp_path / "state.pth")
    for wrong in (tmp_path / "text.pth", tmp_path / "state.pth", 3):
        with pytest.raises(PruningError, match="masks"):
            apply_compression_results(other, wrong)


def test_speedup_makes_the_model_smaller_and_computes_the_same(tmp_path: Path) -> None:
    model = residual().eval()
    x = images(model)
    pruner = L1FilterPruner(
        model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}], dependency_aware=True, dummy_input=x
    )
    pruner.compress()
    masked = model(x)
    masks, state = pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    for given in (tmp_path / "mask.pth", masks):
        fresh = residual(1).eval()
        fresh.load_state_dict(torch.load(tmp_path / "model.pth"))
        assert ModelSpeedup(fresh, x, given, torch.device("cpu")).speedup_model() is fresh
        assert (fresh.point.out_channels, fresh.stem.out_channels) == (8, 4)
        torch.testing.assert_close(fresh(x), masked, atol=1e-5, rtol=0)
    pruner._unwrap_model()
    assert list(model.state_dict()) == list(state)
    speedup = ModelSpeedup(model, x, masks)
    speedup.speedup_model()
    torch.testing.assert_close(model(x), masked, atol=1e-5, rtol=0)
    assert speedup.plan is not None
    speedup.plan.undo(model)
    assert torch.equal(model(x), masked)

    other = residual(1)
    before = Snapshot.of(other)
    with pytest.raises(PruningError):
        ModelSpeedup(other, x[:, :1], masks).speedup_model()  # an input that the model cannot take
    assert before.differences(other) == []
    with pytest.raises(ArgumentTypeError, match="no option 'speed'"):
        ModelSpeedup(other, x, masks, speed=2)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", 1.5])
def test_a_device_that_is_not_there_is_refused(device: Any, tmp_path: Path) -> None:
    model = plain()
    pruner = L1FilterPruner(model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}])
    pruner.compress()
    with pytest.raises(InputError, match="device"):
        pruner.export_model(tmp_path / "m.pth", None, tmp_path / "m.onnx", (1, 1, 10, 10), device)
    assert list(tmp_path.iterdir()) == []


def test_masks_that_wait_for_data_are_not_exported(tmp_path: Path) -> None:
    model = plain()
    pruner = ActivationAPoZRankFilterPruner(model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}])
    pruner.compress()
    with pytest.raises(PrunerStateError, match="wait for data"):
        pruner.export_model(tmp_path / "model.pth")
    assert list(tmp_path.iterdir()) == []
    model(images(model))
    masks, state = pruner.export_model(tmp_path / "model.pth")  # chosen now
    assert not bool(masks["0"]["weight_mask"].all())
    assert torch.equal(state["0.weight"], model[0].weight)


def test_two_pruners_for_different_layers_know_of_each_other(tmp_path: Path) -> None:
    model = plain()
    first = L1FilterPruner(model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}])
    second = LevelPruner(model, [{"sparsity": 0.5, "op_types": ["Linear"]}])
    first.compress()
    second.compress()
    first.export_model(tmp_path / "model.pth")
    plain().load_state_dict(torch.load(tmp_path / "model.pth"))
    first.load_model_state_dict(plain(1).state_dict())
    assert not bool(model[8].weight_mask.all())
    first.close()
    assert bool((model[8].weight[model[8].weight_mask == 0] == 0).all())


def test_how_many_slices_are_left() -> None:
    model = plain()
    pruner = L1FilterPruner(model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}])
    pruner.compress()
    assert pruner.get_pruned_weights() == {"0": (3, 6), "3": (5, 10)}
    assert pruner.get_pruned_weights(dim=1) == {"0": (1, 1), "3": (6, 6)}


def test_what_fails_on_the_way_leaves_all_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In three folders, of which nothing but the files asked for is left, be they replaced or not."""
    from prunus.pruners import exporting

    paths = [tmp_path / name for name in ("a/model.safetensors", "b/masks.pth", "c/model.onnx")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(b"before")
    _, pruner = pruned()

    def fail(*args: object) -> None:
        raise RuntimeError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_write_onnx", fail)
        with pytest.raises(RuntimeError, match="no space"):
            pruner.export_model(*paths, input_shape=(1, 3, 8, 8))
    assert [path.read_bytes() for path in paths] == [b"before"] * 3
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == paths
    pruner.export_model(*paths[:2])
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == paths
    other = tmp_path / "other"
    other.touch()
    assert {path.stat().st_mode for path in paths} == {other.stat().st_mode}
