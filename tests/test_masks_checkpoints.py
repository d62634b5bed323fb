"""Checkpoints between pruned and plain models, and masks as bits."""

from __future__ import annotations

import copy

import pytest
import torch

import prunus
import prunus.masks as prune
from masked_layers import EACH, convolutions, dense, made, output


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
