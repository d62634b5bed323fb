"""The oracle must accept right surgery and reject every wrong one; plans here are made by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from kept_statistics import kept_statistics_copy
from oracle import (
    check_backward,
    check_pruned,
    check_same_outputs,
    masked_copy,
    named_tensors,
    outer,
    outputs_of,
    take,
)
from snapshots import Snapshot


@dataclass
class HandMade:
    """A plan as a table: tensor name -> dimension -> kept indices."""

    shapes: dict[str, torch.Size]
    kept: dict[str, dict[int, list[int]]]
    exact: bool = True
    rescaled: dict[str, float] = field(default_factory=dict)

    def indices(self, name: str) -> tuple[Tensor, ...]:
        kept = self.kept.get(name, {})
        return tuple(torch.tensor(kept.get(d, range(size))) for d, size in enumerate(self.shapes[name]))

    def masks(self) -> dict[str, Tensor]:
        return {name: outer(self.indices(name), shape) for name, shape in self.shapes.items()}


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    with torch.no_grad():
        for tensor in named_tensors(model).values():
            if tensor.dim() == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model.double().eval()


KEEP = [0, 2, 5]
TABLE = {
    "0.weight": {0: KEEP},
    "0.bias": {0: KEEP},
    "1.weight": {0: KEEP},
    "1.bias": {0: KEEP},
    "1.running_mean": {0: KEEP},
    "1.running_var": {0: KEEP},
    "3.weight": {1: KEEP},
}


def plan_for(model: nn.Module, table: dict[str, dict[int, list[int]]] = TABLE) -> HandMade:
    return HandMade({name: t.shape for name, t in named_tensors(model).items()}, table)


def sliced(model: nn.Module, plan: HandMade) -> nn.Module:
    pruned = copy.deepcopy(model)
    for name, tensor in named_tensors(model).items():
        owner, _, key = name.rpartition(".")
        module = pruned.get_submodule(owner)
        value = take(tensor.detach(), plan.indices(name))
        setattr(module, key, nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value)
    return pruned


def test_right_surgery_passes() -> None:
    model, x = network(), torch.randn(2, 3, 5, 5).double()
    plan = plan_for(model)
    pruned = sliced(model, plan)
    assert check_pruned(model, pruned, plan, (x,), {}, 1e-10)
    check_backward(model, pruned, (x,), {})


def test_nothing_removed_is_told_apart() -> None:
    model, x = network(), torch.randn(2, 3, 5, 5).double()
    plan = plan_for(model, {})
    assert not check_pruned(model, sliced(model, plan), plan, (x,), {}, 1e-10)


def other_channels_in_consumer(pruned: nn.Module, original: nn.Module) -> None:
    pruned[3].weight.data = original[3].weight.data[:, [0, 2, 4]].clone()


def unsliced_order(pruned: nn.Module, original: nn.Module) -> None:
    pruned[0].weight.data = pruned[0].weight.data.flip(0)


def forgotten_bias(pruned: nn.Module, original: nn.Module) -> None:
    pruned[1].bias.data.zero_()


def wrong_statistics(pruned: nn.Module, original: nn.Module) -> None:
    pruned[1].running_var.copy_(original[1].running_var[:3])


def rescaled_by_row(pruned: nn.Module, original: nn.Module) -> None:
    pruned[0].weight.data.mul_(torch.tensor([1.0, 2.0, 3.0]).view(-1, 1, 1, 1))


def replaced_consumer(pruned: nn.Module, original: nn.Module) -> None:
    pruned[3] = nn.Conv2d(3, 3, 1).double()


@pytest.mark.parametrize(
    "damage",
    [
        other_channels_in_consumer,
        unsliced_order,
        forgotten_bias,
        wrong_statistics,
        rescaled_by_row,
        replaced_consumer,
    ],
)
def test_wrong_surgery_is_refused(damage: Callable[[nn.Module, nn.Module], None]) -> None:
    model, x = network(), torch.randn(2, 3, 5, 5).double()
    plan = plan_for(model)
    pruned = sliced(model, plan)
    with torch.no_grad():
        damage(pruned, model)
    with pytest.raises(AssertionError):
        check_pruned(model, pruned, plan, (x,), {}, 1e-10)


def test_one_factor_on_a_whole_tensor_is_allowed_if_outputs_agree() -> None:
    model, x = (
        nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 3)).double(),
        torch.randn(2, 4).double(),
    )
    plan = plan_for(model, {"0.weight": {0: KEEP}, "1.weight": {1: KEEP}})
    pruned = sliced(model, plan)
    with torch.no_grad():
        pruned[0].weight.mul_(2)
        pruned[1].weight.div_(2)
    with pytest.raises(AssertionError, match=r"0\.weight has other values"):
        check_pruned(model, pruned, plan, (x,), {}, 1e-10)
    plan.rescaled = {"0.weight": 2.0, "1.weight": 0.5}
    check_pruned(model, pruned, plan, (x,), {}, 1e-10)


def test_a_layer_norm_is_not_exact() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    x = torch.randn(2, 4).double()
    table = {name: {0: KEEP} for name in ("0.weight", "0.bias", "1.weight", "1.bias")} | {
        "2.weight": {1: KEEP}
    }
    plan = plan_for(model, table)
    pruned = sliced(model, plan)
    pruned[1].normalized_shape = (3,)
    with pytest.raises(AssertionError, match="off by"):
        check_pruned(model, pruned, plan, (x,), {}, 1e-10)
    reference = outputs_of(kept_statistics_copy(model, plan), (x,), {})
    check_same_outputs(reference, outputs_of(pruned, (x,), {}), 1e-10)


@pytest.mark.parametrize(
    ("norm", "x"),
    [
        (nn.LayerNorm((4, 6)), torch.randn(2, 4, 6)),
        (nn.RMSNorm(6), torch.randn(2, 6)),
        (nn.GroupNorm(2, 6), torch.randn(2, 6, 5)),
    ],
)
def test_statistics_over_everything_are_the_norm_itself(norm: nn.Module, x: Tensor) -> None:
    model = nn.Sequential(norm)
    everything = plan_for(model, {})
    kept = kept_statistics_copy(model, everything)
    assert type(kept[0]) is not type(norm)
    torch.testing.assert_close(kept(x), model(x))


def test_weight_norm_rows_are_silenced_by_their_gain() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 3))
    gain, direction = (f"0.parametrizations.weight.original{i}" for i in (0, 1))
    plan = plan_for(
        model, {gain: {0: KEEP}, direction: {0: KEEP}, "0.bias": {0: KEEP}, "1.weight": {1: KEEP}}
    )
    masked = masked_copy(model, plan.masks())
    assert bool(masked(torch.randn(2, 4)).isfinite().all())
    assert torch.equal(masked[0].weight[1], torch.zeros(4))


def test_snapshots_see_what_changed() -> None:
    model = network()
    before = Snapshot.of(model)
    assert before.differences(model, identity=True, randomness=True) == []
    model[0].out_channels = 5
    model[1].train()
    model[2].register_forward_hook(lambda *_: None)
    model[3].weight.requires_grad_(False)
    model[3].bias.grad = torch.ones(4).double()
    model[1].num_batches_tracked += 1
    torch.rand(1)
    found = "\n".join(before.differences(model, identity=True, randomness=True))
    for what in ("0.out_channels", "modes: 1", "2._forward_hooks", "requires_grad of 3.weight"):
        assert what in found
    for what in ("gradient of 3.bias", "value of 1.num_batches_tracked", "random state"):
        assert what in found
    model[0].weight = nn.Parameter(model[0].weight.data)
    assert "identity of 0.weight" in before.differences(model, identity=True)


class Number(int):
    """An integer that is not quite one."""


def test_snapshots_see_integers_of_another_type() -> None:
    model = network()
    before = Snapshot.of(model)
    model[0].kernel_size = (Number(3), 3)
    assert any("kernel_size" in line for line in before.differences(model))
