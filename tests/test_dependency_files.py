"""State dicts and files under Torch-Pruning's names, and the paths that scripts import from."""

from __future__ import annotations

import importlib
import io
from typing import Any

import pytest
import torch
from torch import nn

import dependency_scripts as scripts
import prunus.dependency as tp
from prunus.errors import PruningError

IMAGE = torch.randn(1, 3, 16, 16)


def pruned() -> nn.Module:
    torch.manual_seed(0)
    model = scripts.SmallViT().eval()
    model.customised, model.note = 8, "mine"
    scripts.magnitude(tp, model, IMAGE, {})
    return model


def through_a_file(obj: Any) -> Any:
    file = io.BytesIO()
    torch.save(obj, file)
    file.seek(0)
    return torch.load(file)  # as it is by default: nothing in the file is run


def test_a_state_dict_makes_the_pruned_model_of_a_fresh_one() -> None:
    model = pruned()
    fresh = scripts.SmallViT().eval()
    loaded = tp.load_state_dict(fresh, state_dict=through_a_file(tp.state_dict(model)))
    assert loaded is fresh
    assert fresh.customised == 8
    assert fresh.note == "mine"
    assert torch.equal(fresh(IMAGE), model(IMAGE))
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))
    assert not fresh.training
    fresh(IMAGE).sum().backward()


def test_files(tmp_path: Any) -> None:
    model = pruned()
    tp.save({"model": tp.state_dict(model), "epoch": 3}, tmp_path / "pruned.pth")
    found = tp.load(tmp_path / "pruned.pth", map_location="cpu")
    assert found["epoch"] == 3
    assert torch.equal(tp.load_state_dict(scripts.SmallViT().eval(), found["model"])(IMAGE), model(IMAGE))


@pytest.mark.parametrize("wrong", [{"weight": torch.ones(2)}, {}, {"../up": torch.ones(2).byte()}, [1]])
def test_what_is_no_state_dict_changes_nothing(wrong: Any) -> None:
    fresh = scripts.SmallViT()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(PruningError):
        tp.load_state_dict(fresh, wrong)
    with pytest.raises(PruningError):
        tp.load_state_dict(nn.Linear(2, 2), tp.state_dict(pruned()))
    damaged = tp.state_dict(pruned())
    damaged["attributes.json"] = torch.tensor(list(b'{"": {"forward": []}}'), dtype=torch.uint8)
    with pytest.raises(PruningError, match=r"attributes\.json"):
        tp.load_state_dict(fresh, damaged)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_whole_modules_are_neither_written_nor_read(tmp_path: Any) -> None:
    with pytest.raises(PruningError, match="state_dict"):
        tp.save({"net": [nn.Linear(2, 2)]}, tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()
    torch.save(nn.Linear(2, 2), tmp_path / "b.pth")
    with pytest.raises(PruningError, match="whole module"):
        tp.load(tmp_path / "b.pth")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", "MagnitudePruner MetaPruner BasePruner GroupNormPruner BNScalePruner GrowingRegPruner Group"),
        ("dependency", "DependencyGraph Group Dependency Node"),
        ("function", "prune_conv_out_channels BasePruningFunc PrunerBox"),
        ("pruner.function", "prune_linear_in_channels LinearPruner"),
        ("pruner.importance", "MagnitudeImportance GroupNormImportance TaylorImportance"),
        ("pruner.algorithms", "MetaPruner BasePruner"),
        ("pruner.algorithms.scheduler", "linear_scheduler"),
        ("ops", "OPTYPE module2type"),
        ("utils", "count_ops_and_params count_params print_tool flatten_as_list benchmark"),
        ("utils", "draw_computational_graph draw_groups draw_dependency_graph"),
        ("utils.benchmark", "measure_latency measure_memory measure_fps measure_throughput"),
        ("utils.op_counter", "count_ops_and_params"),
        ("utils.utils", "count_params print_tool"),
        ("dependency.graph", "DependencyGraph"),
        ("dependency.node", "Node"),
        ("pruner.algorithms.base_pruner", "BasePruner"),
        ("pruner.algorithms.group_norm_pruner", "GroupNormPruner"),
        ("serialization", "save load state_dict load_state_dict"),
    ],
)
def test_paths_of_the_peer(path: str, names: str) -> None:
    ours = importlib.import_module(".".join(filter(None, ["prunus.dependency", path])))
    reached: Any = tp
    for part in filter(None, path.split(".")):
        reached = getattr(reached, part)
    assert reached is ours
    for name in names.split():
        assert hasattr(ours, name)
    theirs: Any = pytest.importorskip("torch_pruning")
    for part in filter(None, path.split(".")):
        theirs = getattr(theirs, part)
    for name in names.split():
        assert hasattr(theirs, name) or name in ("GroupNormImportance", "TaylorImportance")
