"""Registered layers are boundaries: their own functions cut them, and what they declare is what couples."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus.dependency as tp
from prunus.errors import PruningError
from snapshots import Snapshot


class Scaled(nn.Module):
    """Whose code mixes all inputs into each output, as far as a trace can tell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.scale, self.bias = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x / x.pow(2).sum(dim=1, keepdim=True).sqrt()
        return self.fc(x * self.scale + self.bias)


class Net(nn.Module):
    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(5, 8)
        self.middle = Scaled(8) if layer is None else layer
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.middle(F.relu(self.fc1(x))))


class ScaledPruner(tp.BasePruningFunc):
    """As in Torch-Pruning's own walk-through, its slip in `get_out_channels` included."""

    def prune_out_channels(self, layer: Scaled, idxs: Sequence[int]) -> nn.Module:
        keep = sorted(set(range(layer.width)) - set(idxs))
        layer.width -= len(idxs)
        layer.scale = nn.Parameter(layer.scale.data.clone()[keep])
        layer.bias = self._prune_parameter_and_grad(layer.bias, keep, pruning_dim=0)
        tp.prune_linear_in_channels(layer.fc, idxs)
        tp.prune_linear_out_channels(layer.fc, idxs)
        return layer

    def get_out_channels(self, layer: Scaled) -> int:
        return self.width  # type: ignore[attr-defined, no-any-return]

    prune_in_channels = prune_out_channels
    get_in_channels = get_out_channels


X = torch.randn(2, 5)


def built(
    pruner: Any = None, key: Any = Scaled, layer: nn.Module | None = None
) -> tuple[Any, tp.DependencyGraph]:
    torch.manual_seed(0)
    model = Net(layer)
    graph = tp.DependencyGraph()
    if pruner is not None:
        graph.register_customized_layer(model.middle if key is None else key, pruner)
    return model, graph.build_dependency(model, example_inputs=X)


def contents(group: Any) -> dict[str, tuple[str, list[int]]]:
    return {dep.target.path: (dep.handler.__name__, idxs) for dep, idxs in group}


@pytest.mark.parametrize("key", [Scaled, None])
def test_registered(key: Any) -> None:
    """The declared coupling of inputs and outputs reaches the next layer, by class or for one layer."""
    pruner = ScaledPruner()
    model, graph = built(pruner, key)
    before, original = Snapshot.of(model), copy.deepcopy(model)
    group = graph.get_pruning_group(model.fc1, tp.prune_linear_out_channels, idxs=[0, 1, 6])
    assert contents(group) == {
        "fc1": ("prune_out_channels", [0, 1, 6]),
        "middle": ("prune_out_channels", [0, 1, 6]),
        "fc2": ("prune_in_channels", [0, 1, 6]),
    }
    dep = group[1].dep
    assert dep.handler == pruner.prune_out_channels
    assert dep.target.type == tp.ops.OPTYPE.CUSTOMIZED
    assert graph.get_pruner_of_module(model.middle) is pruner
    assert graph.get_out_channels(model.middle) == graph.get_in_channels(model.middle) == 8
    assert graph.is_out_channel_pruning_fn(pruner.prune_in_channels)
    assert {(model.middle if key is None else Scaled): pruner} == graph.CUSTOMIZED_PRUNERS
    assert model.middle.fc in graph.IGNORED_LAYERS
    group.prune()
    assert model.fc1.out_features == model.middle.width == model.fc2.in_features == 5
    kept = [2, 3, 4, 5, 7]
    assert torch.equal(model.middle.scale, original.middle.scale[kept])
    assert torch.equal(model.middle.fc.weight, original.middle.fc.weight[kept][:, kept])
    assert model(X).shape == (2, 3)
    graph.get_pruning_group(model.fc2, tp.prune_linear_in_channels, [4]).prune()
    assert model.middle.width == 4
    history = json.loads(json.dumps(graph.pruning_history()))
    twin = tp.DependencyGraph()
    twin.register_customized_layer(Scaled, pruner)
    twin.build_dependency(original, X).load_pruning_history(history)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))
    assert before.differences(model)


def test_not_registered() -> None:
    """Traced through: the linear layer inside parts inputs from outputs, and nothing beyond it changes."""
    model, graph = built()
    group = graph.get_pruning_group(model.fc1, tp.prune_linear_out_channels, idxs=[0, 1, 6])
    assert contents(group) == {
        "fc1": ("prune_out_channels", [0, 1, 6]),
        "middle.scale": ("prune_out_channels", [0, 1, 6]),
        "middle.bias": ("prune_out_channels", [0, 1, 6]),
        "middle.fc": ("prune_in_channels", [0, 1, 6]),
    }
    group.prune()
    assert (model.middle.fc.in_features, model.fc2.in_features) == (5, 8)
    assert model(X).shape == (2, 3)


