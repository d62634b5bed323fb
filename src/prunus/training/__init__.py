"""Training around pruning: schedules, pruning in steps, a loop, sparse training, sensitivity.

`prunus.training.lightning` and `prunus.training.transformers` hold callbacks; they import those packages,
and nothing else here does.
"""

from __future__ import annotations

from .curves import Curve, Point, Sensitivity
from .epochs import Epochs
from .fitting import fit
from .group_lasso import GroupLasso
from .growing import GrowingRegularization
from .history import Fitted, Step
from .schedules import Schedule, agp, exponential, linear, one_shot
from .sensitivities import sensitivity
from .slimming import BatchNormL1
from .stepping import IterativePruning

__all__ = [
    "BatchNormL1",
    "Curve",
    "Epochs",
    "Fitted",
    "GroupLasso",
    "GrowingRegularization",
    "IterativePruning",
    "Point",
    "Schedule",
    "Sensitivity",
    "Step",
    "agp",
    "exponential",
    "fit",
    "linear",
    "one_shot",
    "sensitivity",
]
