"""Prunus: prune neural networks, physically, and prove that the smaller one is right."""

from __future__ import annotations

from . import importance, latency, masks, training
from .api import prune
from .calibration import Calibration, calibrate
from .checkpoint import load, save
from .compaction import compact
from .errors import PruningError
from .graph.blocks import Block
from .graph.graph import Axis, Graph
from .graph.trace import trace
from .plan import Plan
from .select.budget import Budget
from .select.influence import block_influence
from .training import fit, sensitivity

__version__ = "0.1.0"

__all__ = [
    "Axis",
    "Block",
    "Budget",
    "Calibration",
    "Graph",
    "Plan",
    "PruningError",
    "__version__",
    "block_influence",
    "calibrate",
    "compact",
    "fit",
    "importance",
    "latency",
    "load",
    "masks",
    "prune",
    "save",
    "sensitivity",
    "trace",
    "training",
]
