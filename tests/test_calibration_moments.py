"""Second moments of what weights are multiplied with, against forward hooks on the plain model."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import Tensor, nn

import prunus
from calibrating import quiet, traced
from prunus.importance import Magnitude, OptimalBrainCompression, scores

WIDTH = 6


class Between(nn.Module):
    """A hidden axis that can be pruned, made before and read by the layers of a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, WIDTH)
        self.first, self.second = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)

    def read(self, x_BF: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.read(self.inner(x_BF).relu())


class Together(Between):
    def read(self, x_BF: Tensor) -> Tensor:
        return self.first(x_BF) + self.second(x_BF)


class Rewritten(Between):
    """Between its readers, the tensor is written in place."""

    def read(self, x_BF: Tensor) -> Tensor:
        first = self.first(x_BF)
        return first + self.second(x_BF.mul_(2).add_(1))


class Twice(Between):
    """One layer reads two tensors, the other one of them."""

    def read(self, x_BF: Tensor) -> Tensor:
        return self.first(x_BF) + self.second(x_BF) + self.first(x_BF.flip(0).square())


class Branching(Between):
    """The second reader looks at the same tensor in small batches, and at another in large ones."""

    def read(self, x_BF: Tensor) -> Tensor:
        return self.first(x_BF) + self.second(x_BF if len(x_BF) < 4 else x_BF.square())


def seen_by(model: nn.Module, loader: list[Tensor]) -> dict[str, Tensor]:
    """`E[x x^T]` of all that each layer reads."""
    seen: dict[str, list[Tensor]] = defaultdict(list)
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0].flatten(0, -2).clone())
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    with torch.no_grad():
        for x in loader:
            model(x)
    for hook in hooks:
        hook.remove()
    return {
        name: torch.cat(parts).T @ torch.cat(parts) / len(torch.cat(parts)) for name, parts in seen.items()
    }


@pytest.mark.parametrize("kind", [Together, Rewritten, Twice, Branching])
def test_each_weight_has_the_moments_of_all_that_it_reads(kind: type[Between]) -> None:
    torch.manual_seed(0)
    model = kind().double()
    loader = [torch.randn(size, 4, dtype=torch.float64) for size in (3, 5, 2, 7)]
    found = quiet(prunus.trace(model, loader[0]), loader, covariance=True).second_moments
    wanted = seen_by(model, loader)
    assert set(found) == {("first.weight", 1), ("second.weight", 1)}
    for (name, _), moments in found.items():
        assert (moments.shape, moments.dtype) == ((1, WIDTH, WIDTH), torch.float64)
        assert torch.allclose(moments[0], wanted[name.removesuffix(".weight")], rtol=1e-12), name
    shared = found["first.weight", 1] is found["second.weight", 1]
    assert shared is (kind is Together)


def test_attention_and_a_feed_forward() -> None:
    model, graph, loader = traced("language")
    found = quiet(graph, loader, covariance=True).second_moments
    wanted = seen_by(model, [x for x, _ in loader])
    assert {name for name, _ in found} >= {f"{name}.weight" for name in ("attention.out", "down")}
    for (name, dim), moments in found.items():
        layer = "head" if name == "tokens.weight" else name.removesuffix(".weight")
        assert dim == 1
        assert torch.allclose(moments[0], wanted[layer], rtol=1e-12), name


def test_states_of_a_recurrent_layer_over_all_steps() -> None:
    model, graph, loader = traced("recurrent")
    found = quiet(graph, loader, covariance=True).second_moments
    states = []
    with torch.no_grad():
        for x, _ in loader:
            out, _ = model.lstm(model.tokens(x))
            states.append(out[:, :-1].reshape(-1, 8))
    # The first state is a constant, which depends on no input.
    seen = torch.cat(states)
    assert torch.allclose(found["lstm.weight_hh_l0", 1][0], seen.T @ seen / len(seen), rtol=1e-12)


def test_only_of_axes_that_can_be_pruned_and_only_on_request() -> None:
    _, graph, loader = traced("linear")
    assert not quiet(graph, loader).second_moments
    found = quiet(graph, loader, covariance=True)
    assert set(found.second_moments) == {("2.weight", 1), ("4.weight", 1)}
    assert "second moments of the inputs of 2 parameters" in repr(found)


def test_large_inputs_are_left_out_and_ranked_by_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph, loader = traced("linear")
    monkeypatch.setattr("prunus.calibration.moments.LARGEST", 8)
    found = quiet(graph, loader, covariance=True)
    assert set(found.second_moments) == {("4.weight", 1)}
    nodes = [axis.node for axis in graph.prunable]
    ranked = scores(graph, nodes, OptimalBrainCompression(), None)
    assert torch.allclose(ranked[nodes[0]], scores(graph, nodes, Magnitude(), None)[nodes[0]])


def test_half_precision_is_summed_in_double() -> None:
    model = Together().bfloat16()
    loader = [torch.randn(300, 4).bfloat16() for _ in range(3)]
    found = quiet(prunus.trace(model, loader[0]), loader, covariance=True).second_moments["first.weight", 1][
        0
    ]
    with torch.no_grad():
        seen = torch.cat([model.inner(x).relu() for x in loader]).double()
    assert torch.allclose(found, seen.T @ seen / len(seen), rtol=1e-12)
