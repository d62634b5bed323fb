"""Models that write to themselves while they run, and what a pruned model is good for afterwards."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from oracle import check_pruned, masked_copy, outputs_of, tensors_of
from snapshots import Snapshot


class Writing(nn.Module):
    """Keeps its last features, counts calls, fills a list, a dict and a buffer, builds a table at first."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
        self.last, self.calls, self.seen, self.cache, self.table = None, 0, [], {}, None
        self.register_buffer("average", torch.zeros(12))

    def forward(self, x_BF: Tensor) -> Tensor:
        y = self.fc(x_BF).relu()
        if self.table is None:
            self.table = torch.linspace(0, 1, len(x_BF), dtype=y.dtype)[:, None]
        self.calls += 1
        self.last = y
        self.seen.append(y.mean())
        self.cache["y"] = y
        self.average.mul_(0.9).add_(0.1 * y.detach().mean(0))
        return self.head(y) + self.table


def x(batch: int = 2, features: int = 6) -> Tensor:
    return torch.randn(batch, features).double()


def test_tracing_leaves_no_trace_in_a_model_that_writes_to_itself() -> None:
    model = Writing().double()
    before = Snapshot.of(model)
    prunus.trace(model, x())
    assert before.differences(model, identity=True) == []
    assert (model.last, model.calls, model.seen, model.cache, model.table) == (None, 0, [], {}, None)
    model(x())
    assert type(model.last) is type(model.seen[0]) is type(model.table) is Tensor
    assert model.calls == 1


def test_pruning_and_undoing_a_model_that_writes_to_itself() -> None:
    model = Writing().double()
    original = copy.deepcopy(model)
    plan = prunus.prune(model, x(), ratio=0.5)
    assert model.average.shape == (6,)
    assert (model.last, model.calls, model.seen) == (None, 0, [])
    inputs = x()
    masked = masked_copy(original, plan.masks())
    torch.testing.assert_close(masked(inputs), model(inputs))
    plan.undo(model)
    assert model.fc.weight.shape == (12, 6)
    assert torch.equal(model(inputs), original(inputs))


def test_what_was_stored_before_does_not_stand_in_the_way() -> None:
    """A tensor kept from an earlier forward has the old width; the next forward replaces it."""
    model, inputs = Writing().double(), x()
    model(inputs)
    prunus.prune(model, inputs, ratio=0.5)
    model(inputs)
    assert model.last.shape == (2, 6)


class Sampling(nn.Module):
    """A variational bottleneck: noise of the width of the code, drawn in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.scale, self.decode = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x_BF: Tensor) -> Tensor:
        mean, scale = self.mean(x_BF), self.scale(x_BF).exp()
        return self.decode(mean + scale * torch.randn_like(mean))


def test_noise_over_a_pruned_axis_is_not_called_exact() -> None:
    """Fewer units draw other numbers: equal in distribution is not equal."""
    model = Sampling().double().eval()
    state = torch.get_rng_state()
    plan = prunus.prune(model, x(), ratio=0.5)
    if len(plan.indices("mean.weight")[0]) < 12:
        assert not plan.exact
    else:
        assert any("rand" in str(axis.reason) for axis in plan.graph.axes if not axis.prunable)
    torch.set_rng_state(state)


def test_hooks_of_the_user_stay_and_run() -> None:
    model, calls = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double(), []
    model[1].register_forward_hook(lambda module, args, output: calls.append(tuple(output.shape)))
    model[0].weight.register_hook(lambda gradient: calls.append("gradient"))
    prunus.prune(model, x(), ratio=0.5)
    calls.clear()
    model(x()).sum().backward()
    assert calls[0] == (2, 6)


def test_pruning_inside_no_grad() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        prunus.prune(model, x(), ratio=0.5)
        assert not torch.is_grad_enabled()
    assert all(p.requires_grad for p in model.parameters())
    model(x()).sum().backward()
    assert model[0].weight.grad.shape == (6, 6)


def test_inputs_that_require_grad() -> None:
    model, inputs = (
        nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double(),
        x().requires_grad_(),
    )
    prunus.prune(model, inputs, ratio=0.5)
    assert inputs.grad is None
    model(inputs).sum().backward()
    assert inputs.grad.shape == inputs.shape


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3),
        nn.Flatten(),
        nn.Linear(64, 5),
    )


@pytest.fixture
def pruned() -> tuple[nn.Module, Tensor]:
    model, image = network().eval(), torch.randn(2, 3, 4, 4)
    prunus.prune(model, image, ratio=0.5)
    return model, image


def test_it_can_be_copied_and_pickled(pruned: tuple[nn.Module, Tensor]) -> None:
    model, image = pruned
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False))
    for other in copies:
        assert torch.equal(other(image), model(image))


def test_its_state_dict_loads_into_a_network_built_smaller(pruned: tuple[nn.Module, Tensor]) -> None:
    model, image = pruned
    small = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.Flatten(),
        nn.Linear(32, 5),
    ).eval()
    small.load_state_dict(model.state_dict())
    assert torch.equal(small(image), model(image))
    assert str(small) == str(model)


def test_it_can_be_exported_and_compiled(pruned: tuple[nn.Module, Tensor]) -> None:
    model, image = pruned
    expected = model(image)
    torch.testing.assert_close(torch.export.export(model, (image,)).module()(image), expected)
    torch.testing.assert_close(torch.compile(model, backend="eager")(image), expected)
    torch.testing.assert_close(torch.jit.trace(model, image)(image), expected)


def test_a_compiled_model_sees_its_new_shapes() -> None:
    """Compiled and run before: the old graph must not be used again."""
    model, image = network().eval(), torch.randn(2, 3, 4, 4)
    compiled = torch.compile(model, backend="eager")
    before = compiled(image)
    original = copy.deepcopy(model)
    plan = prunus.prune(compiled, image, ratio=0.5)
    masks = {name.removeprefix("_orig_mod."): mask for name, mask in plan.masks().items()}
    torch.testing.assert_close(compiled(image), masked_copy(original, masks)(image))
    plan.undo(compiled)
    torch.testing.assert_close(compiled(image), before)


def test_training_mode_makes_no_difference_to_what_is_coupled() -> None:
    for training in (False, True):
        model = network().double().train(training)
        original, image = copy.deepcopy(model).eval(), torch.randn(2, 3, 4, 4).double()
        plan = prunus.prune(model, image, ratio=0.5)
        assert model.training is training
        assert check_pruned(original, model.eval(), plan, (image,), {}, 1e-10)
        assert [len(i) for i in plan.indices("3.weight")] == [8, 6, 3, 3]


class Switching(nn.Module):
    """Another head in training than in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head, self.auxiliary = nn.Linear(6, 12), nn.Linear(12, 3), nn.Linear(12, 4)

    def forward(self, x_BF: Tensor) -> Any:
        y = self.fc(x_BF).relu()
        return (self.head(y), self.auxiliary(y)) if self.training else self.head(y)


