"""Make every weight of a freshly initialised model count.

Initialisers leave zeros, ones and layer scales of 1e-6 behind. A comparison against the zeroed original is
blind to what such a constant hides: a bias of zero that was cut wrongly, a residual branch scaled by 1e-6,
a running mean of zero. So constants are replaced by random values of an ordinary size. Weights drawn below
He's sqrt(2 / fan-in) are scaled up to it: under smaller ones the signal dies out before it reaches the output
of a deep network, and attention that sees only noise of 0.02 is uniform whatever its head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALL = 1e-3


def randomise_constants(model: nn.Module) -> None:
    """Replace constant parameters and batch-norm statistics of `model` in place, from torch's random state.

    Weights that are small for their fan-in are scaled up.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() > 0:
                _replace_constant(parameter)
                _lift_small_matrix(parameter)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))


def _replace_constant(parameter: Tensor) -> None:
    value = float(parameter.flatten()[0])
    if not bool((parameter == value).all()):
        return
    if parameter.numel() == 1:
        # A lone zero or tiny scalar is a gate on a whole branch (skip-init, ReZero): open it.
        if abs(value) < SMALL:
            parameter.fill_(0.5)
    elif value == 0.0:
        fan_in = parameter.numel() // parameter.shape[0] if parameter.ndim > 1 else 100
        parameter.copy_(torch.randn_like(parameter) / max(fan_in, 1) ** 0.5)
    elif abs(value) < SMALL:
        parameter.copy_(0.1 + 0.4 * torch.rand_like(parameter))
    else:
        parameter.mul_(0.5 + torch.rand_like(parameter))


def _lift_small_matrix(parameter: Tensor) -> None:
    if parameter.ndim < 2 or parameter.numel() <= parameter.shape[0]:
        return
    target = (2 * parameter.shape[0] / parameter.numel()) ** 0.5
    spread = float(parameter.std())
    if 0.0 < spread < target:
        parameter.mul_(target / spread)
