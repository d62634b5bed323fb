"""What is next to what, and what is pruned with what, as matrices with one row for each node.

Of the model itself, `prunus.dependency.draw` makes pictures that can be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import PruningError
from ..cutting import GroupError
from ..node import Node

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..graph import DependencyGraph

Matrix = npt.NDArray[np.float64]
Path = str | os.PathLike[str]


def draw_computational_graph(
    DG: DependencyGraph,
    save_as: Path,
    title: str | None = "Computational Graph",
    figsize: tuple[float, float] = (16, 16),
    dpi: float = 200,
    cmap: Any = None,
) -> tuple[Figure, Axes]:
    """Draw which nodes of `DG.module2node` read the results of which, both ways.

    Args:
        DG: a graph that has been built.
        save_as: a file; its suffix says the format (.png, .svg, .pdf).
        title: above the matrix.
        figsize: inches.
        dpi: dots per inch.
        cmap: a colour map of matplotlib; blues by default.

    Returns:
        The figure and its axes; rows and columns are in the order of `DG.module2node`.

    Raises:
        PruningError: matplotlib is not installed.
    """
    nodes = list(DG.module2node.values())
    place = {node: index for index, node in enumerate(nodes)}
    matrix = np.zeros((len(nodes), len(nodes)))
    for node, other in _neighbours(nodes):
        matrix[place[node], place[other]] = matrix[place[other], place[node]] = 1
    return _drawn(matrix, save_as, title, figsize, dpi, cmap)


def draw_groups(
    DG: DependencyGraph,
    save_as: Path,
    title: str | None = "Group",
    figsize: tuple[float, float] = (16, 16),
    dpi: float = 200,
    cmap: Any = None,
) -> tuple[Figure, Axes]:
    """Draw which sides of layers are pruned together.

    Arguments and errors as `draw_computational_graph`; each node has two rows, its inputs and its outputs.
    Sides that cannot be pruned have empty ones.
    """
    nodes = list(DG.module2node.values())
    place = {node: 2 * index for index, node in enumerate(nodes)}
    matrix = np.zeros((2 * len(nodes), 2 * len(nodes)))
    for node in nodes:
        channels = DG.get_out_channels(node)
        if channels is None:
            continue
        prune = DG.functions_of(node).prune_out_channels
        try:
            group = DG.get_pruning_group(node.module, prune, range(channels))
        except GroupError:
            continue
        sides = {
            place[dep.target] + DG.is_out_channel_pruning_fn(dep.handler)
            for dep, _ in group
            if dep.target in place
        }
        for one, other in product(sides, sides):
            matrix[one, other] = 10
    return _drawn(matrix, save_as, title, figsize, dpi, cmap)


def draw_dependency_graph(
    DG: DependencyGraph,
    save_as: Path,
    title: str | None = "Group",
    figsize: tuple[float, float] = (16, 16),
    dpi: float = 200,
    cmap: Any = None,
) -> tuple[Figure, Axes]:
    """Draw which side of a layer makes which side of another one necessary.

    Arguments and errors as `draw_computational_graph`; each node has two rows, its inputs and its outputs.
    """
    nodes = list(DG.module2node.values())
    place = {node: 2 * index for index, node in enumerate(nodes)}
    matrix = np.zeros((2 * len(nodes), 2 * len(nodes)))
    for node in nodes:
        functions = DG.functions_of(node)
        both = functions.prune_out_channels == functions.prune_in_channels
        for other in node.inputs:
            matrix[place[node] + both, place[other] + (not both)] = 10
        for other in node.outputs:
            matrix[place[node] + 1, place[other]] = 10
        if both:
            matrix[place[node], place[node] + 1] = 10
    return _drawn(matrix, save_as, title, figsize, dpi, cmap)


def _neighbours(nodes: list[Node]) -> Iterator[tuple[Node, Node]]:
    for node in nodes:
        for other in (*node.inputs, *node.outputs):
            yield node, other


def _drawn(
    matrix: Matrix, save_as: Path, title: str | None, figsize: tuple[float, float], dpi: float, cmap: Any
) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PruningError(
            "matrices need matplotlib: pip install 'prunus[report]'; prunus.dependency.draw needs nothing"
        ) from error
    figure = Figure(figsize=figsize, layout="tight")
    axes = figure.subplots()
    axes.imshow(matrix, cmap="Blues" if cmap is None else cmap)
    if title is not None:
        axes.set_title(title)
    figure.savefig(save_as, dpi=dpi)
    return figure, axes
