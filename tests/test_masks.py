"""Masks held against `torch.nn.utils.prune`: the same masks, names, hooks, draws, checkpoints and errors."""

from __future__ import annotations

import copy
import itertools
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as original

import prunus.masks as masks
from masked_layers import layer

BOTH = (masks, original)
INF = float("inf")


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    """The same names in the same order, the same values, and the same tensor in the parameter's place."""
    own, other = ours.state_dict(), theirs.state_dict()
    assert list(own) == list(other)
    for name, value in other.items():
        assert torch.equal(own[name].to(value.dtype), value), name
        assert (own[name].dtype is torch.bool) == name.endswith("_mask")
    for (name, mine), (_, module) in zip(ours.named_modules(), theirs.named_modules(), strict=True):
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, original.BasePruningMethod):
                assert torch.equal(getattr(mine, hook._tensor_name), hook.apply_mask(module)), (
                    name,
                    hook._tensor_name,
                )
        mine_hooks = list(mine._forward_pre_hooks.values())
        assert [type(h).__name__ for h in mine_hooks] == [
            type(h).__name__ for h in module._forward_pre_hooks.values()
        ]


def in_step(module: nn.Module, *calls: Any) -> nn.Module:
    """Do the same calls with both packages, from the same seeds, and compare after each."""
    pair = (module, copy.deepcopy(module))
    for seed, call in enumerate(calls):
        errors = []
        for package, own in zip(BOTH, pair, strict=True):
            torch.manual_seed(seed)
            try:
                call(package, own)
            except ValueError as error:  # a count of what is not there any more
                errors.append(error)
        if errors:
            assert len(errors) == 2
            break  # the original has lost its hook
        assert_same(*pair)
    return module


SHAPES = [(7,), (6, 5), (1, 9), (4, 3, 3, 3), (2, 3, 4, 5, 2)]
AMOUNTS: list[Any] = [0.0, 0.2, 0.5, 0.77, 1.0, 0, 1, 3]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["random_unstructured", "l1_unstructured"])
def test_unstructured(shape: tuple[int, ...], name: str) -> None:
    for first, second in itertools.product(AMOUNTS, [0.3, 1.0, 1]):
        in_step(
            layer(shape),
            lambda p, m, a=first: getattr(p, name)(m, "weight", a),
            lambda p, m, a=second: getattr(p, name)(m, "weight", amount=a),
            lambda p, m: p.random_unstructured(m, "bias", 0.5),
        )


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3.5, INF, -INF, 0])
def test_ln_structured(shape: tuple[int, ...], n: float) -> None:
    for dim in range(-len(shape), len(shape)):
        for amount in (0.0, 0.4, 1, 1.0):
            in_step(
                layer(shape),
                lambda p, m, a=amount, d=dim: p.ln_structured(m, "weight", a, n=n, dim=d),
                lambda p, m, d=dim: p.ln_structured(m, "weight", amount=0.3, n=n, dim=d),
            )


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_random_structured(shape: tuple[int, ...]) -> None:
    for dim in range(-len(shape), len(shape)):
        in_step(
            layer(shape),
            lambda p, m, d=dim: p.random_structured(m, "weight", 0.4, dim=d),
            lambda p, m, d=dim: p.random_structured(m, "weight", amount=0.5, dim=d),
            lambda p, m: p.random_unstructured(m, "weight", 0.5),
        )


STEPS: dict[str, Any] = {
    "identity": lambda p, m: p.identity(m, "weight"),
    "random": lambda p, m: p.random_unstructured(m, "weight", 0.25),
    "l1": lambda p, m: p.l1_unstructured(m, "weight", 0.25),
    "ln 0": lambda p, m: p.ln_structured(m, "weight", 0.3, n=2, dim=0),
    "ln 1": lambda p, m: p.ln_structured(m, "weight", 0.3, n=1, dim=1),
    "channels": lambda p, m: p.random_structured(m, "weight", 0.3, dim=0),
    "custom": lambda p, m: p.custom_from_mask(m, "weight", torch.rand(m.weight.shape) > 0.3),
    "scores": lambda p, m: p.l1_unstructured(m, "weight", 3, importance_scores=torch.rand(m.weight.shape)),
    "channel scores": lambda p, m: p.ln_structured(
        m, "weight", 1, 2, 0, importance_scores=torch.rand(m.weight.shape)
    ),
}


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(6, 5), (5, 4, 3, 3), (4, 2, 5)]),
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_sequence_of_calls(shape: tuple[int, ...], steps: list[str], dtype: torch.dtype) -> None:
    in_step(layer(shape, dtype), *[STEPS[step] for step in steps])


