"""Bad input to masks: the errors of `torch.nn.utils.prune`, and the module as it was."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as original

import prunus.masks as masks
from masked_layers import layer
from prunus import PruningError


def bad_calls() -> dict[str, Any]:
    return {
        "unknown parameter": lambda p, m: p.l1_unstructured(m, "wieght", 0.5),
        "a dotted name": lambda p, m: p.l1_unstructured(m, "inner.weight", 0.5),
        "None": lambda p, m: p.l1_unstructured(m, "none", 0.5),
        "a buffer": lambda p, m: p.l1_unstructured(m, "buffer", 0.5),
        "amount of a wrong type": lambda p, m: p.l1_unstructured(m, "weight", "lots"),
        "amount above 1": lambda p, m: p.random_unstructured(m, "weight", 1.5),
        "negative": lambda p, m: p.random_structured(m, "weight", -1, 0),
        "nan amount": lambda p, m: p.l1_unstructured(m, "weight", float("nan")),
        "too many": lambda p, m: p.l1_unstructured(m, "weight", 31),
        "too many channels": lambda p, m: p.ln_structured(m, "weight", 7, 2, 0),
        "dim": lambda p, m: p.ln_structured(m, "weight", 0.5, 2, 2),
        "negative dim": lambda p, m: p.random_structured(m, "weight", 0.5, -3),
        "a vector": lambda p, m: p.ln_structured(m, "bias", 0.5, 2, 0),
        "shape of scores": lambda p, m: p.l1_unstructured(m, "weight", 0.5, torch.ones(5, 6)),
        "shape of mask": lambda p, m: p.custom_from_mask(m, "weight", torch.ones(5, 6)),
        "remove": lambda p, m: p.remove(m, "bias"),
        "not iterable": lambda p, m: p.global_unstructured(3, p.L1Unstructured, amount=1),
        "scores no dict": lambda p, m: p.global_unstructured(
            [(m, "weight")], p.L1Unstructured, importance_scores=[1], amount=1
        ),
        "global too many": lambda p, m: p.global_unstructured([(m, "weight")], p.L1Unstructured, amount=99),
        "global type": lambda p, m: p.global_unstructured(
            [(m, "weight")], p.CustomFromMask, mask=torch.ones(30)
        ),
        "container type": lambda p, m: p.PruningContainer().add_pruning_method(10),
    }


def module_for_errors(package: ModuleType, pruned: bool) -> nn.Module:
    torch.manual_seed(0)
    module = layer((6, 5))
    module.register_parameter("none", None)
    module.register_buffer("buffer", torch.ones(3))
    if pruned:
        package.l1_unstructured(module, "weight", 2)
        package.l1_unstructured(module, "weight", 1)
    return module


def everything(module: nn.Module) -> list[Any]:
    return [
        type(module),
        {name: value for name, value in module.__dict__.items() if not name.startswith("_")},
        *[(list(space), [id(item) for item in space.values()]) for space in spaces(module)],
        [value.clone() for value in module.state_dict().values()],
        [list(h) for h in module._forward_pre_hooks.values() if isinstance(h, masks.PruningContainer)],
    ]


def spaces(module: nn.Module) -> tuple[Any, ...]:
    return module._parameters, module._buffers, module._forward_pre_hooks


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("case", bad_calls())
def test_errors_are_of_the_same_types_and_leave_the_module_as_it_was(case: str, pruned: bool) -> None:
    call = bad_calls()[case]
    with pytest.raises(Exception) as theirs:
        call(original, module_for_errors(original, pruned))
    module = module_for_errors(masks, pruned)
    before, state = everything(module), torch.get_rng_state()
    with pytest.raises(PruningError) as ours:
        call(masks, module)
    assert isinstance(ours.value, theirs.type)
    assert equal(everything(module), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("pruned", [False, True])
def test_bad_input_that_the_original_takes(pruned: bool) -> None:
    nan = torch.full((6, 5), float("nan"))
    calls = [
        lambda m: masks.custom_from_mask(m, "weight", torch.full((6, 5), 0.5)),
        lambda m: masks.l1_unstructured(m, "weight", 0.5, nan),
        lambda m: masks.ln_structured(m, "weight", 0.5, 2, 0, nan),
        lambda m: masks.global_unstructured([], masks.L1Unstructured, amount=0.5),
        lambda m: masks.global_unstructured([(m, "weight")] * 2, masks.L1Unstructured, amount=0.5),
        lambda m: masks.global_unstructured(
            [(m, "bias"), (m, "weight")], masks.L1Unstructured, {(m, "weight"): nan}, amount=0.5
        ),
        lambda m: masks.global_unstructured([(m, "bias"), (m, "nothing")], masks.L1Unstructured, amount=1),
    ]
    for call in calls:
        module = module_for_errors(masks, pruned)
        before = everything(module)
        with pytest.raises(PruningError) as error:
            call(module)
        assert isinstance(error.value, ValueError)
        assert equal(everything(module), before)


def test_a_name_that_is_taken() -> None:
    module = layer((6, 5))
    module.weight_mask = 3
    with pytest.raises(KeyError, match="weight_mask"):
        masks.identity(module, "weight")
    assert list(module._parameters) == ["weight", "bias"]
