"""Gradients with respect to the masked parameters that a forward pass has used, while its graph lives."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import prune as original
from torch.utils.checkpoint import checkpoint

import prunus.masks as prune


@pytest.mark.parametrize("width", [6, 200], ids=["small", "large"])
def test_gradients_of_what_a_forward_pass_has_used(width: int) -> None:
    """As with the original, the masked weights can be differentiated by after the forward pass."""
    results = []
    for package in (prune, original):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 70))
        for layer in (model[0], model[2]):
            package.l1_unstructured(layer, "weight", 0.5)
            package.l1_unstructured(layer, "bias", 0.5)
        out = model(torch.ones(3, 5)).pow(2).sum()
        wanted = [getattr(layer, name) for layer in (model[0], model[2]) for name in ("weight", "bias")]
        first = torch.autograd.grad(out, wanted, create_graph=True)
        penalty = sum(grad.pow(2).sum() for grad in first)
        second = torch.autograd.grad(penalty, [model[0].weight, model[2].weight], retain_graph=True)
        penalty.backward()
        results.append([*first, *second, *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_was_used_is_forgotten_when_it_is_out_of_date() -> None:
    module: Any = prune.l1_unstructured(nn.Linear(5, 4), "weight", 0.5)
    out = module(torch.ones(2, 5)).sum()
    used = module.weight
    assert module.weight.grad_fn is used.grad_fn
    with torch.no_grad():
        assert not module.weight.requires_grad
        module.weight_orig.mul_(2)
    assert torch.equal(module.weight, module.weight_orig * module.weight_mask)
    module.weight_mask[:] = 0
    assert not module.weight.any()
    module.weight_mask.data.fill_(1)
    module(torch.ones(2, 5))
    assert module.weight.all()
    out = module(torch.ones(2, 5)).sum()
    used = module.weight
    out.backward()
    assert module.weight.grad_fn is not used.grad_fn
    module.weight.sum().backward()
    assert torch.equal(pickle.loads(pickle.dumps(module)).weight, module.weight)
    assert torch.equal(copy.deepcopy(module).weight, module.weight)


def test_graphs_let_go_of_the_product_after_the_backward_pass() -> None:
    module: Any = prune.l1_unstructured(nn.Linear(300, 300), "weight", 0.5)
    out = module(torch.ones(2, 300)).sum()  # of an input without gradient, the layer keeps no weight itself
    kept = StorageWeakRef(module.weight.untyped_storage())
    assert not kept.expired()
    assert module.weight.grad_fn is module.weight.grad_fn
    out.backward()
    del module.weight_orig.grad  # whose place in memory is that of the product
    assert kept.expired()
    assert out.grad_fn is not None  # though the graph itself is still there


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_passes_are_differentiated_as_others(reentrant: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 200), nn.Tanh(), nn.Linear(200, 70))
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.l1_unstructured(model[2], "weight", 0.5)
    x = torch.ones(3, 5, requires_grad=True)
    grads = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        model.zero_grad()
        (run(x).pow(2).sum() + model[2].weight.abs().sum()).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_masked_parameter_prints_as_the_original_prints_it() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(200, 100))
    texts = []
    for package in (prune, original):
        module: Any = nn.Linear(100, 200)
        module.weight = nn.Parameter(weight.detach().clone())
        texts.append(str(package.l1_unstructured(module, "weight", 0.5).weight))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("penalty_first", [True, False])
def test_losses_and_penalties_may_have_backward_passes_of_their_own(penalty_first: bool) -> None:
    module: Any = prune.l1_unstructured(nn.Linear(6, 6), "weight", 0.5)
    x = torch.randn(3, 6)
    both = module(x).pow(2).sum() + module.weight.abs().sum()
    (expected,) = torch.autograd.grad(both, module.weight_orig)
    loss = module(x).pow(2).sum()
    if penalty_first:
        module.weight.abs().sum().backward()
        loss.backward()
    else:
        loss.backward()
        module.weight.abs().sum().backward()
    torch.testing.assert_close(module.weight_orig.grad, expected)


def test_a_mask_that_changes_before_the_backward_pass_is_noticed() -> None:
    module: Any = prune.l1_unstructured(nn.Linear(6, 6), "weight", 0.5)
    loss = module(torch.randn(3, 6)).sum()
    module.weight_mask[:] = 0
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_masks_made_in_inference_mode() -> None:
    module: Any = nn.Linear(6, 6)
    x = torch.randn(3, 6)
    with torch.inference_mode():
        prune.l1_unstructured(module, "weight", 0.5)
        out = module(x)
    torch.testing.assert_close(module(x), out)