def test_sequences_end_in_the_same_parameters_after_remove() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 5), nn.Linear(4, 3))
    in_step(
        model,
        lambda p, m: p.random_unstructured(m[0], "weight", 0.3),
        lambda p, m: p.l1_unstructured(m[0], "bias", 3),
        lambda p, m: p.ln_structured(m[0], "weight", 0.5, n=2, dim=0),
        lambda p, m: p.l1_unstructured(m[1], "weight", 5),
        lambda p, m: p.remove(m[0], "weight"),
        lambda p, m: p.remove(m[1], "weight"),
        lambda p, m: p.l1_unstructured(m[1], "weight", 2),
        lambda p, m: p.remove(m[0], "bias"),
    )
    assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize("amount", [0.0, 0.2, 0.9, 1.0, 17])
@pytest.mark.parametrize("method", ["L1Unstructured", "RandomUnstructured", "Identity"])
def test_global_unstructured(method: str, amount: Any) -> None:
    def both_layers(m: nn.Module) -> list[tuple[nn.Module, str]]:
        return [(m[0], "weight"), (m[2], "weight"), (m[2], "bias")]

    options = {} if method == "Identity" else {"amount": amount}
    again = {} if method == "Identity" else {"amount": 0.3}
    in_step(
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Linear(9, 7)),
        lambda p, m: p.global_unstructured(both_layers(m), getattr(p, method), **options),
        lambda p, m: p.global_unstructured(both_layers(m), pruning_method=getattr(p, method), **again),
        lambda p, m: p.global_unstructured(
            both_layers(m),
            p.L1Unstructured,
            importance_scores={(m[0], "weight"): torch.rand(5, 3, 3, 3)},
            amount=0.2,
        ),
    )


# -- methods of one's own ----------------------------------------------------------------------------------


def own_method(package: ModuleType) -> Any:
    class EveryOther(package.BasePruningMethod):  # type: ignore[name-defined, misc]
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            mask = default_mask.clone()
            mask.view(-1)[::2] = 0
            return mask

    return EveryOther


def own_structured(package: ModuleType) -> Any:
    class First(package.BasePruningMethod):  # type: ignore[name-defined, misc]
        PRUNING_TYPE = "structured"

        def __init__(self, dim: int) -> None:
            self.dim = dim

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            mask = 1 - (1 - default_mask)
            mask.select(self.dim, 0).zero_()
            return mask

    return First


def test_methods_of_ones_own() -> None:
    in_step(
        layer((6, 5)),
        lambda p, m: own_method(p).apply(m, "weight"),
        lambda p, m: own_structured(p).apply(m, "weight", dim=1),
        lambda p, m: own_structured(p).apply(m, "weight", 1),
        lambda p, m: own_method(p).apply(m, name="weight"),
        lambda p, m: own_method(p).apply(m, "bias"),
    )
    in_step(
        nn.ModuleList([layer((6, 5)), layer((3, 4))]),
        lambda p, m: p.global_unstructured([(m[0], "weight"), (m[1], "weight")], own_method(p)),
        lambda p, m: p.global_unstructured([(m[0], "weight"), (m[1], "weight")], own_method(p)),
    )


def test_a_method_written_for_the_original_works_in_ours() -> None:
    module = layer((6, 5))
    own_method(masks).apply(module, "weight")
    assert masks.is_pruned(module)
    assert original.is_pruned(module)
    original.remove(module, "weight")
    assert type(module) is nn.Module
    assert list(module._parameters) == ["bias", "weight"]


def test_pruning_goes_on_with_ours_where_the_original_began() -> None:
    module, other = layer((6, 5)), None
    original.l1_unstructured(module, "weight", 0.3)
    other = copy.copy(module.weight.detach())
    masks.l1_unstructured(module, "weight", 5)
    expected = layer((6, 5))
    expected.weight = nn.Parameter(module.weight_orig.detach().clone())
    original.l1_unstructured(expected, "weight", 0.3)
    assert torch.equal(expected.weight, other)
    original.l1_unstructured(expected, "weight", 5)
    assert torch.equal(module.weight, expected.weight)
    assert module.weight_mask.dtype is torch.bool
    copy.deepcopy(module)


def test_the_container_keeps_the_history() -> None:
    module = nn.Conv2d(1, 6, 5)
    masks.random_unstructured(module, name="weight", amount=0.3)
    masks.ln_structured(module, name="weight", amount=0.5, n=2, dim=0)
    (hook,) = module._forward_pre_hooks.values()
    assert isinstance(hook, masks.PruningContainer)
    assert [type(item).__name__ for item in hook] == ["RandomUnstructured", "LnStructured"]
    assert (len(hook), hook[1].amount, hook[0]._tensor_name) == (2, 0.5, "weight")
    with pytest.raises(TypeError):
        hook.add_pruning_method(10)
    other = masks.L1Unstructured(amount=2)
    other._tensor_name = "bias"
    with pytest.raises(ValueError, match="bias"):
        hook.add_pruning_method(other)


