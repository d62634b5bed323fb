"""Block influence against its formula, and a pass over data that leaves the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from hugging_face import tiny_llama
from prunus.select.influence import block_influence
from snapshots import Snapshot
from test_blocks import Residual, network


def by_formula(xs: list[Tensor], ys: list[Tensor], dim: int) -> float:
    """1 - E[x.y / |x||y|], in float64, one vector at a time."""
    cosines = []
    for x, y in zip(xs, ys, strict=True):
        rows = zip(
            x.double().movedim(dim, -1).flatten(0, -2),
            y.double().movedim(dim, -1).flatten(0, -2),
            strict=True,
        )
        cosines += [float((a * b).sum() / (a.norm() * b.norm())) for a, b in rows]
    return 1 - sum(cosines) / len(cosines)


def test_against_the_formula() -> None:
    model = network(Residual(), Residual())
    loader = [torch.randn(3, 5), torch.randn(2, 5), torch.randn(4, 5)]
    graph = prunus.trace(model, loader[0])
    found = {block.name: value for block, value in block_influence(graph, loader).items()}
    with torch.no_grad():
        first = [model[0](x) for x in loader]
        second = [model[1](x) for x in first]
        third = [model[2](x) for x in second]
    assert found["1"] == pytest.approx(by_formula(first, second, -1), abs=1e-9)
    assert found["2"] == pytest.approx(by_formula(second, third, -1), abs=1e-9)
    taken = {block.name: value for block, value in block_influence(graph, loader, batches=2).items()}
    assert taken["1"] == pytest.approx(by_formula(first[:2], second[:2], -1), abs=1e-9)


def test_channels_are_the_features_of_images_also_where_blocks_write_in_place() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x += self.conv(x)
            return x.relu_()

    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Block(), Block(), nn.Flatten(), nn.Linear(96, 2))
    x = torch.randn(2, 3, 6, 6)
    graph = prunus.trace(model, x)
    found = block_influence(graph, [(x, torch.zeros(2))])
    with torch.no_grad():
        before = model[1](model[0](x)).clone()
        after = (before + model[2].conv(before)).relu()
    assert found[graph.blocks[0]] == pytest.approx(by_formula([before], [after], 1), abs=1e-9)


def test_a_block_that_does_nothing_goes_first() -> None:
    model = network(Residual(), Residual(), Residual())
    with torch.no_grad():
        for parameter in model[2].down.parameters():
            parameter.zero_()
    graph = prunus.trace(model, torch.randn(2, 5))
    influence = block_influence(graph, [torch.randn(8, 5)])
    assert influence[graph.blocks[1]] == pytest.approx(0, abs=1e-12)
    assert graph.plan(depth=1, block_importance="influence").blocks == ["2"]
    assert graph.plan(depth=1, block_importance=influence).blocks == ["2"]
    swapped = {block: -value for block, value in influence.items()}
    assert graph.plan(depth=2, block_importance=swapped).blocks == ["1", "3"]


def test_llama_with_keyword_batches_and_another_length() -> None:
    graph = prunus.trace(tiny_llama(), torch.randint(0, 31, (2, 7)))
    loader = [{"input_ids": torch.randint(0, 31, (1, 9))}]
    found = block_influence(graph, loader)
    assert {block.name for block in found} == {block.name for block in graph.blocks}
    assert all(0 < value < 2 for value in found.values())
    layers = [graph.model.model.layers[n] for n in (0, 1)]
    states: list[Tensor] = []
    handles = [m.register_forward_hook(lambda _, a, o: states.extend([a[0], o])) for m in layers]
    with torch.no_grad():
        graph.model.eval()(**loader[0])
    for handle in handles:
        handle.remove()
    values = {block.name: value for block, value in found.items()}
    assert values["model.layers.1"] == pytest.approx(by_formula([states[2]], [states[3]], -1), abs=1e-9)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(network(Residual(), Residual(tail=nn.Dropout())), nn.BatchNorm1d(3)).train()
    graph = prunus.trace(model, torch.randn(2, 5))
    loader = [torch.randn(4, 5)] * 3
    before = Snapshot.of(model)
    block_influence(graph, loader)
    assert not before.differences(model, identity=True, randomness=True)


@pytest.mark.parametrize(
    ("loader", "options", "error"),
    [
        ([], {}, prunus.errors.InputError),
        (torch.randn(2, 5), {}, prunus.errors.ArgumentTypeError),
        ([torch.randn(2, 4)], {}, prunus.errors.TraceError),
        ([torch.full((2, 5), float("nan"))], {}, prunus.errors.InputError),
        ([torch.randn(2, 5)], {"batches": 0}, prunus.errors.InputError),
    ],
)
def test_bad_input(loader: Any, options: Any, error: type[Exception]) -> None:
    model = network(Residual())
    graph = prunus.trace(model, torch.randn(2, 5))
    before = Snapshot.of(model)
    with pytest.raises(error):
        block_influence(graph, loader, **options)
    assert not before.differences(model, identity=True, randomness=True)
    assert graph.influence is None


def test_no_graph_no_blocks_no_values() -> None:
    with pytest.raises(prunus.errors.ArgumentTypeError, match="trace"):
        block_influence(network(Residual()), [torch.randn(2, 5)])  # type: ignore[arg-type]
    with pytest.raises(prunus.errors.InputError, match="no block"):
        block_influence(prunus.trace(nn.Linear(5, 3), torch.randn(2, 5)), [torch.randn(2, 5)])
    with torch.device("meta"):
        graph = prunus.trace(network(Residual()), torch.randn(2, 5))
    with pytest.raises(prunus.errors.InputError, match="meta"):
        block_influence(graph, [torch.randn(2, 5)])
