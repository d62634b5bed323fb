"""First-order Taylor: the change of the loss when a unit is removed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..graph.axes import Node
from . import Scoring, register


@register("taylor")
def taylor(scoring: Scoring) -> dict[Node, Tensor]:
    """`|sum w * dL/dw|` over every weight that belongs to the unit; gradients must be on the model.

    Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network Pruning, 2019,
    arXiv:1906.10771, eq. 8, in its group form.

    Raises:
        InputError: no parameter has a gradient.
    """
    if all(tensor.grad is None for tensor in scoring.parameters().values()):
        raise InputError("importance 'taylor' needs gradients: call loss.backward() on some batches first")

    def entries(weight: Tensor, grad: Tensor | None) -> Tensor:
        return torch.zeros_like(weight) if grad is None else weight * grad

    return {node: total.abs() for node, total in scoring.sum_units(entries).items()}
