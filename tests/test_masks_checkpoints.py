"""Checkpoints between pruned and plain models, and masks as bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
import prunus.masks as prune
from masked_layers import EACH, convolutions, dense, made, masked_names, output


@EACH
def test_checkpoints_between_plain_and_pruned_models(name: str) -> None:
    pruned, x = made(name)
    plain = dense(made(name)[0])
    prune.load(plain, pruned.state_dict())
    assert torch.equal(output(plain, x), output(pruned, x))
    assert not prune.is_pruned(plain)

    other, fresh = dense(made(name)[0]), made(name)[0]
    kept = {key: value.clone() for key, value in fresh.state_dict().items() if key.endswith("_mask")}
    prune.load(fresh, other.state_dict())
    for key, value in kept.items():
        assert torch.equal(fresh.state_dict()[key], value)
        dense_value = other.state_dict()[key.removesuffix("_mask")]
        assert torch.equal(fresh.state_dict()[key.removesuffix("_mask") + "_orig"], dense_value)

    unmasked = dense(made(name)[0])
    unmasked.load_state_dict(prune.plain_state_dict(pruned))
    assert torch.equal(output(unmasked, x), output(pruned, x))


@EACH
def test_masks_saved_as_bits(name: str) -> None:
    pruned, x = made(name)
    packed = prune.packed_state_dict(pruned)
    for key, value in pruned.state_dict().items():
        if key.endswith("_mask"):
            assert packed[key].dtype is torch.uint8
            assert packed[key].numel() == -(-value.numel() // 8)
    for load in (lambda m: m.load_state_dict(packed), lambda m: prune.load(m, packed)):
        other = made(name)[0]
        load(other)
        assert torch.equal(output(other, x), output(pruned, x))
    plain = prune.load(dense(made(name)[0]), packed)
    assert torch.equal(output(plain, x), output(pruned, x))


def test_checkpoints_that_do_not_fit_change_nothing() -> None:
    model = convolutions()
    good = model.state_dict()
    mask = good["0.weight_mask"].float()
    for wrong in (
        {**good, "0.weight_mask": mask * 0.5},
        {**good, "0.weight_mask": mask[1:]},
        {**good, "more": mask},
        {key: value for key, value in good.items() if key != "3.bias"},
        {**good, "3.bias": torch.ones(9)},
    ):
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(RuntimeError) as error:
            prune.load(model, wrong)
        assert isinstance(error.value, prunus.PruningError)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match="other than 0 and 1"):
        model.load_state_dict({**good, "0.weight_mask": mask * 0.5})


# -- `prunus.save` and `prunus.load` ----------------------------------------------------------------------


def plain_builder(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return dense(made(name)[0])

    return build


@EACH
@pytest.mark.parametrize("into", ["a factory", "a plain model", "a masked model", "a model with other masks"])
def test_a_masked_model_saved_and_loaded_by_prunus(name: str, into: str, tmp_path: Path) -> None:
    pruned, x = made(name)
    module, key = masked_names(pruned)[0]
    prune.random_unstructured(module, key, 0.2)
    prunus.save(pruned, tmp_path / "it")
    target: Any = plain_builder(name)
    if into == "a plain model":
        target = target()
    elif into == "a masked model":
        target = made(name)[0]
    elif into == "a model with other masks":
        target = target()
        prune.identity(*_twins(target, pruned)[0])
    loaded = prunus.load(target, tmp_path / "it")
    assert torch.equal(output(loaded, x), output(pruned, x))
    own, other = loaded.state_dict(), pruned.state_dict()
    assert own.keys() == other.keys()
    for entry, value in other.items():
        assert own[entry].dtype is value.dtype
        assert torch.equal(own[entry], value), entry
    assert len(masked_names(loaded)) == len(masked_names(pruned))
    output(loaded, x).sum().backward()
    for module, key in masked_names(loaded):
        assert not getattr(module, key + "_orig").grad[getattr(module, key + "_mask") == 0].any()
        prune.l1_unstructured(module, key, 0.1)
        prune.remove(module, key)


def _twins(plain: nn.Module, pruned: nn.Module) -> list[tuple[nn.Module, str]]:
    names = {id(module): name for name, module in pruned.named_modules()}
    return [(plain.get_submodule(names[id(module)]), key) for module, key in masked_names(pruned)]


@EACH
def test_a_load_that_fails_leaves_a_plain_model_without_masks(name: str, tmp_path: Path) -> None:
    pruned, x = made(name)
    prunus.save(pruned, tmp_path / "it")
    (weights,) = (tmp_path / "it").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    plain = plain_builder(name)()
    tensors = [(key, id(value), value.clone()) for key, value in plain.named_parameters()]
    types = [type(module) for module in plain.modules()]
    before = output(plain, x)
    with pytest.raises(prunus.PruningError, match="damaged"):
        prunus.load(plain, tmp_path / "it")
    assert [type(module) for module in plain.modules()] == types
    assert not prune.is_pruned(plain)
    for (key, value), (old, identity, content_before) in zip(plain.named_parameters(), tensors, strict=True):
        assert (key, id(value)) == (old, identity)
        assert torch.equal(value, content_before)
    assert torch.equal(output(plain, x), before)
    assert not list(plain.buffers())


def test_names_of_ones_own_that_look_like_masks_are_left_alone(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale_orig = nn.Parameter(torch.randn(3))
            self.register_buffer("scale_mask", torch.rand(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale_orig * self.scale_mask

    model = Own()
    prunus.save(model, tmp_path / "it")
    loaded = prunus.load(Own, tmp_path / "it")
    assert type(loaded) is Own
    assert torch.equal(loaded(torch.ones(3)), model(torch.ones(3)))


def test_models_without_data_are_masked_and_filled_later() -> None:
    whole = prune.l1_unstructured(nn.Linear(6, 4), "weight", 0.5)
    x = torch.randn(3, 6)
    for call in (
        lambda module: prune.identity(module, "weight"),
        lambda module: prune.l1_unstructured(module, "weight", 0.5),
        lambda module: prune.ln_structured(module, "weight", 0.5, n=2, dim=0),
    ):
        module = call(nn.Linear(6, 4, device="meta"))
        assert module.weight.is_meta
        module.load_state_dict(whole.state_dict(), assign=True)
        assert torch.equal(module(x), whole(x))


# -- what torch and others do with state dicts and whole models -------------------------------------------


@EACH
@pytest.mark.filterwarnings("ignore")
def test_distributed_checkpoints_and_safetensors_hold_the_masks(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    pruned, x = made(name)
    want = output(pruned, x)

    def fresh() -> nn.Module:
        module = dense(made(name)[0])
        for key in [key for key in pruned.state_dict() if key.endswith("_mask")]:
            owner, _, own = key.removesuffix("_mask").rpartition(".")
            prune.identity(module.get_submodule(owner), own)
        return module

    checkpoint.save(pruned.state_dict(), checkpoint_id=tmp_path / "folder")
    other = fresh()
    state = other.state_dict()
    checkpoint.load(state, checkpoint_id=tmp_path / "folder")
    other.load_state_dict(state)
    assert torch.equal(output(other, x), want)

    other = fresh()
    set_model_state_dict(other, get_model_state_dict(pruned))
    assert torch.equal(output(other, x), want)

    save_file(
        {key: value.contiguous() for key, value in pruned.state_dict().items()}, tmp_path / "a.safetensors"
    )
    other = fresh()
    other.load_state_dict(load_file(tmp_path / "a.safetensors"))
    assert torch.equal(output(other, x), want)


def test_functional_calls_ensembles_and_averages() -> None:
    from torch.func import functional_call, stack_module_state, vmap
    from torch.optim.swa_utils import AveragedModel

    model, x = convolutions(), torch.rand(2, 3, 6, 6)
    prune.global_unstructured([(model[0], "weight")], prune.L1Unstructured, amount=0.5)
    want = model(x)
    parts = dict(model.named_parameters()), dict(model.named_buffers())
    assert torch.equal(functional_call(model, parts, (x,)), want)
    assert torch.equal(functional_call(model, model.state_dict(), (x,)), want)
    parameters, buffers = stack_module_state([model, copy.deepcopy(model)])
    base = copy.deepcopy(model).to("meta")
    both = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(both, torch.stack([want, want]))
    average = AveragedModel(model)
    average.update_parameters(model)
    average.update_parameters(model)
    torch.testing.assert_close(average(x), want)
    assert torch.equal(average.module[0].weight_mask, model[0].weight_mask)
