"""`prunus.calibrate`: no trace is left behind, and what is wrong is said before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from calibrating import quiet, traced
from importance_models import MODELS, build
from prunus.calibration import calibrate
from snapshots import Snapshot


class Counting(nn.Module):
    """Changes its buffers and attributes, and draws numbers, at every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, x_BF: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x_BF))
        self.last = x_BF
        noise = torch.randn(()) * 0
        return self.outer(self.drop(self.inner(x_BF).relu())) + noise


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", [*MODELS, "counting"])
def test_the_model_is_as_it_was(name: str, per_sample: bool) -> None:
    if name == "counting":
        model: nn.Module = Counting().double()
        loader: list[Any] = build("linear")[1]
    else:
        model, loader = build(name)
    model.train()
    for index, parameter in enumerate(model.parameters()):
        if index % 2:
            parameter.grad = torch.randn_like(parameter)
    calls: list[int] = []
    parameter = next(model.parameters())
    parameter.register_hook(lambda grad: calls.append(1))
    if hasattr(parameter, "register_post_accumulate_grad_hook"):
        parameter.register_post_accumulate_grad_hook(lambda _: calls.append(2))
    graph = prunus.trace(model, loader[0][0])
    before = Snapshot.of(model)
    quiet(graph, loader, F.cross_entropy, per_sample=per_sample, covariance=True)
    assert not before.differences(model, identity=True, randomness=True)
    assert not calls
    assert not any(isinstance(value, Tensor) and value.grad_fn for value in vars(model).values())


BAD: dict[str, tuple[Any, str]] = {
    "not finite": (lambda output, y: F.cross_entropy(output, y) * float("nan"), "batch 0: the loss is nan"),
    "infinite": (lambda output, y: F.cross_entropy(output, y) / 0, "the loss is inf"),
    "not scalar": (lambda output, y: output, r"shape \(3, 4\).*must be a scalar"),
    "not a tensor": (lambda output, y: 1.0, "returned float"),
    "no gradient": (lambda output, y: F.cross_entropy(output, y).detach(), "no gradient"),
    "not of the model": (lambda output, y: torch.ones((), requires_grad=True) * 2, "not depend on any"),
    "raises": (lambda output, y: F.cross_entropy(output, y[:0]), "loss raised"),
}


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("what", BAD)
def test_bad_losses(what: str, per_sample: bool) -> None:
    pattern = BAD[what][1].replace("3, 4", "1, 4" if per_sample else "3, 4")
    model, graph, loader = traced("linear")
    before = Snapshot.of(model)
    with pytest.raises(prunus.PruningError, match=pattern):
        quiet(graph, loader, BAD[what][0], per_sample=per_sample)
    assert not before.differences(model, identity=True, randomness=True)
    assert graph.calibration is None


def test_a_loss_that_becomes_infinite_later_names_its_batch() -> None:
    _, graph, loader = traced("linear")
    loader[2] = (loader[2][0] * float("inf"), loader[2][1])
    for per_sample in (False, True):
        with pytest.raises(prunus.PruningError, match=r"batch 2.*: the loss is nan"):
            quiet(graph, loader, F.cross_entropy, per_sample=per_sample, covariance=True)


def test_bad_arguments() -> None:
    model, graph, loader = traced("linear")
    x = loader[0][0]
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (model, {"loader": loader}, "prunus.trace"),
        (graph, {"loader": []}, "empty"),
        (graph, {"loader": iter(())}, "empty"),
        (graph, {"loader": x}, "must yield batches, got Tensor"),
        (graph, {"loader": 3}, "must yield batches, got int"),
        (graph, {"loader": loader, "loss": "cross_entropy"}, "loss must be a function"),
        (graph, {"loader": loader, "batches": 0}, "batches=0"),
        (graph, {"loader": loader, "batches": 1.5}, "batches=1.5"),
        (graph, {"loader": loader, "per_sample": True}, "give loss"),
        (graph, {"loader": loader, "activations": False}, "give loss"),
        (graph, {"loader": [(x, x, x)]}, "batch 0 is a tuple of 3 items"),
        (graph, {"loader": ["text"]}, "inputs of type str"),
        (graph, {"loader": [x[:0]]}, "batch 0 has no samples"),
        (graph, {"loader": [x, torch.randn(2, 3)]}, "fails on batch 1 of the loader"),
        (graph, {"loader": [(torch.randn(2, 3), 0)], "loss": F.cross_entropy}, "fails on batch 0"),
        (graph, {"loader": [{"y": x}]}, "fails on batch 0"),
    ]
    before = Snapshot.of(model)
    for given, options, pattern in cases:
        with pytest.raises(prunus.PruningError, match=pattern):
            calibrate(given, **{"progress": False, **options})
    assert not before.differences(model, identity=True, randomness=True)
    assert graph.calibration is None


def test_a_model_cut_since_it_was_traced_is_refused() -> None:
    model, graph, loader = traced("linear")
    prunus.prune(model, loader[0][0], ratio=0.5)
    with pytest.raises(prunus.PruningError, match="trace it again"):
        quiet(graph, loader)


def test_importances_ask_for_what_they_need() -> None:
    _, graph, loader = traced("linear")
    needs = {
        "taylor": "needs gradients",
        "taylor_element": "needs gradients",
        "obd": "per_sample=True",
        "obdc": "per_sample=True",
        "fisher": "per_sample=True",
        "activation": "needs activations",
        "apoz": "needs activations",
        "wanda": "needs activations",
    }
    for importance, pattern in needs.items():
        with pytest.raises(prunus.PruningError, match=f"'{importance}' .*{pattern}"):
            graph.plan(ratio=0.5, importance=importance)
    quiet(graph, loader, F.cross_entropy, activations=False)
    for importance in ("obd", "obdc", "fisher", "activation", "apoz", "wanda"):
        with pytest.raises(prunus.PruningError, match=needs[importance]):
            graph.plan(ratio=0.5, importance=importance)
    graph.plan(ratio=0.5, importance="taylor")


def test_gradients_that_are_not_finite_name_the_parameter() -> None:
    _, graph, loader = traced("linear")
    quiet(graph, loader, F.cross_entropy)
    graph.calibration.gradients["2.weight"][0, 0] = float("nan")
    with pytest.raises(prunus.PruningError, match=r"'2.weight' has gradients"):
        graph.plan(ratio=0.5, importance="taylor")


def test_caches_may_come_and_go_since_the_trace() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 4)
            self.cache: dict[str, Tensor] = {}

        def forward(self, x_BF: Tensor) -> Tensor:
            if "offset" not in self.cache:
                self.cache["offset"] = torch.ones(4, dtype=x_BF.dtype)
            return self.outer(self.inner(x_BF).relu()) + self.cache["offset"]

    model = Caching().double()
    loader = build("linear")[1]
    for filled_at_trace in (False, True):
        model.cache.clear()
        if filled_at_trace:
            model(loader[0][0])
        graph = prunus.trace(model, loader[0][0])
        model.cache.clear()
        if not filled_at_trace:
            model(loader[0][0])
        kept = dict(model.cache)
        for per_sample in (False, True):
            assert quiet(graph, loader, F.cross_entropy, per_sample=per_sample).samples == 9
        assert model.cache == kept
