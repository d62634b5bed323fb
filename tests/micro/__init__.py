"""A registry of micro-networks, one coupling pattern each."""

from . import (  # noqa: F401
    attention,
    connections,
    convolution,
    experts,
    gates,
    idioms,
    layout,
    norms,
    recurrent,
    scales,
    slices,
    transformers,
    traps,
    unusual,
    windows,
    wrappers,
)
from ._registry import REGISTRY, Built, Micro, doubled, randomise

__all__ = ["REGISTRY", "Built", "Micro", "doubled", "randomise"]
