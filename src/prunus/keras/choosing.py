"""Which entries of which weights go: one mask for each weight, and for the biases that go with filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..configuration import Entry
from ..errors import InputError
from ..pruners.grains import CHANNELS, check_grain_keys, check_grain_shape, pattern_mask
from ..pruners.selection import Candidates, candidates, going
from .algorithms import Algorithm, dim_of
from .masked import holder_of
from .weights import Weight, as_tensor

if TYPE_CHECKING:
    from .dependency import SharedFilters

Masks = dict[tuple[Any, str], NDArray[Any]]
"""For a layer and the attribute of its variable, the mask: 0 where entries go."""


@dataclass
class LayerWrapper:
    """A layer to be pruned and what the configuration says of it.

    Attributes:
        name: as in the configuration.
        layer: the Keras layer, which keeps its place in the model.
        config: the entry's keys.
        weights: those of the layer that are pruned.
    """

    name: str
    layer: Any
    config: Mapping[str, Any]
    weights: list[Weight] = field(default_factory=list)

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """The masks by the variable's name, False where entries are removed."""
        holder = holder_of(self.layer)
        known = {} if holder is None else dict(holder.masks)
        return {key.strip("_"): keras.ops.convert_to_numpy(mask.value) != 0 for key, mask in known.items()}


Member = tuple[LayerWrapper, Weight]


def grain_of(wrapper: LayerWrapper, algorithm: Algorithm) -> Any:
    """What an entry says of granularity: a name, 'N:M', or a list of block sizes."""
    grain = wrapper.config.get("granularity", "default")
    return algorithm.default_grain if grain == "default" else grain


def fitting(
    entry: Entry, name: str, weights: Sequence[Weight], algorithm: Algorithm
) -> tuple[list[Weight], str]:
    """The weights that an entry can be carried out on, and why not on the others.

    Raises:
        InputError: the algorithm does not do what the entry asks for, whatever the layer.
    """
    check_grain_keys(entry, name, algorithm.grains, algorithm.default_grain)
    grain = algorithm.default_grain if entry.granularity == "default" else entry.granularity
    if grain == "out_channel":
        # Of the weights of a separable convolution, the last makes the filters.
        weights = weights[-1:] if any("pointwise" in weight.key for weight in weights) else weights
    found, reason = [], ""
    for weight in weights:
        arranged = torch.empty(weight.arranged(torch.empty(weight.shape, device="meta")).shape).fill_(1.0)
        try:
            check_grain_shape(entry, name, arranged, algorithm.default_grain)
        except InputError as error:
            reason = str(error).partition(": ")[2] or str(error)
            reason = f"{weight.key.strip('_')}: {reason}"
            continue
        if grain in CHANNELS and arranged.dim() > 1 and arranged.shape[dim_of(str(grain))] < 2:
            reason = f"{weight.key.strip('_')} has one channel at granularity {grain!r}, which stays"
            continue
        found.append(weight)
    return found, reason


def present_mask(layer: Any, key: str) -> Tensor:
    """The mask that a variable has now, float32 of ones and zeros."""
    holder = holder_of(layer)
    mask = None if holder is None else holder.masks.get(key)
    if mask is None:
        return torch.ones([int(size) for size in vars(layer)[key].shape])
    return as_tensor(mask).float()