def test_undo() -> None:
    """Objects and values inside come back, whatever the user's function did to them."""

    class Careless(ScaledPruner):
        def prune_out_channels(self, layer: Scaled, idxs: Sequence[int]) -> nn.Module:
            layer.fc.weight.data.mul_(2)
            layer.note = "cut"
            layer.fc = copy.deepcopy(layer.fc)
            return super().prune_out_channels(layer, idxs)

        prune_in_channels = prune_out_channels

    careless = Careless()
    model, graph = built(careless)
    before = Snapshot.of(model)
    group = graph.get_pruning_group(
        model.middle, graph.get_pruner_of_module(model.middle).prune_out_channels, [3]
    )
    group.prune()
    assert before.differences(model)
    group.undo()
    assert not before.differences(model, identity=True)
    assert graph.pruning_history() == []


def test_sides_cut_one_by_one() -> None:
    """With different functions for the two sides, inputs and outputs have nothing to do with each other."""

    class Rows(tp.BasePruningFunc):
        def prune_out_channels(self, layer: nn.Linear, idxs: Sequence[int]) -> nn.Linear:
            return tp.prune_linear_out_channels(layer, idxs)  # type: ignore[no-any-return]

        def prune_in_channels(self, layer: nn.Linear, idxs: Sequence[int]) -> nn.Linear:
            return tp.prune_linear_in_channels(layer, idxs)  # type: ignore[no-any-return]

        def get_out_channels(self, layer: nn.Linear) -> int:
            return layer.out_features

        def get_in_channels(self, layer: nn.Linear) -> int:
            return layer.in_features

    model, graph = built(Rows(), None, nn.Linear(8, 8))
    assert contents(graph.get_pruning_group(model.fc1, tp.prune_linear_out_channels, [2])) == {
        "fc1": ("prune_out_channels", [2]),
        "middle": ("prune_in_channels", [2]),
    }
    group = graph.get_pruning_group(model.fc2, tp.prune_linear_in_channels, [2])
    assert contents(group) == {"middle": ("prune_out_channels", [2]), "fc2": ("prune_in_channels", [2])}
    group.prune()
    assert tuple(model.middle.weight.shape) == (7, 8)


def test_functions_of_a_standard_layer_replaced() -> None:
    """A class derived from the functions of a kind is used for every layer of it, and notices each call."""
    calls: list[str] = []

    class Noted(tp.function.LinearPruner):
        def prune_out_channels(self, layer: nn.Linear, idxs: Sequence[int]) -> nn.Linear:
            calls.append("out")
            return super().prune_out_channels(layer, idxs)

        def prune_in_channels(self, layer: nn.Linear, idxs: Sequence[int]) -> nn.Linear:
            calls.append("in")
            return super().prune_in_channels(layer, idxs)

    torch.manual_seed(0)
    model, noted = Net(), Noted()
    graph = tp.DependencyGraph()
    graph.build_dependency(model, X, customized_pruners={Scaled: ScaledPruner(), nn.Linear: noted})
    group = graph.get_pruning_group(model.fc1, noted.prune_out_channels, idxs=[0, 1, 6])
    assert len(group) == 3
    group.prune()
    assert calls == ["out", "in"]
    assert model.fc1.out_features == model.middle.width == model.fc2.in_features == 5


def test_image_shapes_and_reuse() -> None:
    """Channels of images are the second dimension; a layer that runs twice is one layer."""

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.rand(6))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = x + self.shift.view(1, -1, 1, 1)
            return x, x.mean((2, 3))

    class ShiftPruner(tp.BasePruningFunc):
        def prune_out_channels(self, layer: Shift, idxs: Sequence[int]) -> nn.Module:
            keep = sorted(set(range(len(layer.shift))) - set(idxs))
            layer.shift = nn.Parameter(layer.shift.data[keep])
            return layer

        def get_out_channels(self, layer: Shift) -> int:
            return len(layer.shift)

        prune_in_channels = prune_out_channels
        get_in_channels = get_out_channels

    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
            self.shift, self.head = Shift(), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            a, pooled = self.shift(self.conv1(x))
            b, _ = self.shift(self.conv2(x))
            return self.head(a.mean((2, 3)) + b.mean((2, 3)) + pooled)

    model, x = Images(), torch.randn(2, 3, 6, 6)
    graph = tp.DependencyGraph()
    graph.register_customized_layer(Shift, ShiftPruner())
    graph.build_dependency(model, x)
    group = graph.get_pruning_group(model.conv1, tp.prune_conv_out_channels, [1])
    assert {path for path, _ in contents(group).items()} == {"conv1", "conv2", "shift", "head"}
    group.prune()
    assert len(model.shift.shift) == 5
    assert model(x).shape == (2, 2)


