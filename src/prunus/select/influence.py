"""Block influence: how much a block changes what passes through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentTypeError, InputError, TraceError
from ..graph.attributes import unchanged_attributes
from ..graph.blocks import Block
from ..graph.graph import Graph
from ..graph.state import mode
from ..surgery.blocks import find_input, follow


def block_influence(graph: Graph, loader: Iterable[Any], batches: int | None = None) -> dict[Block, float]:
    """Measure how much each removable block changes its input: `1 - E[cos(x, y)]`.

    `x` is a block's input and `y` its output, as vectors of features at each position; the mean runs over
    all positions of all samples. Of a branch, `y` is `x` plus what it adds to its own input. A vector of
    zeros that stays one counts as unchanged. The result is also kept as `graph.influence`, where
    `graph.plan(depth=..., block_importance="influence")` finds it.

    Men et al.: ShortGPT: Layers in Large Language Models are More Redundant Than You Expect, 2024,
    arXiv:2403.03853, eq. 1.

    Args:
        graph: from `prunus.trace`; the model runs in eval mode and is left as it was.
        loader: yields batches, each a tensor; or `(inputs, target)`, where inputs is a tensor, a tuple of
            positional inputs or a dict of keyword inputs; or a dict of keyword inputs.
        batches: how many batches to take; all of them where None.

    Raises:
        ArgumentTypeError: a graph or loader of the wrong type.
        InputError: an empty loader, a model without values or without removable blocks, or activations
            that are not finite.
        TraceError: the model fails on a batch; it is named by its position.
    """
    from ..calibration.batches import read

    _check(graph, loader, batches)
    blocks = [block for block in graph.blocks if block.removable]
    if not blocks:
        raise InputError("the model has no block that can be removed; graph.blocks gives the reasons")
    device = next((item.tensor.device for item in graph.held), torch.device("cpu"))
    sums = {block: torch.zeros(2, dtype=torch.float64) for block in blocks}
    count = 0
    with _unchanged(graph), _watching(graph, sums), torch.no_grad():
        for place, item in enumerate(loader):
            batch = read(item, place, device)
            try:
                graph.model(*batch.args, **batch.kwargs)
            except Exception as error:
                raise TraceError(
                    f"{type(graph.model).__name__} fails on batch {place} of the loader: "
                    f"{type(error).__name__}: {error}"
                ) from error
            count += 1
            if count == batches:
                break
    if not count:
        raise InputError("the loader is empty: it yielded no batch")
    found = {}
    for block, (total, positions) in ((block, pair.tolist()) for block, pair in sums.items()):
        if not positions or not abs(total) < float("inf"):
            raise InputError(f"the activations of block {block.name!r} are not finite or it was not called")
        found[block] = 1.0 - total / positions
    graph.influence = found
    return found


def _check(graph: Any, loader: Any, batches: Any) -> None:
    if not isinstance(graph, Graph):
        raise ArgumentTypeError(
            f"graph must be what prunus.trace returns, got {type(graph).__name__}: trace the model first"
        )
    if not isinstance(loader, Iterable) or isinstance(loader, Tensor | dict | str):
        raise ArgumentTypeError(
            f"loader must yield batches, got {type(loader).__name__}: pass a DataLoader or a list of batches"
        )
    if batches is not None and (type(batches) is not int or batches < 1):
        raise InputError(f"batches={batches!r} must be a whole number of at least 1, or None")
    if any(item.tensor.is_meta for item in graph.held):
        raise InputError("the model is on the meta device and has no values: give it weights first")
    graph.check_current()


@contextmanager
def _unchanged(graph: Graph) -> Iterator[None]:
    """Eval mode; random state, attributes and buffers as before when it ends."""
    buffers = [(b, b.detach().clone()) for b in graph.model.buffers()]
    devices = sorted({b.tensor.device.index or 0 for b in graph.held if b.tensor.device.type == "cuda"})
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(unchanged_attributes(graph.model))
        stack.enter_context(mode(graph.model, False))
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in buffers:
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


@contextmanager
def _watching(graph: Graph, sums: dict[Block, Tensor]) -> Iterator[None]:
    """Hooks that add up the cosines of every call; inputs are copied, since blocks may write to them."""
    handles = []

    def watch(block: Block, module: nn.Module) -> None:
        before: list[Tensor] = []

        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            before.append(find_input(block.main, args, kwargs).clone())

        def leave(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            x, y = before.pop(), follow(output, block.output)
            sums[block] += _cosines(x, x + y if block.kind == "branch" else y, block.features)

        handles.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))

    try:
        for block in sums:
            watch(block, graph.module_names[block.name])
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cosines(x: Tensor, y: Tensor, features: tuple[int, ...]) -> Tensor:
    """The sum of cosines over positions, and their number."""
    x, y = x.double(), y.double()
    dot = (x * y).sum(features)
    norms = x.square().sum(features).sqrt() * y.square().sum(features).sqrt()
    same = (x == y).all(features[0])
    cosines = torch.where(norms == 0, same.to(dot.dtype), dot / norms)
    return torch.stack([cosines.sum(), torch.full_like(cosines.sum(), cosines.numel())]).cpu()
