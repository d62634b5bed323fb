"""Bad input: a `PruningError` that says what is wrong and what to do, and a model that is as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from snapshots import Snapshot


class Net(nn.Module):
    """fc1 - norm - fc2 - fc3, with one layer that is never used."""

    def __init__(self, hidden: int = 12, fails: bool = False) -> None:
        super().__init__()
        self.fc1, self.norm = nn.Linear(6, hidden), nn.BatchNorm1d(hidden)
        self.fc2, self.fc3 = nn.Linear(hidden, 8), nn.Linear(8, 3)
        self.fails = fails

    def forward(self, x_BF: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("the forward of this model is broken")
        return self.fc3(self.fc2(self.norm(self.fc1(x_BF)).relu()).relu())


@contextmanager
def refused(model: Any, kind: type[BaseException] | None = None, match: str | None = None) -> Iterator[None]:
    """The block raises a PruningError (also a `kind`) that speaks, and leaves the model untouched."""
    before = Snapshot.of(model) if isinstance(model, nn.Module) else None
    with pytest.raises(prunus.PruningError, match=match) as caught:
        yield
    assert kind is None or isinstance(caught.value, kind), f"{type(caught.value).__mro__} is no {kind}"
    message = str(caught.value)
    assert len(message.split()) >= 4, f"says nothing: {message!r}"
    if before is not None:
        assert before.differences(model, identity=True, randomness=True) == []


def inputs(batch: int = 2) -> Tensor:
    """Fixed numbers: drawing some would change the random state that `refused` watches."""
    return torch.linspace(-1, 1, 6 * batch).view(batch, 6)


@pytest.mark.parametrize("thing", [None, 3, "resnet", nn.Linear, {"weight": torch.ones(2)}, lambda x: x])
def test_not_a_module(thing: Any) -> None:
    for call in (prunus.trace, prunus.prune):
        with refused(thing, TypeError):
            call(thing, inputs())


def test_no_inputs() -> None:
    model = Net()
    with refused(model, match=r"(?i)input|arg"):
        prunus.trace(model)
    with refused(model, match=r"(?i)input|arg"):
        prunus.prune(model, ratio=0.5)
    with refused(model, match=r"(?i)input|arg"):
        prunus.trace(model, (), {})


def test_none_as_input() -> None:
    model = Net()
    with refused(model):
        prunus.trace(model, None)


@pytest.mark.parametrize("training", [False, True])
def test_inputs_of_the_wrong_shape(training: bool) -> None:
    model = Net().train(training)
    with refused(model, match=r"(?i)input|shape|forward"):
        prunus.trace(model, inputs(7).view(6, 7))


def test_inputs_of_the_wrong_kind() -> None:
    model = Net()
    with refused(model):
        prunus.trace(model, (inputs(), inputs()))
    with refused(model):
        prunus.trace(model, (), {"pixels": inputs()})
    with refused(model):
        prunus.trace(model, "an image")


def test_a_model_that_fails_its_own_forward() -> None:
    model = Net(fails=True)
    with refused(model, match="broken"):
        prunus.trace(model, inputs())
    with refused(model, match="broken"):
        prunus.prune(model, inputs(), ratio=0.5)


def test_the_original_error_is_kept_as_the_cause() -> None:
    with pytest.raises(prunus.PruningError) as caught:
        prunus.trace(Net(fails=True), inputs())
    causes, error = [], caught.value.__cause__
    while error is not None:
        causes.append(error)
        error = error.__cause__
    assert any(isinstance(cause, RuntimeError) for cause in causes)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_ratio_out_of_range(ratio: float) -> None:
    model = Net()
    with refused(model, ValueError, match=r"(?i)ratio"):
        prunus.prune(model, inputs(), ratio=ratio)
    with refused(model, ValueError, match=r"(?i)ratio"):
        prunus.trace(model, inputs()).plan(ratio={"fc1": ratio})


@pytest.mark.parametrize("ratio", ["half", [0.5], True])
def test_ratio_of_the_wrong_type(ratio: Any) -> None:
    model = Net()
    with refused(model, match=r"(?i)ratio"):
        prunus.prune(model, inputs(), ratio=ratio)


def test_neither_ratio_nor_budget() -> None:
    model = Net()
    with refused(model, match=r"(?i)ratio|budget"):
        prunus.prune(model, inputs())


@pytest.mark.parametrize("importance", ["l1", "l2"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(importance: str, value: float) -> None:
    model = Net()
    model.fc2.weight.data[3, 1] = value
    with refused(model, ValueError, match=r"(?i)fc2"):
        prunus.prune(model, inputs(), ratio=0.5, importance=importance)


def test_nan_does_not_matter_to_random_importance() -> None:
    model = Net()
    model.fc2.weight.data[3, 1] = float("nan")
    prunus.prune(model, inputs(), ratio=0.5, importance="random")
    assert model.fc2.weight.shape == (4, 6)


def test_gradients_that_are_not_numbers() -> None:
    model = Net()
    model(inputs()).sum().backward()
    model.fc1.weight.grad[0, 0] = float("nan")
    with refused(model, ValueError, match=r"(?i)fc1|gradient"):
        prunus.prune(model, inputs(), ratio=0.5, importance="taylor")


def test_taylor_without_gradients() -> None:
    model = Net()
    with refused(model, match=r"(?i)grad"):
        prunus.prune(model, inputs(), ratio=0.5, importance="taylor")


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": {"fc9": 0.5}},
        {"ratio": {"fc1": 0.5, "layer.nowhere": 0.25}},
        {"ratio": 0.5, "ignore": ["fc9"]},
        {"ratio": 0.5, "ignore": ("fc1", "backbone")},
    ],
)
def test_unknown_names(options: dict[str, Any]) -> None:
    model = Net()
    name = next(n for n in ("fc9", "layer.nowhere", "backbone") if n in str(options))
    with refused(model, match=name):
        prunus.prune(model, inputs(), **options)


def test_ignoring_a_module_of_another_model() -> None:
    model, other = Net(), Net()
    with refused(model, match=r"(?i)ignore|module|model"):
        prunus.prune(model, inputs(), ratio=0.5, ignore=[other.fc1])


def test_unknown_name_comes_with_a_suggestion_or_the_way_out() -> None:
    with pytest.raises(prunus.PruningError, match=r"fc1|axes|named_modules"):
        prunus.prune(Net(), inputs(), ratio={"fc_1": 0.5})


def test_explaining_an_unknown_module() -> None:
    with refused(None, match="fc9"):
        prunus.trace(Net(), inputs()).explain("fc9")


def test_indices_of_an_unknown_parameter() -> None:
    plan = prunus.trace(Net(), inputs()).plan(ratio=0.5)
    with refused(None, match="fc9"):
        plan.indices("fc9.weight")


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5, "importance": "beauty"},
        {"ratio": 0.5, "scope": "galactic"},
        {"ratio": 0.5, "round_to": 0},
        {"ratio": 0.5, "round_to": -4},
        {"ratio": 0.5, "round_to": 2.5},
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any]) -> None:
    model = Net()
    with refused(model):
        prunus.prune(model, inputs(), **options)


def test_unreachable_budget_states_the_smallest_reachable_value() -> None:
    """One unit left on each of the two hidden axes."""
    model = Net()
    fc1, norm, fc2, fc3 = 6 + 1, 1 + 1, 1 + 1, 3 + 3
    least = fc1 + norm + fc2 + fc3
    with pytest.raises(prunus.PruningError) as caught:
        prunus.prune(model, inputs(), budget=prunus.Budget(params=5))
    assert isinstance(caught.value, ValueError)
    assert str(least) in str(caught.value), f"{least} is not in {caught.value}"
    with refused(model, ValueError):
        prunus.prune(model, inputs(), budget=prunus.Budget(macs=0.0001))
    plan = prunus.prune(model, inputs(), budget=prunus.Budget(params=least))
    assert plan.exact
    assert sum(p.numel() for p in model.parameters()) == least


@pytest.mark.parametrize("value", [-0.5, 0, float("nan"), -10])
def test_budgets_without_meaning(value: float) -> None:
    model = Net()
    with refused(model, ValueError):
        prunus.prune(model, inputs(), budget=prunus.Budget(macs=value))


def test_a_plan_for_another_architecture() -> None:
    plan = prunus.trace(Net(), inputs()).plan(ratio=0.5)
    for other in (Net(hidden=16), nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 3))):
        with refused(other):
            plan.apply(other)
    with refused("a model", TypeError):
        plan.apply("a model")


def test_a_plan_for_an_equal_model_applies() -> None:
    """The same architecture is not another model: a copy can take the plan."""
    model = Net()
    plan = prunus.trace(model, inputs()).plan(ratio=0.5)
    twin = copy.deepcopy(model)
    plan.apply(twin)
    assert twin.fc1.weight.shape == (6, 6)
    assert model.fc1.weight.shape == (12, 6)


def test_a_plan_applied_twice() -> None:
    model = Net()
    plan = prunus.prune(model, inputs(), ratio=0.5)
    with refused(model):
        plan.apply(model)


def test_undo_without_apply_and_undo_twice() -> None:
    model = Net()
    plan = prunus.trace(model, inputs()).plan(ratio=0.5)
    with refused(model):
        plan.undo(model)
    plan.apply(model)
    plan.undo(model)
    with refused(model):
        plan.undo(model)


def test_undo_out_of_order() -> None:
    model = Net()
    first = prunus.prune(model, inputs(), ratio=0.5)
    prunus.prune(model, inputs(), ratio=0.5)
    with refused(model):
        first.undo(model)


def test_an_optimizer_of_another_model() -> None:
    model = Net()
    plan = prunus.trace(model, inputs()).plan(ratio=0.5)
    optimizer = torch.optim.SGD(Net().parameters(), lr=0.1)
    with refused(model, match=r"(?i)optimi[sz]er"):
        plan.apply(model, optimizer=optimizer)


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, inputs())])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_torchscript(make: Callable[[nn.Module], Any]) -> None:
    script = make(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)))
    before = {key: value.clone() for key, value in script.state_dict().items()}
    with pytest.raises(prunus.PruningError, match=r"(?i)script"):
        prunus.prune(script, inputs(), ratio=0.5)
    assert all(torch.equal(before[key], value) for key, value in script.state_dict().items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_quantised_module() -> None:
    model = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype=torch.qint8)
    expected = model(inputs(4).fill_(0.5))
    with pytest.raises(prunus.PruningError, match=r"(?i)quanti"):
        prunus.prune(model, inputs(), ratio=0.5)
    assert torch.equal(expected, model(inputs(4).fill_(0.5)))


def test_mixed_devices() -> None:
    model = Net()
    model.fc2.to("meta")
    with refused(model, match=r"(?i)device"):
        prunus.trace(model, inputs())


def test_inputs_on_another_device() -> None:
    model = Net()
    with refused(model, match=r"(?i)device"):
        prunus.trace(model, inputs().to("meta"))


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.LazyLinear(12), nn.Linear(12, 3)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.fc2(self.fc1(x_BF))


def test_parameters_that_do_not_exist_yet() -> None:
    model = Lazy()
    with pytest.raises(prunus.PruningError, match=r"(?i)lazy|uninitiali[sz]ed|forward"):
        prunus.trace(model, inputs())
    assert isinstance(model.fc1.weight, nn.UninitializedParameter)


def test_a_failed_apply_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan made by hand that cuts a producer and not its consumer cannot be applied by halves."""
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    model(inputs()).sum().backward()
    optimizer.step()
    plan = prunus.trace(model, inputs()).plan(ratio=0.5)
    before = Snapshot.of(model)
    state = copy.deepcopy(optimizer.state_dict())

    def broken(self: nn.Module, x_BF: Tensor) -> Tensor:
        assert self.fc1.weight.shape[0] == 12, "this code cannot live with fewer units"
        return self.fc3(self.fc2(self.norm(self.fc1(x_BF)).relu()).relu())

    monkeypatch.setattr(Net, "forward", broken)
    with pytest.raises(prunus.PruningError):
        plan.apply(model, optimizer=optimizer)
    assert before.differences(model) == []
    assert str(state) == str(optimizer.state_dict())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
