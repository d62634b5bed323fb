"""`prunus.calibrate`: the gradients and activations that it gathers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from calibrating import quiet, traced
from importance_models import MODELS
from prunus.calibration.gradients import Gradients
from snapshots import Snapshot


def together(loader: list[Any]) -> list[tuple[Tensor, Tensor]]:
    return [(x[i : i + 1], y[i : i + 1]) for x, y in loader for i in range(len(x))]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_are_the_mean_over_samples(name: str, per_sample: bool) -> None:
    model, graph, loader = traced(name)
    found = quiet(graph, loader, F.cross_entropy, per_sample=per_sample, activations=False)
    samples = together(loader)
    losses = [F.cross_entropy(model(x), y) for x, y in samples]
    torch.stack(losses).mean().backward()
    assert found.samples == len(samples)
    assert found.batches == 3
    assert found.loss == pytest.approx(float(torch.stack(losses).mean().detach()))
    assert set(found.gradients) == {name for name, _ in model.named_parameters()}
    for key, parameter in model.named_parameters():
        assert torch.allclose(found.gradients[key], parameter.grad, rtol=1e-9, atol=1e-12), key
    assert bool(found.squared_gradients) is per_sample


@pytest.mark.parametrize("name", MODELS)
def test_squares_are_of_single_samples(name: str) -> None:
    model, graph, loader = traced(name)
    found = quiet(graph, loader, F.cross_entropy, per_sample=True, activations=False)
    wanted = {key: torch.zeros_like(value) for key, value in model.named_parameters()}
    for x, y in together(loader):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for key, parameter in model.named_parameters():
            wanted[key] += parameter.grad.square() / found.samples
    for key, squares in wanted.items():
        assert torch.allclose(found.squared_gradients[key], squares, rtol=1e-9, atol=1e-14), key


@pytest.mark.parametrize("name", ["residual", "language", "linear"])
def test_vectorised_and_looped_samples_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph, loader = traced(name)
    together_calls: list[int] = []
    plain = Gradients._of_samples

    def counted(self: Gradients, batch: Any, start: int, count: int) -> Any:
        together_calls.append(count)
        return plain(self, batch, start, count)

    monkeypatch.setattr(Gradients, "_of_samples", counted)
    fast = quiet(graph, loader, F.cross_entropy, per_sample=True, activations=False)
    assert len(together_calls) >= 3

    def refuse(*_: Any) -> Any:
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(Gradients, "_of_samples", refuse)
    slow = quiet(graph, loader, F.cross_entropy, per_sample=True, activations=False)
    for one, other in ((fast.squared_gradients, slow.squared_gradients), (fast.gradients, slow.gradients)):
        assert all(torch.allclose(one[key], other[key], rtol=1e-9, atol=1e-14) for key in other)
    for node, squares in slow.unit_squares.items():
        assert torch.allclose(fast.unit_squares[node], squares, rtol=1e-9)


def test_samples_are_taken_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph, loader = traced()
    whole = quiet(graph, loader, F.cross_entropy, per_sample=True)
    monkeypatch.setattr("prunus.calibration.gradients.ENTRIES", 1)
    pieces = quiet(graph, loader, F.cross_entropy, per_sample=True)
    for key, squares in whole.squared_gradients.items():
        assert torch.allclose(pieces.squared_gradients[key], squares, rtol=1e-9, atol=1e-14)


def test_a_vectorised_sample_that_differs_from_itself_alone_is_not_trusted() -> None:
    """A batch of one takes another branch of this loss than vmap sees: samples go one by one."""
    _, graph, loader = traced("linear")

    def loss(output: Tensor, target: Tensor) -> Tensor:
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(target)
        return F.cross_entropy(output, target) * (3 if wrapped else 1)

    found = quiet(graph, loader, loss, per_sample=True, activations=False)
    plain = quiet(graph, loader, F.cross_entropy, per_sample=True, activations=False)
    for key, squares in plain.squared_gradients.items():
        assert torch.allclose(found.squared_gradients[key], squares, rtol=1e-9)


def test_parameters_that_the_user_froze_have_gradients_too() -> None:
    model, graph, loader = traced("linear")
    wanted = quiet(graph, loader, F.cross_entropy).gradients["0.weight"]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = Snapshot.of(model)
    with torch.no_grad():
        found = quiet(graph, loader, F.cross_entropy).gradients["0.weight"]
    assert torch.equal(found, wanted)
    assert not before.differences(model, identity=True)


def test_parameters_that_the_loss_does_not_reach_have_none() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 2)

        def forward(self, x_BF: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.body(x_BF).relu()
            return self.first(hidden), self.second(hidden)

    graph = prunus.trace(TwoHeads(), torch.randn(2, 5))
    loader = [(torch.randn(4, 5), torch.randint(0, 3, (4,)))]
    for per_sample in (False, True):
        found = quiet(graph, loader, lambda out, y: F.cross_entropy(out[0], y), per_sample=per_sample)
        assert set(found.gradients) == {"body.weight", "body.bias", "first.weight", "first.bias"}


def test_weights_computed_from_weights_are_no_activations() -> None:
    """Under weight norm the weight that multiplies the input is itself computed: only the input is read."""
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.ReLU(), nn.Linear(6, 3)
    ).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    graph = prunus.trace(model, x)
    found = quiet(graph, [x])
    (axis,) = graph.prunable
    assert list(found.activations[axis.node]) == ["2.weight"]
    hidden = model[1](model[0](x)).detach()
    assert found.activations[axis.node]["2.weight"].mean_abs.tolist() == pytest.approx(
        hidden.abs().mean(0).tolist()
    )


def test_what_was_written_into_a_buffer_is_an_activation() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x_BF: Tensor) -> Tensor:
            hidden = torch.zeros(x_BF.shape[0] + 1, self.inner.out_features, dtype=x_BF.dtype)
            hidden[: x_BF.shape[0]] = self.inner(x_BF)
            return self.outer(hidden)

    model = Padded().double()
    x = torch.randn(3, 5, dtype=torch.float64)
    graph = prunus.trace(model, x)
    found = quiet(graph, [x]).activations[graph.axes_of("outer.weight")[-1].node]["outer.weight"]
    assert found.mean_abs.tolist() == pytest.approx((model.inner(x).abs().sum(0) / 4).tolist())
    assert found.zeros.tolist() == pytest.approx([1 / 4] * 6)


def test_recurrent_layers_read_their_own_state() -> None:
    model, graph, loader = traced("recurrent")
    found = quiet(graph, loader).activations
    axis = next(axis for axis in graph.prunable if ("lstm.weight_hh_l0", 1) in axis.members)
    states = []
    with torch.no_grad():
        for x, _ in loader:
            out, _ = model.lstm(model.tokens(x))
            states.append(out[:, :-1].reshape(-1, 8))
    # The first state is a constant, which depends on no input.
    wanted = torch.cat(states).abs().mean(0)
    assert found[axis.node]["lstm.weight_hh_l0"].mean_abs.tolist() == pytest.approx(wanted.tolist())


def test_gradients_are_those_of_eval_mode() -> None:
    """Dropout and batch statistics of a model left in train mode play no part."""
    model, graph, loader = traced("residual")
    wanted = quiet(graph, loader, F.cross_entropy, per_sample=True)
    model.train()
    found = quiet(graph, loader, F.cross_entropy, per_sample=True)
    assert model.training
    for key, gradient in wanted.gradients.items():
        assert torch.equal(found.gradients[key], gradient)
        assert torch.equal(found.squared_gradients[key], wanted.squared_gradients[key])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu(name: str) -> None:
    model, graph, loader = traced(name)
    wanted = quiet(graph, loader, F.cross_entropy, per_sample=True)
    model = model.cuda()
    graph = prunus.trace(model, loader[0][0].cuda())
    found = quiet(graph, loader, F.cross_entropy, per_sample=True, covariance=True)
    for key, gradient in wanted.gradients.items():
        assert found.gradients[key].is_cuda
        assert torch.allclose(found.gradients[key].cpu(), gradient, rtol=1e-6, atol=1e-9)
    for importance in prunus.importance.names():
        graph.plan(ratio=0.5, importance=importance, scope="global", seed=0)
