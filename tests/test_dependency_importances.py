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


def test_what_a_layer_is_parametrised_by_is_the_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    nn.utils.parametrizations.weight_norm(model[1])
    graph = tp.DependencyGraph().build_dependency(model, X)
    group = graph.get_pruning_group(model[0], tp.prune_conv_out_channels, list(range(8)))
    found = [tp.importance.MagnitudeImportance(target_types=types)(group) for types in (None, [nn.Conv2d])]
    assert torch.equal(*found)
    assert tp.importance.MagnitudeImportance(target_types=[nn.Linear])(group) is None


@pytest.mark.parametrize("name", ["GroupTaylor", "GroupHessian", "OBDC", "Activation", "GroupMagnitude"])
def test_what_is_no_class_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="target_types has 'conv'") as caught:
        getattr(tp.importance, f"{name}Importance")(target_types=["conv"])
    assert isinstance(caught.value, PruningError)


# -- importances of one's own, as research code writes them ------------------------------------------------


def jacobian(package: Any) -> Any:
    """Sets the attributes itself, without the base's `__init__`, and finds layers by the names of nodes."""

    class Jacobian(package.importance.GroupMagnitudeImportance):  # type: ignore[misc]
        def __init__(self, group_reduction: str = "mean", normalizer: str = "parameters") -> None:
            self.group_reduction = group_reduction
            self.normalizer = normalizer
            self.target_types = [nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm]
            self.bias = False
            self._jacobian: dict[str, Tensor] = {}

        def accumulate_grad(self, model: nn.Module) -> None:
            for name, param in model.named_parameters():
                before = self._jacobian.get(name, 0)
                self._jacobian[name] = before + param.grad.data.clone().pow(2)

        @torch.no_grad()
        def __call__(self, group: Any) -> Any:
            functions = package.pruner.function
            group_imp, group_idxs, numel = [], [], 0.0
            for i, (dep, idxs) in enumerate(group):
                idxs.sort()
                layer, prune_fn, root_idxs = dep.target.module, dep.handler, group[i].root_idxs
                if not isinstance(layer, tuple(self.target_types)):
                    continue
                j = self._jacobian[dep.target.name[: dep.target.name.find(" ")] + ".weight"] * layer.weight**2
                if prune_fn in [functions.prune_conv_out_channels, functions.prune_linear_out_channels]:
                    local, size = j.flatten(1).sum(1)[idxs], layer.weight[0].numel()
                elif prune_fn in [functions.prune_conv_in_channels, functions.prune_linear_in_channels]:
                    local, size = j.transpose(0, 1).flatten(1).sum(1)[idxs], layer.weight[:, 0].numel()
                else:
                    local, size = j[idxs], 2
                group_imp.append(local)
                group_idxs.append(root_idxs)
                numel += size
            reduced = self._reduce(group_imp, group_idxs)
            if self.normalizer == "parameters":
                return reduced / numel
            return self._normalize(reduced, self.normalizer)

    return Jacobian


@pytest.mark.parametrize("normalizer", ["parameters", "max", None])
@pytest.mark.parametrize("reduction", ["mean", "sum", "max"])
def test_importances_that_set_their_attributes_themselves(reduction: str, normalizer: Any) -> None:
    found, widths = [], []
    for package in (tp, peer()):
        model = trained()
        importance = jacobian(package)(reduction, normalizer)
        importance.accumulate_grad(model)
        found.append(scores(package, model, importance))
        pruner = package.pruner.MetaPruner(
            model, X, importance, global_pruning=True, ignored_layers=[model.fc]
        )
        pruner.step()
        widths.append((model.a.out_channels, model.b.out_channels))
    torch.testing.assert_close(found[0].double(), found[1].double(), rtol=1e-4, atol=1e-9)
    assert widths[0] == widths[1]


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("GroupMagnitude", {"p": 1, "group_reduction": "max", "normalizer": None, "target_types": CONVS}),
        ("GroupTaylor", {"multivariable": True, "normalizer": "max", "target_types": [nn.Conv2d]}),
        ("GroupHessian", {"group_reduction": "sum", "bias": True}),
        ("LAMP", {"p": 1, "group_reduction": "first"}),
    ],
)
def test_attributes_hold_as_they_are_when_asked(name: str, attributes: dict[str, Any]) -> None:
    model, kind = trained(), getattr(tp.importance, f"{name}Importance")
    early, late = kind(**attributes), kind()
    for key, value in attributes.items():
        assert hasattr(late, key)
        setattr(late, key, value)
    if name == "GroupHessian":
        early.accumulate_grad(model)
        late.accumulate_grad(model)
    assert torch.equal(scores(tp, model, early), scores(tp, model, late))
    assert not torch.equal(scores(tp, model, early), scores(tp, model, _fresh(kind, name, model)))


def _fresh(kind: Any, name: str, model: nn.Module) -> Any:
    importance = kind()
    if name == "GroupHessian":
        importance.accumulate_grad(model)
    return importance


@pytest.mark.parametrize("name", ["Taylor", "Hessian", "Magnitude", "Activation", "OBDC"])
def test_target_types_can_be_gone_through(name: str) -> None:
    importance = getattr(tp.importance, f"{name}Importance")()
    assert isinstance(nn.Conv2d(1, 1, 1), tuple(importance.target_types))
    assert (importance.bias, importance.group_reduction, importance.normalizer) == (False, "mean", "mean")
