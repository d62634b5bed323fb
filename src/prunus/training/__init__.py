"""Training around pruning: schedules, pruning in steps, a loop, sparse training, sensitivity.

`prunus.training.lightning` and `prunus.training.transformers` hold callbacks; they import those packages,
and nothing else here does.
"""

from __future__ import annotations

from .epochs import Epochs
from .fitting import fit
from .history import Fitted, Step
from .schedules import Schedule, agp, exponential, linear, one_shot
from .stepping import IterativePruning

__all__ = [
    "Epochs",
    "Fitted",
    "IterativePruning",
    "Schedule",
    "Step",
    "agp",
    "exponential",
    "fit",
    "linear",
    "one_shot",
]