def test_prune_of_a_tensor_without_a_module() -> None:
    t, scores = torch.randn(5, 4), torch.rand(5, 4)
    for package_args in itertools.product([None, torch.rand(5, 4).round()], [None, scores]):
        default, given_scores = package_args
        results = [p.L1Unstructured(amount=6).prune(t, default, given_scores) for p in BOTH]
        assert torch.equal(*results)


# -- the official tutorial, with one import changed --------------------------------------------------


class LeNet(nn.Module):
    """The network of the pruning tutorial (Paganini)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.conv1(x)), (2, 2))
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = x.view(-1, int(x.nelement() / x.shape[0]))
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def tutorial(prune: ModuleType) -> dict[str, Any]:
    """Every step of the tutorial; what it prints, as values."""
    seen: dict[str, Any] = {}
    torch.manual_seed(3)
    model = LeNet()
    module = model.conv1
    prune.random_unstructured(module, name="weight", amount=0.3)
    seen["parameters"] = [name for name, _ in module.named_parameters()]
    seen["buffers"] = [name for name, _ in module.named_buffers()]
    seen["weight"] = module.weight
    seen["hooks"] = [hook._tensor_name for hook in module._forward_pre_hooks.values()]
    prune.l1_unstructured(module, name="bias", amount=3)
    seen["more parameters"] = [name for name, _ in module.named_parameters()]
    seen["bias"] = module.bias
    prune.ln_structured(module, name="weight", amount=0.5, n=2, dim=0)
    seen["structured"] = module.weight
    for hook in module._forward_pre_hooks.values():
        if hook._tensor_name == "weight":
            seen["history"] = [type(item).__name__ for item in hook]
    seen["state dict"] = list(model.state_dict())
    prune.remove(module, "weight")
    seen["removed"] = [name for name, _ in module.named_parameters()]

    new_model = LeNet()
    for _, inner in new_model.named_modules():
        if isinstance(inner, torch.nn.Conv2d):
            prune.l1_unstructured(inner, name="weight", amount=0.2)
        elif isinstance(inner, torch.nn.Linear):
            prune.l1_unstructured(inner, name="weight", amount=0.4)
    seen["all buffers"] = list(dict(new_model.named_buffers()))

    model = LeNet()
    to_prune = tuple((getattr(model, n), "weight") for n in ("conv1", "conv2", "fc1", "fc2", "fc3"))
    prune.global_unstructured(to_prune, pruning_method=prune.L1Unstructured, amount=0.2)
    seen["sparsity"] = [float(torch.sum(m.weight == 0)) / float(m.weight.nelement()) for m, _ in to_prune]
    seen["output"] = model(torch.ones(2, 1, 32, 32))

    method = own_method(prune)

    def foobar_unstructured(module: nn.Module, name: str) -> nn.Module:
        method.apply(module, name)
        return module

    model = LeNet()
    foobar_unstructured(model.fc3, name="bias")
    seen["own mask"] = model.fc3.bias_mask.float()
    return seen


def test_the_tutorial_with_one_import_changed() -> None:
    ours, theirs = tutorial(masks), tutorial(original)
    assert list(ours) == list(theirs)
    for step, value in theirs.items():
        assert torch.equal(ours[step], value) if isinstance(value, Tensor) else ours[step] == value, step


def test_training_gives_the_same_weights() -> None:
    results = []
    for package in BOTH:
        torch.manual_seed(5)
        model = LeNet()
        for inner in (model.conv1, model.fc1):
            package.l1_unstructured(inner, "weight", 0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 1, 32, 32)).square().sum().backward()
            optimizer.step()
        package.remove(model.conv1, "weight")
        results.append(model)
    assert_same(*results)


# -- checkpoints of the original, both ways ----------------------------------------------------------


def test_checkpoints_are_exchanged_both_ways() -> None:
    x = torch.randn(2, 1, 32, 32)
    made = {}
    for package in BOTH:
        made[package] = LeNet()
        package.l1_unstructured(made[package].conv1, "weight", 0.4)
        package.ln_structured(made[package].fc2, "weight", 0.4, 2, 0)
    for source, into in (BOTH, BOTH[::-1]):
        target = copy.deepcopy(made[masks]) if into is masks else LeNet()
        if into is original:
            original.identity(target.conv1, "weight")
            original.identity(target.fc2, "weight")
        state = made[source].state_dict()
        target.load_state_dict(state)
        assert torch.equal(target(x), made[source](x))
        if into is masks:
            other = copy.deepcopy(made[masks])
            other.load_state_dict(state, assign=True)
            assert torch.equal(other(x), made[source](x))
            assert other.conv1.weight_mask.dtype is torch.bool
