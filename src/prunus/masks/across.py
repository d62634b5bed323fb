"""One ranking over the parameters of many modules, whatever their devices and dtypes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as original

from ..errors import PruningError
from ..graph.axes import Node
from ..graph.graph import Graph
from .amounts import check_scores
from .coupled import coupled_leaves, mask_partners
from .errors import ArgumentTypeError, InputError, MethodError, PairsError
from .functions import Parameters
from .given import CustomFromMask
from .method import BasePruningMethod
from .parameters import checked_mask, checked_scores, current_mask, parameter_values
from .ranking import Ranked, lowest
from .reparametrize import MASK
from .units import ByUnits, Channels, mean_norm


@dataclass(frozen=True)
class Target:
    """A parameter to prune: where it is, its scores and its mask so far (bool; None if not masked)."""

    module: nn.Module
    name: str
    scores: Tensor
    mask: Tensor | None

    @property
    def label(self) -> str:
        return f"{type(self.module).__name__}.{self.name} of shape {tuple(self.scores.shape)}"


def global_unstructured(
    parameters: Parameters,
    pruning_method: Any,
    importance_scores: dict[tuple[nn.Module, str], Tensor] | None = None,
    *,
    coupled: Graph | None = None,
    **kwargs: Any,
) -> None:
    """Prune many parameters by one method, with what is pruned chosen among all of them together.

    The parameters may be on different devices and of different dtypes. What is ranked is up to the method:

    - *Entries*, by `L1Unstructured`, `RandomUnstructured` and any method that defines `entry_scores` and
      `count`. The scores are never put into one vector nor sorted.
    - *Units*, by `LnStructured`, `RandomStructured`, `Blocks` and any method of the kind `ByUnits`: channels
      or blocks, by the mean over their entries (`mean_norm`), so that units of different sizes are
      comparable. The amount counts units, whatever their sizes.
    - *Nothing*, by `NOfM` and `PerRow`, whose ratio is fixed in the small: each parameter gets its pattern.
    - *One vector* of all entries that are left, for other unstructured methods, which want to see one. It is
      on the device of the first parameter.
    - *A matrix* with one row for each channel that is left, for other structured methods: one column with the
      channel's mean norm, of the method's `n` or 2.

    Where there is a ranking, of ties exactly as many go as the amount says.

    Args:
        parameters: pairs of a module and the name of its parameter.
        pruning_method: a subclass of `BasePruningMethod`.
        importance_scores: scores by pair, of the parameter's shape; the parameter itself where missing.
        coupled: `prunus.trace(model, inputs)`, to mask the partners of channels as well; see `ln_structured`.
            Layers that share channels, as in a residual sum, lose those chosen for any of them.
        kwargs: arguments of the method, such as `amount`.

    Raises:
        ArgumentTypeError: arguments of wrong types (also a TypeError).
        InputError: no parameters, or one twice (also a ValueError); NaN scores.
        PruningError: as `BasePruningMethod.apply`. No module is changed unless all are.
    """
    targets = find_targets(parameters, importance_scores)
    method = made(pruning_method, kwargs)
    method._tensor_name = "temp"
    leaves = partners_of(coupled, method, targets)
    masks = _way(method)(method, targets)
    checked = [checked_mask(mask, target.scores) for mask, target in zip(masks, targets, strict=True)]
    for target, mask in zip(targets, checked, strict=True):
        CustomFromMask.apply_once(target.module, target.name, mask)
    mask_all_partners(coupled, method, targets, leaves)


def partners_of(graph: Graph | None, method: Any, targets: list[Target]) -> list[list[Node]]:
    """The axes of the channels that a method prunes, checked: their partners can be masked with them.

    Raises:
        InputError: the method prunes no channels, or some have to stay whole.
    """
    if graph is None:
        return []
    units = units_of(method)
    if not isinstance(units, Channels):
        raise InputError(f"coupled masks the partners of channels, and {type(method).__name__} prunes none")
    for item in targets:
        units.split(item.scores)
    return [coupled_leaves(graph, item.module, item.name, units.dim) for item in targets]


def mask_all_partners(
    graph: Graph | None, method: Any, targets: list[Target], leaves: list[list[Node]]
) -> None:
    """Mask the partners of all channels that the masks of these parameters have emptied."""
    if graph is not None:
        for item, own in zip(targets, leaves, strict=True):
            mask_partners(graph, item.module, item.name, method.dim, own)


def made(pruning_method: Any, options: dict[str, Any]) -> Any:
    """A method with these arguments.

    Raises:
        ArgumentTypeError: it is none, or takes other arguments.
    """
    if not callable(pruning_method):
        raise ArgumentTypeError(
            f"pruning_method must be a pruning method such as L1Unstructured, got {pruning_method!r}"
        )
    name = getattr(pruning_method, "__name__", type(pruning_method).__name__)
    try:
        method = pruning_method(**options)
    except PruningError:
        raise
    except TypeError as error:
        raise ArgumentTypeError(
            f"{name} cannot be made with the arguments {sorted(options)}: {error}"
        ) from error
    if not isinstance(method, original.BasePruningMethod):
        raise ArgumentTypeError(
            f"pruning_method must be a class of pruning methods, such as L1Unstructured; {name} makes a "
            f"{type(method).__name__}"
        )
    return method


def find_targets(parameters: Any, importance_scores: Any = None) -> list[Target]:
    """The parameters that pairs name, checked.

    Raises:
        as `global_unstructured`.
    """
    if not isinstance(parameters, Iterable) or isinstance(parameters, nn.Module):
        raise ArgumentTypeError(
            f"parameters must be an iterable of (module, name) pairs, got {type(parameters).__name__}"
        )
    if importance_scores is not None and not isinstance(importance_scores, dict):
        raise ArgumentTypeError(
            "importance_scores must be a dict from (module, name) to a tensor, got "
            f"{type(importance_scores).__name__}"
        )
    given = importance_scores or {}
    targets: list[Target] = []
    seen: set[tuple[int, str]] = set()
    pair: Any
    for pair in parameters:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise PairsError(
                f"parameters must be (module, name) pairs, got {type(pair).__name__}: {pair!r:.80}"
            )
        module, name = pair
        values = parameter_values(module, name)
        if (id(module), name) in seen:
            raise InputError(f"{name!r} of {type(module).__name__} is given twice")
        seen.add((id(module), name))
        scores = given.get((module, name))
        scores = values if scores is None else checked_scores(scores, values, name).to(values.device)
        mask = current_mask(module, name) != 0 if name + MASK in module._buffers else None
        targets.append(Target(module, name, scores, mask))
    if not targets:
        raise InputError("parameters is empty: there is nothing to prune")
    return targets


def _way(method: Any) -> Callable[[Any, list[Target]], list[Tensor]]:
    """How a method chooses among many parameters.

    Raises:
        ArgumentTypeError: it cannot.
    """
    if _chooses_by(method, "unit_scores"):
        return _ranked_units
    if _chooses_by(method, "entry_scores"):
        return _ranked
    if getattr(method, "EACH_ALONE", False):
        return _each_alone
    kind = method.PRUNING_TYPE
    if kind == "unstructured":
        return _as_one_vector
    if kind == "structured":
        return _as_one_matrix
    raise ArgumentTypeError(
        f"{type(method).__name__} is of PRUNING_TYPE {kind!r}: only methods that are unstructured or "
        "structured, or rank units (`ByUnits`), can choose among several parameters"
    )


def _chooses_by(method: Any, scores: str) -> bool:
    """Whether a method's masks follow from such scores: its `compute_mask` is no younger than they are."""
    order = type(method).__mro__
    defined = next((i for i, kind in enumerate(order) if scores in kind.__dict__), None)
    makes = next(i for i, kind in enumerate(order) if "compute_mask" in kind.__dict__)
    return (
        defined is not None
        and order[defined] not in (BasePruningMethod, ByUnits)
        and defined <= makes
        and hasattr(method, "count")
    )