def choose(
    wrappers: Sequence[LayerWrapper],
    algorithm: Algorithm,
    target: Callable[[LayerWrapper], float],
    shared: SharedFilters | None = None,
) -> Masks:
    """Masks for the weights of all wrappers.

    Args:
        target: the fraction of a layer's units that is to go.
        shared: which filters are one unit. All layers that share some with one of the wrappers are among
            these.
    """
    masks: Masks = {}
    ranked: dict[Any, list[Member]] = {}
    tied: dict[frozenset[str], list[Member]] = {}
    for wrapper in wrappers:
        grain, sparsity = grain_of(wrapper, algorithm), target(wrapper)
        if grain != "element" and grain not in CHANNELS:
            for weight in wrapper.weights:
                arranged = weight.arranged(present_mask(weight.layer, weight.key))
                values = weight.arranged(weight.values())
                made = pattern_mask(values, arranged, grain, sparsity)
                masks[weight.layer, weight.key] = weight.native(made).numpy()
            continue
        group = wrapper.config.get("global_group_id")
        for weight in wrapper.weights:
            together = frozenset() if shared is None else shared.of(weight.name)
            if together:
                tied.setdefault(together, []).append((wrapper, weight))
            elif group is not None:
                ranked.setdefault(("group", group, sparsity), []).append((wrapper, weight))
            elif algorithm.together:
                ranked.setdefault(("all", sparsity), []).append((wrapper, weight))
            else:
                ranked[weight.name, sparsity] = [(wrapper, weight)]
    for (*_, sparsity), members in ranked.items():
        gone = going(_scored(members, algorithm), sparsity)
        masks.update(_masks_without(members, algorithm, gone))
    for members in tied.values():
        assert shared is not None
        wanted = {weight.name: target(wrapper) for wrapper, weight in members}
        lost = shared.going(_scored(members, algorithm), wanted)
        masks.update(_masks_without(members, algorithm, [lost[weight.name] for _, weight in members]))
    return masks


def partner_masks(wrappers: Sequence[LayerWrapper], masks: Masks, shared: SharedFilters) -> Masks:
    """Masks for what the channels run through that no layer makes any more.

    Args:
        wrappers: all layers that are pruned.
        masks: those that some of them are going to have.
    """
    left = {}
    for weight in (weight for wrapper in wrappers for weight in wrapper.weights):
        new = masks.get((weight.layer, weight.key))
        mask = present_mask(weight.layer, weight.key) if new is None else torch.from_numpy(new)
        left[weight.name] = ~_gone(weight, "out_channel", mask)
    found: Masks = {}
    for name, partner in shared.variables.items():
        mask = partner.mask(shared.empty(name, left)) * present_mask(partner.layer, partner.key)
        found[partner.layer, partner.key] = mask.numpy()
    return found


def _scored(members: Sequence[Member], algorithm: Algorithm) -> list[Candidates]:
    """The units of some weights, to be ranked together."""
    found: list[Candidates] = []
    for wrapper, weight in members:
        grain = grain_of(wrapper, algorithm)
        scores = algorithm.scores(weight, grain)
        if grain != "element":
            scores = scores.double().float()  # sums that differ by rounding only are equal
        found.append(
            candidates(
                weight.name,
                scores,
                _gone(weight, grain, present_mask(weight.layer, weight.key)),
                keep_one=grain != "element",
                least=wrapper.config.get("min_sparse_ratio"),
                most=wrapper.config.get("max_sparse_ratio"),
                align=wrapper.config.get("align"),
            )
        )
    return found


def _masks_without(members: Sequence[Member], algorithm: Algorithm, gone: Sequence[Tensor]) -> Masks:
    masks: Masks = {}
    for (wrapper, weight), lost in zip(members, gone, strict=True):
        masks.update(_unit_masks(weight, grain_of(wrapper, algorithm), ~lost))
    return masks


def _gone(weight: Weight, grain: str, mask: Tensor) -> Tensor:
    """The units that a mask leaves nothing of: bool."""
    if grain == "element":
        return mask == 0
    arranged = weight.arranged(mask).movedim(dim_of(grain), 0)
    return ~(arranged.reshape(arranged.shape[0], -1) != 0).any(1)


def _unit_masks(weight: Weight, grain: str, kept: Tensor) -> Masks:
    """The masks that leave the units which are kept; a bias goes with the filters that make its entries."""
    if grain == "element":
        return {(weight.layer, weight.key): kept.float().numpy()}
    shape = weight.arranged(torch.empty(weight.shape, device="meta")).shape
    along = [1] * len(shape)
    along[dim_of(grain)] = -1
    whole = kept.float().reshape(along).expand(shape)
    masks: Masks = {(weight.layer, weight.key): weight.native(whole).numpy()}
    if grain == "out_channel" and weight.bias is not None:
        bias = vars(weight.layer)[weight.bias]
        masks[weight.layer, weight.bias] = kept.float().reshape([int(size) for size in bias.shape]).numpy()
    return masks
