"""The micro-networks must run, train and react to every weight, or the other tests prove nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from micro import REGISTRY
from oracle import tensors_of


def test_there_are_enough() -> None:
    assert len(REGISTRY) >= 60


@pytest.mark.parametrize("name", REGISTRY)
def test_runs_and_trains(name: str) -> None:
    model, args, kwargs = REGISTRY[name].fresh()
    with torch.no_grad():
        first, second = (tensors_of(model(*args, **kwargs)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(t.is_floating_point() and t.std() > 1e-4 for t in first)
    outputs = tensors_of(model(*args, **kwargs))
    sum(t.abs().sum() for t in outputs if t.requires_grad).backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    if REGISTRY[name].train:
        model.train()
        assert all(t.isfinite().all() for t in tensors_of(model(*args, **kwargs)))


@pytest.mark.parametrize("name", REGISTRY)
def test_expectations_name_real_dimensions(name: str) -> None:
    case = REGISTRY[name]
    model, _, _ = case.fresh()
    named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    for key, dims in (*case.halved.items(), *case.whole.items()):
        assert key in named, key
        for dim in (dims,) if isinstance(dims, int) else dims:
            assert named[key].shape[dim] > 1 or key in case.whole, (key, dim)
    assert case.halved or case.frozen


@pytest.mark.parametrize("name", REGISTRY)
def test_output_depends_on_every_halved_unit(name: str) -> None:
    """Zeroing half of a dimension must show in the output: else a wrong slice could go unseen."""
    case = REGISTRY[name]
    model, args, kwargs = case.fresh()
    with torch.no_grad():
        before = tensors_of(model(*args, **kwargs))
        for key, dims in case.halved.items():
            for dim in (dims,) if isinstance(dims, int) else dims:
                other = copy.deepcopy(model)
                named = dict(other.named_parameters(remove_duplicate=False)) | dict(other.named_buffers())
                named[key].data.narrow(dim, 0, named[key].shape[dim] // 2).zero_()
                after = tensors_of(other(*args, **kwargs))
                assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), (key, dim)
