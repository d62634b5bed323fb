"""Masks: the calls of `torch.nn.utils.prune`, with `import prunus.masks as prune`."""

from __future__ import annotations

from .across import global_unstructured
from .amounts import channel_norm as _compute_norm
from .amounts import check_amount as _validate_pruning_amount_init
from .amounts import check_amount_fits as _validate_pruning_amount
from .amounts import check_dim as _validate_pruning_dim
from .amounts import check_structured as _validate_structured_pruning
from .amounts import count_to_prune as _compute_nparams_toprune
from .checkpoints import load, packed_state_dict, plain_state_dict
from .coupled import from_plan
from .functions import (
    custom_from_mask,
    identity,
    is_pruned,
    l1_unstructured,
    ln_structured,
    random_structured,
    random_unstructured,
    remove,
)
from .given import CustomFromMask
from .gradual import Gradual
from .granularity import Blocks, NOfM, PerRow, blocks, n_of_m, per_row
from .method import BasePruningMethod, PruningContainer
from .methods import (
    Identity,
    L1Unstructured,
    LnStructured,
    RandomStructured,
    RandomUnstructured,
)
from .regrowth import Regrowth, RigL, SparseMomentum
from .report import Report, report
from .units import ByUnits, Channels, mean_norm

_FOR_OWN_METHODS = (
    _compute_norm,
    _compute_nparams_toprune,
    _validate_pruning_amount,
    _validate_pruning_amount_init,
    _validate_pruning_dim,
    _validate_structured_pruning,
)
"""Under the names that methods written for `torch.nn.utils.prune` borrow from it."""

__all__ = [
    "BasePruningMethod",
    "Blocks",
    "ByUnits",
    "Channels",
    "CustomFromMask",
    "Gradual",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "NOfM",
    "PerRow",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
    "Regrowth",
    "Report",
    "RigL",
    "SparseMomentum",
    "blocks",
    "custom_from_mask",
    "from_plan",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "load",
    "mean_norm",
    "n_of_m",
    "packed_state_dict",
    "per_row",
    "plain_state_dict",
    "random_structured",
    "random_unstructured",
    "remove",
    "report",
]
