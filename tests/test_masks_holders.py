"""A masked gradient takes the product's place in memory, but only if nobody can see the product any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import prunus.masks as prune
from prunus.masks import holders, product

WIDTH = 256


class Looking(nn.Linear):
    """Notes where its weight lies in memory, and what somebody keeps of it."""

    keep: Callable[[Tensor], Any] = staticmethod(lambda weight: None)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        self.place, self.kept = weight.data_ptr(), self.keep(weight)
        return torch.nn.functional.linear(x, weight, self.bias)


def masked(keep: Callable[[Tensor], Any] | None = None) -> Any:
    torch.manual_seed(0)
    module = Looking(WIDTH, WIDTH)
    if keep is not None:
        module.keep = keep  # type: ignore[method-assign]
    return prune.random_unstructured(module, "weight", 0.5)


def expected(module: Any, x: Tensor) -> Tensor:
    """The gradient of the sum of squares of the outputs, in float64."""
    weight = (module.weight_orig * module.weight_mask).detach().double().requires_grad_()
    loss = torch.nn.functional.linear(x.double(), weight, module.bias.detach().double()).square().sum()
    (grad,) = torch.autograd.grad(loss, weight)
    return grad * (module.weight_mask != 0)


def check(module: Any, x: Tensor, times: int = 1) -> None:
    torch.testing.assert_close(
        module.weight_orig.grad.double(), times * expected(module, x), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("needs_grad", [False, True], ids=["first layer", "inner layer"])
def test_the_gradient_lies_where_the_product_lay(needs_grad: bool) -> None:
    assert WIDTH * WIDTH >= product.REUSED
    module, x = masked(), torch.randn(5, WIDTH, requires_grad=needs_grad)
    for _ in range(3):
        module.weight_orig.grad = None
        module(x).square().sum().backward()
        assert module.weight_orig.grad.data_ptr() == module.place
        check(module, x.detach())


def _saved_elsewhere(weight: Tensor) -> Any:
    return (weight * torch.ones_like(weight).requires_grad_()).sum()  # its node saves the weight


HOLDERS: dict[str, Callable[[Tensor], Any]] = {
    "variable": lambda weight: weight,
    "detached": lambda weight: weight.detach(),
    "view": lambda weight: weight[3:5],
    "transposed": lambda weight: weight.detach().t(),
    "storage": lambda weight: weight.untyped_storage(),
    "numpy": lambda weight: weight.detach().numpy(),
    "data": lambda weight: weight.data,
    "another graph": _saved_elsewhere,
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_what_somebody_keeps_of_the_product_stays_as_it_is(kind: str) -> None:
    module, x = masked(HOLDERS[kind]), torch.randn(5, WIDTH)
    before = (module.weight_orig * module.weight_mask).detach()
    module(x).square().sum().backward()
    assert module.weight_orig.grad.data_ptr() != module.place
    check(module, x)
    kept = module.kept
    if kind == "another graph":
        module.weight_orig.grad = None
        kept.backward()
        assert torch.equal(module.weight_orig.grad, module.weight_mask.float())
    elif kind == "storage":
        assert torch.equal(torch.tensor([]).set_(kept).view(WIDTH, WIDTH), before)
    else:
        piece = {"view": before[3:5], "transposed": before.t()}.get(kind, before)
        assert torch.equal(torch.as_tensor(kept).detach(), piece)


@pytest.mark.parametrize("needs_grad", [False, True], ids=["first layer", "inner layer"])
def test_graphs_that_are_kept_give_the_same_gradient_again(needs_grad: bool) -> None:
    """A layer whose input has no gradient keeps no weight in the graph: the product is free."""
    module, x = masked(), torch.randn(5, WIDTH, requires_grad=needs_grad)
    loss = module(x).square().sum()
    for times in (1, 2, 3):
        loss.backward(retain_graph=True)
        check(module, x.detach(), times)
        if needs_grad:
            assert x.grad is not None
            weight = (module.weight_orig * module.weight_mask).detach()
            out = torch.nn.functional.linear(x.detach(), weight, module.bias.detach())
            torch.testing.assert_close(x.grad, times * 2 * out @ weight, rtol=1e-4, atol=1e-3)
    assert torch.equal(module.weight, module.weight_orig * module.weight_mask)


def test_a_product_that_is_its_own_gradient() -> None:
    """The gradient handed to the product's node lies in the product's memory here."""

    class HalfSquare(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, t: Tensor) -> Tensor:
            ctx.save_for_backward(t)
            return t.square().sum() / 2

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            saved: Tensor = ctx.saved_tensors[0]
            return saved

    orig = torch.randn(WIDTH, WIDTH, requires_grad=True)
    mask = torch.rand(WIDTH, WIDTH) > 0.5
    HalfSquare.apply(product.masked(orig, mask)).backward()  # type: ignore[no-untyped-call]
    assert torch.equal(orig.grad, (orig * mask).detach())


def test_gradients_that_hooks_see_stay_as_they_are() -> None:
    module, x = masked(), torch.randn(5, WIDTH)
    seen = []
    orig, mask = module.weight_orig, module._buffers["weight_mask"]
    made = product.masked(orig, mask)
    made.register_hook(lambda grad: seen.append((grad, grad.clone())))
    (x @ made).square().sum().backward()
    del made
    ((grad, copied),) = seen
    assert torch.equal(grad, copied)
    assert torch.equal(orig.grad, copied * mask)


def test_products_changed_in_place_are_differentiated() -> None:
    orig = torch.randn(WIDTH, WIDTH, requires_grad=True)
    mask = torch.rand(WIDTH, WIDTH) > 0.5
    product.masked(orig, mask).mul_(3).sum().backward()
    assert torch.equal(orig.grad, 3 * mask.float())


def test_hooks_on_saved_tensors_are_not_asked_for_the_product() -> None:
    """Unpacking may read from disk, or compute a whole forward pass again."""
    orig = torch.randn(WIDTH, WIDTH, requires_grad=True)
    mask = torch.rand(WIDTH, WIDTH) > 0.5
    calls = []

    def note(kind: str) -> Callable[[Tensor], Tensor]:
        def hook(t: Tensor) -> Tensor:
            calls.append(kind)
            return t

        return hook

    with torch.autograd.graph.saved_tensors_hooks(note("pack"), note("unpack")):
        product.masked(orig, mask).sum().backward()
    assert calls == []
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
    prune.random_unstructured(model[0], "weight", 0.5)
    x = torch.randn(4, WIDTH, requires_grad=True)
    checkpoint(model, x, use_reentrant=False).sum().backward()
    grad = model[0].weight_orig.grad.clone()
    model.zero_grad()
    model(x).sum().backward()
    torch.testing.assert_close(model[0].weight_orig.grad, grad)


def test_where_holders_do_not_show_nothing_is_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_storage_Use_Count", lambda pointer: 1)
    holders._count_alone.cache_clear()
    try:
        module, x = masked(), torch.randn(5, WIDTH)
        module(x).square().sum().backward()
        assert module.weight_orig.grad.data_ptr() != module.place
        check(module, x)
    finally:
        monkeypatch.undo()
        holders._count_alone.cache_clear()
