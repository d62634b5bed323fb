"""Plain tensor attributes that the forward makes anew follow the cut at once, and come back with undo."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.prune as masks
from torch import Tensor, nn

import prunus
from snapshots import attributes


def convs() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(54, 2))


def masked() -> nn.Sequential:
    model = convs()
    masks.l1_unstructured(model[0], "weight", 0.3)
    masks.ln_structured(model[2], "weight", 0.25, 2, dim=1)
    masks.random_unstructured(model[4], "bias", 0.5)
    return model


def weight_normed() -> nn.Sequential:
    model = convs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but met in many checkpoints
        for number in (0, 2, 4):
            nn.utils.weight_norm(model[number])
    return model


def spectral_normed() -> nn.Sequential:
    model = convs()
    for number in (0, 2):
        nn.utils.spectral_norm(model[number])
    return model


HOOKED = [masked, weight_normed, spectral_normed]
X = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def sizes_say_what_tensors_are(model: nn.Module) -> bool:
    return all(
        (m.out_channels, m.in_channels) == tuple(m.weight.shape[:2])
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
    ) and all(
        (m.out_features, m.in_features) == tuple(m.weight.shape)
        for m in model.modules()
        if isinstance(m, nn.Linear)
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("build", HOOKED)
def test_what_hooks_derive_is_cut_with_its_sources(
    build: Callable[[], nn.Sequential], training: bool
) -> None:
    model = build().train(training)
    before = attributes(model)
    plan = prunus.prune(model, X, ratio=0.5)
    assert len(plan.counts) == 2
    derived = {name: value.shape for name, value in tensor_attributes(model).items()}
    assert sizes_say_what_tensors_are(model)
    numbers = [(m.out_channels, m.in_channels) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model.eval()(X)
    assert derived == {name: value.shape for name, value in tensor_attributes(model).items()}
    assert numbers == [(m.out_channels, m.in_channels) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model.train(training)
    plan.undo(model)
    assert attributes(model) == before


def tensor_attributes(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
    }


def test_masked_weights_have_the_values_that_the_next_forward_gives_them() -> None:
    model = masked().eval()
    prunus.prune(model, X, ratio=0.5)
    before = {name: value.detach().clone() for name, value in tensor_attributes(model).items()}
    assert set(before) == {"0.weight", "2.weight", "4.bias"}
    model(X)
    for name, value in tensor_attributes(model).items():
        torch.testing.assert_close(before[name], value.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("build", HOOKED)
def test_a_cut_model_trains_and_loses_its_hooks_as_any_other(build: Callable[[], nn.Sequential]) -> None:
    model = build().train()
    model(X).sum().backward()
    prunus.prune(model, X, ratio=0.5)
    model.zero_grad()
    model(X).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    model.eval()
    before = model(X)
    remove = {
        "masked": lambda: [
            masks.remove(model[n], key) for n, key in ((0, "weight"), (2, "weight"), (4, "bias"))
        ],
        "weight_normed": lambda: [nn.utils.remove_weight_norm(model[n]) for n in (0, 2, 4)],
        "spectral_normed": lambda: [nn.utils.remove_spectral_norm(model[n]) for n in (0, 2)],
    }
    remove[build.__name__]()
    torch.testing.assert_close(model(X), before)


class Remembers(nn.Module):
    """Keeps its last activations for whoever asks; in `Sums` the next forward asks."""

    reads = False

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.last = torch.zeros(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x).relu()
        self.last = self.last + hidden if self.reads else hidden
        return self.b(self.last)


class Sums(Remembers):
    reads = True


def test_remembered_activations_follow_and_any_batch_may_run_before_undo() -> None:
    model, x = Remembers(), torch.randn(3, 4)
    model(x)
    last = model.last
    plan = prunus.trace(model, x).plan(ratio=0.5)
    expected = last.detach()[:, plan.indices("a.weight")[0]]
    plan.apply(model)
    torch.testing.assert_close(model.last.detach(), expected, rtol=0, atol=0)
    model(torch.randn(7, 4))
    plan.undo(model)
    assert model.last is last
    assert model.last.shape == (3, 8)
    assert model(x).shape == (3, 2)


def test_a_state_that_the_forward_reads_is_an_input_like_any_other() -> None:
    model, x = Sums(), torch.randn(3, 4)
    reference = prunus.trace(model, x).values["last"]
    assert reference.name == "last"
    assert reference.consumers
    prunus.prune(model, x, ratio=0.5)
    assert model.last.shape[1] == model.a.out_features
    assert model(x).shape == (3, 2)