def test_tracing_in_training_mode_reaches_the_auxiliary_head() -> None:
    model = Switching().double().train()
    prunus.prune(model, x(), ratio=0.5)
    assert len(tensors_of(model(x()))) == 2
    assert model.auxiliary.in_features == 6


def test_tracing_in_evaluation_mode_does_not_break_the_auxiliary_head() -> None:
    """It is not part of the forward that was asked for, but training goes on with it."""
    model = Switching().double().eval()
    prunus.prune(model, x(), ratio=0.5)
    assert model(x()).shape == (2, 3)
    assert [tuple(t.shape) for t in model.train()(x())] == [(2, 3), (2, 4)]


def test_many_rounds() -> None:
    """Pruned, run and traced again until one unit is left, each round right."""
    model, inputs = network().double().eval(), torch.randn(2, 3, 4, 4).double()
    for _ in range(6):
        original = copy.deepcopy(model)
        plan = prunus.prune(model, inputs, ratio=0.5)
        check_pruned(original, model, plan, (inputs,), {}, 1e-9)
    assert (model[0].out_channels, model[3].out_channels) == (1, 1)
    assert outputs_of(model, (inputs,), {})[0].shape == (2, 5)


def test_a_loss_that_is_still_alive_does_not_spoil_the_next_backward() -> None:
    """As in any training loop, where the last loss stays in scope while the model is pruned and put back."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(4, 6)
    loss = model(x).sum()
    loss.backward()
    plan = prunus.prune(model, x, ratio=0.5)
    smaller = model(x).sum()
    smaller.backward()
    assert model[0].weight.grad is not None
    assert model[0].weight.grad.shape == (4, 6)
    plan.undo(model)
    model.zero_grad()
    model(x).sum().backward()
    assert model[0].weight.grad.shape == (8, 6)
    assert loss.isfinite()
    assert smaller.isfinite()


class CachedByDevice(nn.Module):
    """Attention biases kept by device once a forward in eval mode has made them, as timm's LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
        self.table_TC = nn.Parameter(torch.randn(4, 12))
        self.cache: dict[str, torch.Tensor] = {}

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        key = str(x_BF.device)
        if key not in self.cache:
            self.cache[key] = self.table_TC[torch.tensor([1])]
        return self.head((self.a(x_BF) + self.cache[key]).relu())


def test_a_cache_filled_before_tracing_is_cut_with_the_rest() -> None:
    model, x = CachedByDevice().eval(), torch.randn(2, 6)
    with torch.no_grad():
        model(x)
        prunus.prune(model, x, ratio=0.5)
        assert model(x).shape == (2, 3)
    assert model.a.out_features == 6
