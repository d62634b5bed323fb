"""Which units go: importance and scope, against scores computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import prunus

IN, HIDDEN, OUT = 16, 8, 16


def two_layers() -> nn.Sequential:
    """No bias, as many inputs as outputs: both sides of a hidden unit are alike, whatever sums them up."""
    return nn.Sequential(nn.Linear(IN, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, OUT, bias=False))


def set_unit(model: nn.Sequential, unit: int, weights: Tensor) -> None:
    model[0].weight.data[unit] = weights
    model[2].weight.data[:, unit] = weights


def kept(model: nn.Module, name: str = "0.weight", dim: int = 0, **options: object) -> list[int]:
    return prunus.trace(model, torch.randn(2, IN)).plan(**options).indices(name)[dim].tolist()


@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_small_weights_go_first(importance: str) -> None:
    model = two_layers()
    scale = torch.tensor([3.0, 0.1, 2.0, 0.3, 5.0, 0.2, 1.0, 4.0])
    for unit, size in enumerate(scale.tolist()):
        set_unit(model, unit, size * torch.sign(torch.randn(IN)))
    for ratio in (0.25, 0.5, 0.75):
        expected = scale.argsort(descending=True)[: round(HIDDEN * (1 - ratio))].sort().values.tolist()
        assert kept(model, ratio=ratio, importance=importance) == expected


def test_l1_and_l2_disagree_where_they_should() -> None:
    """Many small weights have the larger sum, one big weight the larger sum of squares."""
    model = two_layers()
    dense, sparse = torch.full((IN,), 0.5), torch.zeros(IN)
    sparse[3] = 4.0
    for unit in range(HIDDEN):
        set_unit(model, unit, dense if unit % 2 else sparse)
    assert kept(model, ratio=0.5, importance="l1") == [1, 3, 5, 7]
    assert kept(model, ratio=0.5, importance="l2") == [0, 2, 4, 6]


def test_l2_by_brute_force_on_a_residual_network() -> None:
    """A unit written by two layers and read by one: the sum of squares over all its weights decides."""

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(n, m, bias=False) for n, m in ((IN, 8), (8, 8), (8, 3)))

        def forward(self, x_BF: Tensor) -> Tensor:
            x_BF = self.a(x_BF)
            return self.c(x_BF + self.b(x_BF.relu()))

    model = Skip()
    for unit, size in enumerate((1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0)):
        model.a.weight.data[unit].normal_().mul_(size / model.a.weight.data[unit].norm())
        for weight in (model.b.weight.data[unit], model.b.weight.data[:, unit], model.c.weight.data[:, unit]):
            weight.mul_(size / weight.norm())
    assert kept(model, "a.weight", ratio=0.5) == [1, 3, 5, 7]
    assert kept(model, "c.weight", dim=1, ratio=0.5) == [1, 3, 5, 7]


def test_taylor_is_weight_times_gradient() -> None:
    model = two_layers()
    gradient = torch.tensor([0.5, 4.0, 0.1, 3.0, 2.0, 0.2, 5.0, 0.3])
    weight = torch.tensor([9.0, 1.0, 8.0, 1.0, 1.0, 7.0, 1.0, 6.0])
    for unit in range(HIDDEN):
        set_unit(model, unit, weight[unit] * torch.ones(IN))
    model[0].weight.grad = gradient[:, None].expand(HIDDEN, IN).clone()
    model[2].weight.grad = gradient[None].expand(OUT, HIDDEN).clone()
    score = weight * gradient
    expected = score.argsort(descending=True)[:4].sort().values.tolist()
    assert kept(model, ratio=0.5, importance="taylor") == expected
    assert kept(model, ratio=0.5, importance="l2") != expected


def test_taylor_leaves_gradients_alone() -> None:
    model = two_layers()
    model(torch.randn(4, IN)).square().sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    kept(model, ratio=0.5, importance="taylor")
    assert all(torch.equal(a, p.grad) for a, p in zip(before, model.parameters(), strict=True))


def test_random_importance_follows_the_seed() -> None:
    model = nn.Sequential(nn.Linear(IN, 64), nn.ReLU(), nn.Linear(64, 3))
    choices = []
    for seed in (1, 1, 2, 3):
        torch.manual_seed(seed)
        choices.append(kept(model, ratio=0.5, importance="random"))
    assert choices[0] == choices[1]
    assert len({tuple(choice) for choice in choices}) == 3
    assert all(len(choice) == 32 for choice in choices)


def three_layers(first: float, second: float) -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(IN, 10, bias=False), nn.ReLU(), nn.Linear(10, 10, bias=False), nn.ReLU(), nn.Linear(10, 4)
    )
    model[0].weight.data.fill_(first)
    model[2].weight.data.fill_(1.0)
    model[4].weight.data.fill_(second)
    return model


def test_global_scope_takes_from_where_units_are_weakest() -> None:
    """Six units of the first hidden axis are nearly silent: one ranking removes just those."""
    model = three_layers(1.0, 1.0)
    model[0].weight.data[:6] = 1e-4
    model[2].weight.data[:, :6] = 1e-4
    plan = prunus.trace(model, torch.randn(2, IN)).plan(ratio=0.3, scope="global")
    assert plan.indices("0.weight")[0].tolist() == [6, 7, 8, 9]
    assert plan.indices("2.weight")[0].tolist() == list(range(10))


def test_local_scope_takes_the_same_share_everywhere() -> None:
    model = three_layers(1.0, 1.0)
    model[0].weight.data[:6] = 1e-4
    plan = prunus.trace(model, torch.randn(2, IN)).plan(ratio=0.3, scope="local")
    assert len(plan.indices("0.weight")[0]) == 7
    assert len(plan.indices("2.weight")[0]) == 7


class TwoKinds(nn.Module):
    """Two convolutions between convolutions, then two linear layers between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in ((3, 10), (10, 10), (10, 4)))
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in ((4, 10), (10, 10), (10, 3)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for conv in self.convs:
            x_BCHW = conv(x_BCHW).relu()
        x_BC = x_BCHW.mean((2, 3))
        for linear in self.linears:
            x_BC = linear(x_BC).relu()
        return x_BC


def test_isomorphic_scope_ranks_each_kind_of_axis_by_itself() -> None:
    """Convolutions lose their share among convolutions, however small their weights are beside the others."""
    model = TwoKinds()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        for layers in (model.convs, model.linears):  # nearly silent: 6 of the 10 first hidden units
            layers[0].weight[:6] = layers[0].bias[:6] = layers[1].weight[:, :6] = 1e-3
        for conv in model.convs:
            conv.weight.mul_(1e-6)
            conv.bias.mul_(1e-6)
    image = torch.randn(2, 3, 2, 2)
    ratio = {f"{kind}.{i}": 0.3 for kind in ("convs", "linears") for i in (0, 1)}
    plan = prunus.trace(model, image).plan(ratio=ratio, scope="isomorphic")
    for kind in ("convs", "linears"):
        assert plan.indices(f"{kind}.0.weight")[0].tolist() == [6, 7, 8, 9]
        assert plan.indices(f"{kind}.1.weight")[0].tolist() == list(range(10))


def test_coupled_units_go_together() -> None:
    """The kept units of an axis are the same in every tensor that has the axis."""
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Conv2d(12, 5, 1))
    plan = prunus.trace(model, torch.randn(1, 3, 5, 5)).plan(ratio=0.5)
    units = plan.indices("0.weight")[0]
    assert len(units) == 6
    for name, dim in (("0.bias", 0), ("1.weight", 0), ("1.running_var", 0), ("2.weight", 1)):
        assert torch.equal(plan.indices(name)[dim], units)


def test_half_precision_scores_do_not_overflow() -> None:
    """300 squared is beyond float16: sums must be taken in a wider type."""
    model = two_layers()
    for unit in range(HIDDEN):
        set_unit(model, unit, torch.full((IN,), 300.0 + 20 * unit))
    assert kept(model.half().float(), ratio=0.5) == [4, 5, 6, 7]
    half = model.half()
    plan = prunus.trace(half, torch.randn(2, IN).half()).plan(ratio=0.5)
    assert plan.indices("0.weight")[0].tolist() == [4, 5, 6, 7]
