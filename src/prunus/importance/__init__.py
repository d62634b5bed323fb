"""Importance: how much each unit of each axis matters.

Each importance is one small file with one `register`. It gives every member of an axis a score per unit,
reduces those of coupled members to one, and normalises them so that axes can be ranked together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..graph.axes import Node
from ..graph.graph import Graph
from .activation import ActivationMean, PercentageOfZeros
from .base import REGISTRY, Importance, Scorer, register, resolve
from .batch_norm import BatchNormScale
from .cosine import CosineRedundancy
from .fisher import ChannelOptimalBrainDamage, GroupFisher, OptimalBrainDamage
from .geometric_median import GeometricMedian
from .lamp import Lamp
from .magnitude import Magnitude
from .normaliser import NORMALISERS, Normaliser
from .optimal_brain_compression import OptimalBrainCompression
from .random import Random
from .reduction import REDUCTIONS
from .scoring import Members, Scoring
from .taylor import Taylor, TaylorElement
from .wanda import Wanda


def names() -> list[str]:
    """The registered importances, in alphabetical order."""
    return sorted(REGISTRY)


def scores(graph: Graph, nodes: list[Node], importance: str | Scorer, seed: int | None) -> dict[Node, Tensor]:
    """One score per unit of each axis, float64 on the CPU: higher stays longer.

    An axis that an `Importance` has no data for (one without batch norm under "bn_scale", say) is ranked by
    the l2 magnitude of its weights, scaled so that its mean before normalisation is that of the other axes:
    it can still be cut, and a budget still be reached. On the meta device there are no weights to rank by,
    and units are taken in order.

    Args:
        importance: a registered name, an `Importance`, or a function from a `Scoring` to a float vector of
            shape (units,) for each axis, which is normalised by its mean.

    Raises:
        InputError: an unknown importance, data that it needs and that is missing, or scores that are not
            finite; the parameter is named.
        ArgumentTypeError: an importance that is no name, importance or function.
    """
    scorer = resolve(importance)
    scoring = Scoring(graph, nodes, seed)
    normaliser = scorer.normaliser if isinstance(scorer, Importance) else NORMALISERS["mean"]
    found = _with_magnitude(scorer, scoring) if isinstance(scorer, Importance) else scorer(scoring)
    out = {}
    for node in nodes:
        raw = found.get(node)
        if raw is None or raw.shape != (node.size,):
            raise InputError(
                f"the importance gave no score of shape ({node.size},) for axis {graph.by_node[node].name!r}"
            )
        raw = raw.detach().to("cpu", torch.float64)
        if not torch.isfinite(raw).all():
            raise _not_finite(graph, node, scoring)
        out[node] = normaliser(raw)
        if out[node].shape != raw.shape or not torch.isfinite(out[node]).all():
            raise InputError(
                f"the normaliser gave no finite scores of shape ({node.size},) "
                f"for axis {graph.by_node[node].name!r}"
            )
    return out


def _with_magnitude(importance: Importance, scoring: Scoring) -> dict[Node, Tensor]:
    """An importance's own scores, and magnitudes on their scale for the axes that it has no data for."""
    weights = scoring.parameters().values()
    if importance.reads_weights and weights and all(tensor.is_meta for tensor in weights):
        return {node: torch.ones(node.size, dtype=torch.float64) for node in scoring.nodes}
    found = importance(scoring)
    missing = [node for node in scoring.nodes if node not in found]
    if missing:
        instead = Magnitude()(Scoring(scoring.graph, missing, scoring.seed))
        level = 1.0
        if found:
            level = float(torch.stack([units.double().mean() for units in found.values()]).mean())
        for node, units in instead.items():
            found[node] = units * (level / units.mean()) if level > 0 and units.mean() > 0 else units
    return found


def _not_finite(graph: Graph, node: Node, scoring: Scoring) -> InputError:
    gradients = scoring.gradients()
    for name, _ in graph.by_node[node].members:
        for what, values in (("weights", scoring.parameters()[name]), ("gradients", gradients.get(name))):
            if values is not None and not torch.isfinite(values).all():
                return InputError(
                    f"parameter {name!r} has {what} that are NaN or infinite, so units cannot be ranked: "
                    "repair the model, or use importance='random'"
                )
    return InputError(f"scores of axis {graph.by_node[node].name!r} are not finite")


__all__ = [
    "NORMALISERS",
    "REDUCTIONS",
    "ActivationMean",
    "BatchNormScale",
    "ChannelOptimalBrainDamage",
    "CosineRedundancy",
    "GeometricMedian",
    "GroupFisher",
    "Importance",
    "Lamp",
    "Magnitude",
    "Members",
    "Normaliser",
    "OptimalBrainCompression",
    "OptimalBrainDamage",
    "PercentageOfZeros",
    "Random",
    "Scorer",
    "Scoring",
    "Taylor",
    "TaylorElement",
    "Wanda",
    "names",
    "register",
    "scores",
]
