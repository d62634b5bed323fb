"""Importances that count some classes of layers only, held against Torch-Pruning and against sums by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus.dependency as tp
from dependency_models import peer
from prunus import PruningError

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(2))
CONVS, NORMS = [nn.modules.conv._ConvNd], [nn.modules.batchnorm._BatchNorm]
BOTH = [nn.Conv2d, nn.modules.batchnorm._BatchNorm]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 3)
        self.fc = nn.Linear(5, 4)
        nn.init.uniform_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.bn(self.a(x)).relu()).relu().mean((2, 3)))


def trained() -> Net:
    model = Net().eval()
    model(X).square().sum().backward()
    return model


def scores(package: Any, model: nn.Module, importance: Any) -> Any:
    graph = package.DependencyGraph().build_dependency(model, X)
    return importance(graph.get_pruning_group(model.a, package.prune_conv_out_channels, list(range(8))))


OPTIONS = [CONVS, [nn.Linear, nn.Conv2d], [nn.Linear], BOTH, NORMS]


@pytest.mark.parametrize("types", OPTIONS)
@pytest.mark.parametrize("reduction", ["sum", "mean", "max", "first"])
@pytest.mark.parametrize("name", ["GroupMagnitude", "GroupTaylor", "GroupHessian", "Taylor", "Hessian"])
def test_target_types_are_those_of_torch_pruning(name: str, reduction: str, types: list[type]) -> None:
    if "Taylor" in name and types in (BOTH, NORMS):
        types = CONVS  # the original's Taylor looks for group norms there
    found = []
    for package in (tp, peer()):
        model = trained()
        importance = getattr(package.importance, f"{name}Importance")(
            group_reduction=reduction, normalizer=None, target_types=types
        )
        if "Hessian" in name:
            importance.accumulate_grad(model)
        found.append(scores(package, model, importance))
    if types == [nn.Linear]:
        assert found == [None, None]
    else:
        torch.testing.assert_close(found[0].float(), found[1].float(), rtol=1e-4, atol=1e-9)


def test_taylor_counts_the_norms_asked_for() -> None:
    model = trained()
    importance = tp.importance.GroupTaylorImportance("sum", None, False, False, NORMS)
    want = (model.bn.weight * model.bn.weight.grad).abs().detach().double()
    torch.testing.assert_close(scores(tp, model, importance), want)


def test_brain_damage_of_the_layers_asked_for() -> None:
    found = {}
    for types in (CONVS, [nn.Linear]):
        model = Net().eval()
        importance = tp.importance.OBDCImportance("sum", None, False, types, 4)
        importance._prepare_model(model)
        model(X).square().sum(1).mean().backward()
        importance.step()
        importance._rm_hooks(model)
        found[types[0]] = scores(tp, model, importance)
    assert found[nn.Linear] is None
    model, want = Net().eval(), torch.zeros(8)
    for sample in X:
        model.zero_grad()
        model(sample[None]).square().sum().backward()
        want += (model.a.weight * model.a.weight.grad).square().flatten(1).sum(1).detach() / len(X)
    torch.testing.assert_close(found[CONVS[0]].float(), want, rtol=1e-4, atol=1e-9)


def test_activations_of_the_layers_asked_for() -> None:
    model = trained()
    seen: list[Tensor] = []
    hook = model.b.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for types, watched in ((CONVS, {model.a, model.b}), ([nn.Linear], {model.fc})):
        importance = tp.importance.ActivationImportance(normalizer=None, target_types=types)
        with importance.compute_importance(model):
            assert {
                m for m in (model.a, model.b, model.fc) if len(m._forward_pre_hooks) > (m is model.b)
            } == watched
            model(X)
        got = scores(tp, model, importance)
        if types == CONVS:
            torch.testing.assert_close(got, seen[0].abs().mean((0, 2, 3)).double().detach())
        else:
            assert got is None
    hook.remove()


@pytest.mark.parametrize("name", ["GroupTaylor", "GroupHessian", "OBDC", "Activation", "GroupMagnitude"])
def test_what_is_no_class_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="target_types has 'conv'") as caught:
        getattr(tp.importance, f"{name}Importance")(target_types=["conv"])
    assert isinstance(caught.value, PruningError)
