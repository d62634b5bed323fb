"""Blocks that were removed: the way back, the optimizer, copies and checkpoints."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from hugging_face import tiny_llama
from prunus.plan import history
from prunus.surgery.blocks import Skip
from snapshots import Snapshot
from test_blocks import Residual, network
from test_depth_choice import graded

# --- the way back, the optimizer, copies ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {"amsgrad": True})]
)
def test_optimizer(kind: Any, options: dict[str, Any]) -> None:
    model, x = graded()
    rest = [*model[:2].parameters(), *model[3:].parameters()]
    optimizer = kind([{"params": model[2].parameters()}, {"params": rest}], lr=0.01, **options)
    model(x).square().sum().backward()
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    groups = [list(map(id, group["params"])) for group in optimizer.param_groups]
    plan = prunus.trace(model, x).plan(depth=["2"])
    plan.apply(model, optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} == held
    plan.undo(model)
    assert [list(map(id, group["params"])) for group in optimizer.param_groups] == groups
    after = optimizer.state_dict()
    assert json.dumps(before["param_groups"]) == json.dumps(after["param_groups"])
    for number, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(after["state"][number][key]))
    plan.apply(model, optimizer)
    model(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("order", [({"depth": ["2"]}, {"ratio": 0.5}), ({"ratio": 0.5}, {"depth": ["2"]})])
def test_the_later_plan_has_to_be_undone_first(order: tuple[dict[str, Any], dict[str, Any]]) -> None:
    model, x = graded()
    before = Snapshot.of(model)
    plans = [prunus.prune(model, x, **options) for options in order]
    with pytest.raises(prunus.errors.PlanError, match="undo the later plan first"):
        plans[0].undo(model)
    for plan in reversed(plans):
        plan.undo(model)
    assert not before.differences(model, identity=True)


def test_a_mode_that_changed_meanwhile_is_followed() -> None:
    model, x = graded()
    plan = prunus.trace(model, x).plan(depth=["2"])
    plan.apply(model)
    model.train()
    plan.undo(model)
    assert all(module.training for module in model.modules())


def test_a_failure_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = graded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = prunus.trace(model, x).plan(depth=2, ratio=0.5)
    before = Snapshot.of(model)

    def fail(*_: Any) -> None:
        raise prunus.errors.SurgeryError("made up")

    monkeypatch.setattr("prunus.plan.verify", fail)
    with pytest.raises(prunus.errors.SurgeryError):
        plan.apply(model, optimizer)
    assert not before.differences(model, identity=True)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_skips_can_be_copied_and_pickled_and_say_what_they_replace() -> None:
    model, x = graded()
    prunus.prune(model, x, depth=1)
    assert isinstance(model[2], Skip)
    assert "Residual" in repr(model[2])
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    other = pickle.loads(pickle.dumps(model[2]))
    assert other(x) is x
    assert not list(model[2].parameters())
    with pytest.raises(prunus.PruningError, match="'x'"):
        model[2]()


def test_history_and_text_name_the_blocks() -> None:
    model, x = graded()
    plan = prunus.prune(model, x, depth=1)
    assert history(model)[-1]["blocks"] == ["2"]
    assert "1 blocks removed" in str(plan)


# --- checkpoints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [True, False])
def test_save_and_load(tmp_path: Path, factory: bool) -> None:
    def build() -> nn.Module:
        return network(Residual(), Residual(), Residual())

    model, x = build(), torch.randn(2, 5)
    prunus.prune(model, x, depth=["2"], ratio=0.4)
    prunus.save(model, tmp_path)
    loaded = prunus.load(build if factory else build(), tmp_path)
    assert isinstance(loaded[2], Skip)
    assert torch.equal(loaded(x), model(x))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert [type(m) for m in loaded.modules()] == [type(m) for m in model.modules()]
    assert history(loaded) == history(model)
    prunus.prune(loaded, x, depth=1)
    assert isinstance(prunus.load(loaded, _saved(loaded, tmp_path / "again"))[2], Skip)


def _saved(model: nn.Module, folder: Path) -> Path:
    prunus.save(model, folder)
    return folder


def test_llama_is_saved_and_loaded(tmp_path: Path) -> None:
    model, ids = tiny_llama(num_hidden_layers=3).eval(), torch.randint(0, 31, (2, 7))
    prunus.prune(model, ids, depth=["model.layers.0", "model.layers.2.mlp"], ratio=0.25)
    prunus.save(model, tmp_path)
    loaded = prunus.load(lambda: tiny_llama(num_hidden_layers=3), tmp_path).eval()
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_model_that_does_not_fit_is_left_as_it_was(tmp_path: Path) -> None:
    model, x = graded()
    prunus.prune(model, x, depth=["2"])
    prunus.save(model, tmp_path)
    for other in (network(Residual()), network(*(Residual(width=8) for _ in range(4)), nn.Linear(8, 8))):
        before = Snapshot.of(other)
        with pytest.raises(prunus.errors.CheckpointError):
            prunus.load(other, tmp_path)
        assert not before.differences(other, identity=True)


@pytest.mark.parametrize(
    "template",
    [
        [], "input", ["run", "0", "x"], ["input"], ["input", "-1", "x"], ["input", "", ""], ["none", "x"],
        ["input", "0", 1], ["tuple", "x"], ["dict", ["a"]], ["input", "0", "x", "__class__"], None, 3,
    ],
)  # fmt: skip
def test_damaged_templates_are_refused(template: Any) -> None:
    from prunus.surgery.blocks import from_data

    with pytest.raises(prunus.errors.CheckpointError, match="damaged"):
        from_data(template)
    deep: Any = ["none"]
    for _ in range(40):
        deep = ["tuple", deep]
    with pytest.raises(prunus.errors.CheckpointError):
        from_data(deep)