def _ranked(method: Any, targets: list[Target]) -> list[Tensor]:
    sizes = [item.scores.numel() if item.mask is None else int(item.mask.sum()) for item in targets]
    count = method.count(sum(sizes))
    ranked = [
        Ranked(method.prepare(item.scores, item.mask), item.mask, method.entry_scores, item.label)
        for item in targets
    ]
    return [~chosen for chosen in lowest(ranked, count)]


def _as_one_vector(method: Any, targets: list[Target]) -> list[Tensor]:
    """The masks by a method that wants one vector of all entries that are left."""
    device = targets[0].scores.device
    dtype = targets[0].scores.dtype
    for item in targets:
        dtype = torch.promote_types(dtype, item.scores.dtype)
    left = [
        (item.scores.reshape(-1) if item.mask is None else item.scores[item.mask]).to(device, dtype)
        for item in targets
    ]
    vector = torch.cat(left)
    made = method.compute_mask(vector, default_mask=torch.ones_like(vector))
    parts = torch.split(checked_mask(made, vector), [part.numel() for part in left])
    masks = []
    for item, part in zip(targets, parts, strict=True):
        mask = torch.zeros(item.scores.shape, dtype=torch.bool, device=item.scores.device)
        left_here = ~mask if item.mask is None else item.mask
        mask[left_here] = part.to(mask.device)
        masks.append(mask)
    return masks


