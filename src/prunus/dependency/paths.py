"""The paths under which Torch-Pruning has its modules, for scripts that import names from those."""

from __future__ import annotations

import sys
from types import ModuleType

from . import edge, functions, graph, group, importance, node, pruner, utils
from .pruner import arguments
from .utils import counting


def lay(package: ModuleType) -> None:
    """Make each path importable, and an attribute of the module that it lies in."""
    paths = {
        "dependency": package,
        "dependency.dependency": edge,
        "dependency.graph": graph,
        "dependency.group": group,
        "dependency.node": node,
        "function": functions,
        "pruner.function": functions,
        "pruner.importance": importance,
        "pruner.algorithms": pruner,
        "pruner.algorithms.base_pruner": pruner,
        "pruner.algorithms.batchnorm_scale_pruner": pruner,
        "pruner.algorithms.group_norm_pruner": pruner,
        "pruner.algorithms.growing_reg_pruner": pruner,
        "pruner.algorithms.metapruner": pruner,
        "pruner.algorithms.scheduler": arguments,
        "utils.op_counter": counting,
        "utils.utils": utils,
    }
    for path, module in paths.items():
        name = f"{package.__name__}.{path}"
        owner, _, key = name.rpartition(".")
        sys.modules[name] = module
        if not hasattr(sys.modules[owner], key):
            setattr(sys.modules[owner], key, module)
