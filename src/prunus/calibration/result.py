"""What a calibration knows: gradients of parameters, and statistics of what contractions read."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..graph.axes import Node


@dataclass(frozen=True, eq=False)
class Read:
    """Statistics of a tensor that a contraction reads along an axis, over samples and positions.

    Attributes:
        mean_abs: `E|a|`; mean_square: `E[a^2]`; zeros: the share of entries that are zero. Each is a
            float64 vector of shape (units,) on the CPU.
    """

    mean_abs: Tensor
    mean_square: Tensor
    zeros: Tensor


@dataclass(frozen=True, eq=False)
class Calibration:
    """Made by `prunus.calibrate`, which also keeps it as `graph.calibration`.

    Attributes:
        samples: how many samples went through the model; batches: in how many batches.
        loss: the mean of the losses over samples; None without a loss.
        gradients: by parameter name, the mean of the samples' gradients, of the parameter's shape, on its
            device, in float32 or wider. Empty without a loss.
        squared_gradients: by parameter name, the mean of the squares of single samples' gradients. Empty
            unless `per_sample` was asked for.
        unit_squares: for each prunable axis, `E[(sum w * g_i)^2]` over the weights of each unit, with the
            gradient `g_i` of one sample: float64, shape (units,), on the CPU. Empty like the former.
        activations: for each axis, what its contractions read along it, by the parameter that they multiply
            it with (or the line of code, where two activations are multiplied).
        input_squares: by parameter name, the dimension that is summed over and `E[x^2]` of the input along
            it, on the parameter's device.
        second_moments: by parameter name and the dimension that is summed over, `E[x x^T]` of the input
            along it over samples and positions: float64, shape (G, C, C) for the C inputs of each of G
            groups (one, but for grouped convolutions), on the parameter's device. Weights that read the
            same tensor may share it. Empty unless `covariance` was asked for.
    """

    samples: int
    batches: int
    loss: float | None = None
    gradients: dict[str, Tensor] = field(default_factory=dict)
    squared_gradients: dict[str, Tensor] = field(default_factory=dict)
    unit_squares: dict[Node, Tensor] = field(default_factory=dict)
    activations: dict[Node, dict[str, Read]] = field(default_factory=dict)
    input_squares: dict[str, tuple[int, Tensor]] = field(default_factory=dict)
    second_moments: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def input_sizes(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """`sqrt(E[x^2])` of what each entry of a weight is multiplied with, expanded to the weight's shape.

        None for parameters that no input is contracted with.
        """
        if name not in self.input_squares:
            return None
        dim, squares = self.input_squares[name]
        sizes = squares.sqrt()
        if len(sizes) == shape[dim]:
            return sizes.reshape([-1 if d == dim else 1 for d in range(len(shape))]).expand(shape)
        # A grouped convolution: rows of group g are multiplied with the channels of group g.
        groups = len(sizes) // shape[dim]
        rows = sizes.reshape(groups, shape[dim]).repeat_interleave(shape[0] // groups, 0)
        return rows.reshape(*rows.shape, *[1] * (len(shape) - 2)).expand(shape)

    def __repr__(self) -> str:
        parts = [f"{self.samples} samples in {self.batches} batches"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4g}")
        if self.gradients:
            parts.append(f"gradients of {len(self.gradients)} parameters")
        if self.squared_gradients:
            parts.append("squares of single samples' gradients")
        if self.activations:
            parts.append(f"activations of {len(self.activations)} axes")
        if self.second_moments:
            parts.append(f"second moments of the inputs of {len(self.second_moments)} parameters")
        return f"<Calibration: {', '.join(parts)}>"