def test_other_dimensions_stay_whole() -> None:
    """What a registered layer does to dimensions other than its channels is not known."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.middle, self.last = nn.Conv1d(3, 4, 1), Scaled(8), nn.Conv1d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.middle(self.conv(x)))

    model, x = Turned(), torch.randn(2, 3, 8)
    traced = tp.DependencyGraph().build_dependency(model, x)
    assert len(traced.get_pruning_group(model.conv, tp.prune_conv_out_channels, [0])) == 2
    graph = tp.DependencyGraph()
    graph.register_customized_layer(Scaled, ScaledPruner())
    graph.build_dependency(model, x)
    with pytest.raises(tp.GroupError, match="enters the registered layer 'middle'"):
        graph.get_pruning_group(model.conv, tp.prune_conv_out_channels, [0])
    with pytest.raises(tp.GroupError, match="leaves the registered layer 'middle'"):
        graph.get_pruning_group(model.last, tp.prune_conv_in_channels, [0])


# -- functions that go wrong -----------------------------------------------------------------------------


class TooFew(ScaledPruner):
    """Forgets half of what it should cut."""

    def prune_out_channels(self, layer: Scaled, idxs: Sequence[int]) -> nn.Module:
        tp.prune_linear_in_channels(layer.fc, idxs)
        return layer

    prune_in_channels = prune_out_channels


class Raises(ScaledPruner):
    def prune_out_channels(self, layer: Scaled, idxs: Sequence[int]) -> nn.Module:
        layer.width = 0
        raise RuntimeError("no such thing")

    prune_in_channels = prune_out_channels


class SaysOtherwise(ScaledPruner):
    def prune_out_channels(self, layer: Scaled, idxs: Sequence[int]) -> nn.Module:
        return super().prune_out_channels(layer, [*idxs, 7])

    def get_out_channels(self, layer: Scaled) -> int:
        return layer.width

    prune_in_channels = prune_out_channels
    get_in_channels = get_out_channels


class Cheats(SaysOtherwise):
    """Leaves a layer that runs, of another width than its declared one."""

    def prune_out_channels(self, layer: Scaled, idxs: Sequence[int]) -> nn.Module:
        ScaledPruner.prune_out_channels(self, layer, idxs)
        layer.fc = nn.Linear(layer.width, layer.width + 1)
        return layer

    prune_in_channels = prune_out_channels


@pytest.mark.parametrize(
    ("pruner", "text"),
    [
        (TooFew(), r"\[0, 1\] from the outputs of 'fc1' went wrong.*TooFew.* removed \[0, 1\] from 'middle'"),
        (
            Raises(),
            r"Raises.prune_out_channels failed on 'middle' for channels \[0, 1\]: RuntimeError: no such",
        ),
        (SaysOtherwise(), r"remove channels \[0, 1\] from 'middle', which says that it had 8 and now has 5"),
        (Cheats(), r"\[0, 1\] from the outputs of 'fc1' went wrong"),
    ],
)
def test_wrong_shapes_are_taken_back(pruner: Any, text: str, caplog: pytest.LogCaptureFixture) -> None:
    model, graph = built(pruner)
    before = Snapshot.of(model)
    group = graph.get_pruning_group(model.fc1, tp.prune_linear_out_channels, [0, 1])
    with pytest.raises(ValueError, match=text) as error:
        group.prune()
    assert isinstance(error.value, PruningError)
    assert not before.differences(model, identity=True)
    assert graph.pruning_history() == []
    assert model(X).shape == (2, 3)
    assert not caplog.records  # the error says it all


def test_a_layer_that_is_not_there() -> None:
    graph = tp.DependencyGraph()
    graph.register_customized_layer(nn.Bilinear, ScaledPruner())
    with pytest.warns(UserWarning, match="Bilinear.* is nowhere in Net"):
        graph.build_dependency(Net(), X)


@pytest.mark.parametrize(
    ("layer", "functions"),
    [
        ("layer_type_or_instance", "layer_pruner"),  # 1.6
        ("layer_type", "layer_pruner"),  # 1.3
        ("module_type", "customized_pruner"),
        ("layer_type", "pruner"),
    ],
)
def test_registered_by_the_names_of_any_version(layer: str, functions: str) -> None:
    for target in (Scaled, None):
        model = Net()
        graph = tp.DependencyGraph()
        graph.register_customized_layer(**{layer: target or model.middle, functions: ScaledPruner()})
        graph.build_dependency(model, torch.rand(2, 5))
        group = graph.get_pruning_group(model.fc1, tp.prune_linear_out_channels, [1, 4])
        group.prune()
        assert (model.middle.width, model.fc2.in_features) == (6, 6)


@pytest.mark.parametrize(
    ("args", "named", "match"),
    [
        ((), {}, "got neither"),
        ((Scaled,), {}, "layer_type_or_instance="),
        ((Scaled, ScaledPruner()), {"pruner": ScaledPruner()}, "each once"),
        ((Scaled,), {"layer_type": Scaled, "pruner": ScaledPruner()}, "each once"),
        ((Scaled,), {"in_ch_pruning_fn": print}, "in_ch_pruning_fn"),
    ],
)
def test_registered_by_other_names(args: Any, named: dict[str, Any], match: str) -> None:
    graph = tp.DependencyGraph()
    with pytest.raises(TypeError, match=match) as caught:
        graph.register_customized_layer(*args, **named)
    assert isinstance(caught.value, PruningError)
    assert not graph.CUSTOMIZED_PRUNERS
