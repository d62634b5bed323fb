"""Wanda: weights times the size of what they are multiplied with."""

from __future__ import annotations

from dataclasses import dataclass

from . import additive
from .activation import needed_activations
from .base import Importance, register
from .scoring import Members, Scoring


@register("wanda")
@dataclass(frozen=True, kw_only=True)
class Wanda(Importance):
    """`sum |w_ij| * sqrt(E[x_j^2])` over the unit's weights, `x_j` being the input that `w_ij` multiplies.

    Sun, Liu, Bair, Kolter: A Simple and Effective Pruning Approach for Large Language Models, 2023,
    arXiv:2306.11695, eq. 1, summed over the weights of a unit. Members are the weights of convolutions and
    matrix products, those that make the unit and those that read it; and biases, whose input is one. An
    axis without any is ranked by magnitude.

    Attributes:
        biases: whether what is only ever added (biases) counts.

    Raises:
        InputError: the graph has no calibration with activations.
    """

    biases: bool = False

    def members(self, scoring: Scoring) -> Members:
        calibration = needed_activations(scoring, "wanda")
        weights = {
            name: size
            for name in scoring.parameters()
            if (size := calibration.input_sizes(name, scoring.graph.shapes[name])) is not None
        }
        if self.biases:
            for name, tensor in scoring.parameters().items():
                if name not in weights and additive.is_added(scoring.graph.values[name]):
                    weights[name] = tensor.new_ones(()).expand(tensor.shape)
        return scoring.sum_members(lambda weight, size: weight.abs() * size, weights)