def _each_alone(method: Any, targets: list[Target]) -> list[Tensor]:
    masks = []
    for item in targets:
        mask = torch.ones_like(item.scores) if item.mask is None else item.mask.to(item.scores.dtype)
        masks.append(method.compute_mask(item.scores, default_mask=mask))
    return masks


def _ranked_units(method: Any, targets: list[Target]) -> list[Tensor]:
    for item in targets:
        check_scores(item.scores, item.label)
    left = [units_left(method, item) for item in targets]
    count = method.count(sum(int(alive.sum()) for alive in left))
    scores = [
        method.unit_scores(item.scores).to(alive.device) for item, alive in zip(targets, left, strict=True)
    ]
    ranked = [
        Ranked(score, alive, torch.clone, item.label)
        for score, alive, item in zip(scores, left, targets, strict=True)
    ]
    return [
        _of_units(method, ~chosen, item) for chosen, item in zip(lowest(ranked, count), targets, strict=True)
    ]


def _as_one_matrix(method: Any, targets: list[Target]) -> list[Tensor]:
    """The masks by a structured method that wants one tensor with all channels that are left."""
    split = units_of(method)
    assert split is not None
    for item in targets:
        check_scores(item.scores, item.label)
    left = [units_left(split, item).cpu() for item in targets]
    norms = [mean_norm(split.split(item.scores), getattr(method, "n", 2)).cpu().double() for item in targets]
    taking_part = torch.cat(left)
    matrix = torch.cat(norms)[taking_part, None]
    own = copy.copy(method)
    own.dim = 0
    made = own.compute_mask(matrix, default_mask=torch.ones_like(matrix))
    kept = torch.zeros(taking_part.numel(), dtype=torch.bool)
    kept[taking_part] = checked_mask(made, matrix).flatten()
    parts = torch.split(kept, [part.numel() for part in left])
    return [
        _of_units(split, part.to(item.scores.device), item) for item, part in zip(targets, parts, strict=True)
    ]


def units_left(method: ByUnits, item: Target) -> Tensor:
    """Which units of a parameter hold anything but zeros: bool, shape (units,)."""
    if item.mask is None:
        units = method.split(item.scores).shape[0]
        return torch.ones(units, dtype=torch.bool, device=item.scores.device)
    return method.split(item.mask).any(dim=1)


def _of_units(method: ByUnits, kept: Tensor, item: Target) -> Tensor:
    mask = method.join(kept, item.scores.shape)
    return mask if item.mask is None else mask & item.mask


def units_of(method: Any) -> ByUnits | None:
    """The units that a method prunes as a whole; None for single entries.

    Raises:
        MethodError: it is structured and has no `dim`.
    """
    if isinstance(method, ByUnits):
        return method
    if method.PRUNING_TYPE != "structured":
        return None
    if not hasattr(method, "dim"):
        raise MethodError(
            f"{type(method).__name__} is of PRUNING_TYPE 'structured' and has no attribute `dim`"
        )
    channels = Channels()
    channels.dim = method.dim
    return channels
