"""The base of the pruners: a configuration assigned to the layers of a Keras model, and masks on these."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..configuration import Assignment, Entry, Preview, assign, preview_rows, read
from ..errors import ArgumentTypeError, InputError
from ..pruners.errors import PrunerStateError
from ..pruners.shared_units import check_dependency_aware, check_tied_entry
from .algorithms import ALGORITHMS, Algorithm
from .choosing import LayerWrapper, choose, fitting, grain_of, partner_masks
from .dependency import SharedFilters
from .model_masks import check_model, forget_functions, hold, masks_of, set_masks, strip
from .saved import put_on, unmasked
from .selecting import in_full, selectable
from .walking import Found, find_layers
from .weights import Weight, weights_of_model, why_not


class Pruner:
    """Masks on the layers that a configuration selects, chosen by one of the `ALGORITHMS`.

    The model is masked in place. While a layer computes, what it reads of a masked variable is the variable
    times its mask, on every backend, so gradients of removed entries are zero; and the entries themselves are
    zero, in the variables and in what the optimizer keeps of them. Masks are variables that are not trained.
    Steps that you have compiled yourself (`tf.function`, `jax.jit`) before the pruner was made do not know of
    masks: compile them afterwards. Later changes of the masks need no new compilation.

    Args:
        model: a built `keras.Model`: Sequential, Functional or subclassed.
        config_list: a list of dicts, or the same as YAML or JSON (text, or the path of a file).
        optimizer: that of the training, where it is not the one that the model is compiled with.
        pruning_algorithm: a key of `ALGORITHMS`.
        dependency_aware: whether layers that share filters lose the same ones, chosen by the sum of their
            scores at the lowest of their sparsities. Where all layers that make a channel are pruned, what it
            runs through (scales and shifts of normalisations, scales of layers, depthwise kernels that are
            not pruned themselves) loses it too. For Functional and Sequential models, and algorithms that
            remove filters.
        options: of the algorithm.

    Raises:
        ArgumentTypeError: a model of a wrong type, or an option that the algorithm does not have.
        ConfigError: a faulty configuration; all faults are listed.
        InputError: a model that is not built, or in which nothing that is selected can be pruned; or what
            cannot be aware of dependencies. The model is as it was.

    Attributes:
        bound_model: the model.
        config_list: the configuration, as a list of dicts.
        wrappers: the layers that are pruned.
        partners: the variables that lose channels with the layers that are pruned, as `layer/variable`.
        epoch: that of the last `update_epoch`, or None.
    """

    entry_schema: type[Entry] = Entry

    def __init__(
        self,
        model: Any,
        config_list: Any,
        optimizer: Any = None,
        *,
        pruning_algorithm: str = "level",
        dependency_aware: bool = False,
        **options: Any,
    ) -> None:
        check_model(model)
        self.algorithm = _algorithm(pruning_algorithm, options)
        check_dependency_aware(dependency_aware, pruning_algorithm, self.algorithm.removes_filters)
        self.dependency_aware = dependency_aware
        self._entries = read(config_list, self.entry_schema)
        self.check_entries(self._entries)
        found = find_layers(model)
        self._weights = weights_of_model(found, self.algorithm.scales)
        if not model.built or not model.weights:
            raise InputError(
                "the model has no weights yet: call it on data, or model.build(input_shape), before pruning"
            )
        self._layers = selectable(found, self._weights, self._entries)
        entries = [in_full(entry, found, self._layers) for entry in self._entries]
        self._assignment: Assignment[Entry] = assign(
            entries, self._layers, self.algorithm.default_types, supported=self.algorithm.takes
        )
        self._skipped: dict[str, str] = {}
        self.wrappers = self._fitting(found)
        self._shared = None
        if dependency_aware:
            self._shared = SharedFilters(model, found, [w for each in self.wrappers for w in each.weights])
        self.partners = list(self._shared.variables) if self._shared is not None else []
        self.bound_model = model
        self.optimizer = optimizer
        self.config_list = [entry.as_dict() for entry in self._entries]
        self.epoch: int | None = None
        self._compressed = False
        part = {wrapper.name for wrapper in self.wrappers}
        for name, reason in self._skipped.items():
            what = "is pruned in part only" if name in part else "is not pruned"
            warnings.warn(f"layer {name!r} {what}: {reason}", stacklevel=_outside())
        keys = self._masked_keys()
        put_on(model, [(each, keys[each.name]) for each in found if each.name in keys])
        forget_functions(model)

    def check_entries(self, entries: Sequence[Entry]) -> None:
        """Further checks of the entries together; raises a `PruningError`. Nothing has been touched yet."""

    def _fitting(self, found: Sequence[Found]) -> list[LayerWrapper]:
        wrappers = []
        layers = {each.name: each.layer for each in found}
        for name, entry in self._assignment.items():
            if self.dependency_aware:
                check_tied_entry(entry, name)
            reason = why_not(layers[name], self.algorithm.scales)
            weights: list[Weight] = []
            if reason is None:
                own = self._weights.get(name, [])
                weights, reason = fitting(entry, name, own, self.algorithm)
                if not own:
                    reason = "its weights are those of another layer"
            if weights:
                wrappers.append(LayerWrapper(name, layers[name], entry.as_dict(), weights))
            if reason:
                self._skipped[name] = reason
        if not wrappers:
            told = "; ".join(f"{name!r}: {reason}" for name, reason in list(self._skipped.items())[:5])
            raise InputError(f"nothing that the configuration selects can be pruned: {told}")
        return wrappers

    def _masked_keys(self) -> dict[str, tuple[str, ...]]:
        keys = {}
        for wrapper in self.wrappers:
            own = [weight.key for weight in wrapper.weights]
            if grain_of(wrapper, self.algorithm) == "out_channel":
                own += [weight.bias for weight in wrapper.weights if weight.bias is not None]
            keys[wrapper.name] = tuple(own)
        for partner in self._shared.variables.values() if self._shared is not None else ():
            keys[partner.owner] = (*keys.get(partner.owner, ()), partner.key)
        return keys

    def preview(self) -> Preview:
        """Print which layer gets what, and return it. Nothing is changed."""
        numel = {
            name: sum(int(np.prod(weight.shape)) for weight in weights)
            for name, weights in self._weights.items()
        }
        shown = Preview(preview_rows(list(self._entries), self._assignment, self._layers, numel))
        print(shown)
        for name, reason in self._skipped.items():
            print(f"{name}: not pruned, {reason}")
        if self.partners:
            some = ", ".join(self.partners[:4]) + (", ..." if len(self.partners) > 4 else "")
            print(f"{len(self.partners)} variables lose channels with these layers: {some}")
        return shown

    def target_sparsity(self, wrapper: LayerWrapper) -> float:
        """The fraction of a layer that is to go now."""
        return float(wrapper.config["sparsity"])

    def compress(self) -> Any:
        """Choose masks and put them on.

        Returns:
            The model, which is the one that the pruner was given.

        Raises:
            PrunerStateError: it has been called before.
            InputError: weights that are not numbers, or data of the algorithm that is not enough.
        """
        if self._compressed:
            raise PrunerStateError("compress() has been called before; update_epoch() goes on from there")
        self._update(self.wrappers)
        self._compressed = True
        return self.bound_model

    @property
    def compressed(self) -> bool:
        """Whether `compress()` has been called."""
        return self._compressed

    def update_epoch(self, epoch: int) -> None:
        """Tell the pruner that an epoch starts; counted from 0.

        Raises:
            ArgumentTypeError: it is no whole number.
            InputError: it is negative, or lies before the epoch of the last call.
        """
        self.check_epoch(epoch)
        self.epoch = epoch
        hold(self.bound_model)

    def check_epoch(self, epoch: Any) -> None:
        """Raise what `update_epoch` raises of a wrong epoch."""
        if isinstance(epoch, bool) or not isinstance(epoch, int):
            raise ArgumentTypeError(f"epoch must be an int, got {type(epoch).__name__}: {epoch!r}")
        if epoch < 0:
            raise InputError(f"epoch={epoch}: epochs are counted from 0")
        if self.epoch is not None and epoch < self.epoch:
            raise InputError(
                f"epoch={epoch} lies before epoch {self.epoch} of the last call, and what is pruned does "
                "not come back: call update_epoch once at the start of each epoch, in order"
            )

    def _update(self, wrappers: Sequence[LayerWrapper]) -> None:
        """Choose the masks of some layers anew; what is gone stays gone."""
        if not wrappers:
            return
        wrappers = self._with_tied(wrappers)
        self.algorithm.prepare(
            self.bound_model, [weight for wrapper in wrappers for weight in wrapper.weights]
        )
        masks = choose(wrappers, self.algorithm, self.target_sparsity, self._shared)
        if self._shared is not None:
            masks.update(partner_masks(self.wrappers, masks, self._shared))
        set_masks(self.bound_model, masks, self.optimizer)

    def _with_tied(self, wrappers: Sequence[LayerWrapper]) -> Sequence[LayerWrapper]:
        """Some layers and all that are chosen together with them."""
        if self._shared is None:
            return wrappers
        names = {weight.name for wrapper in wrappers for weight in wrapper.weights}
        names = names.union(*(self._shared.of(name) for name in names))
        return [each for each in self.wrappers if names.intersection(weight.name for weight in each.weights)]

    def strip(self) -> Any:
        """Take the masks off: see `prunus.keras.strip`."""
        return strip(self.bound_model)

    def export_model(
        self, model_path: str | os.PathLike[str], mask_path: str | os.PathLike[str] | None = None
    ) -> None:
        """Write the model without masks, with its zeros, and the masks beside it.

        Args:
            model_path: a `.keras` file, which loads without Prunus; or another name that `model.save` takes.
            mask_path: an `.npz` file of bool arrays, True where entries stay, by `layer/variable`.

        Raises:
            PrunerStateError: before `compress()`.
            InputError: a folder that does not exist.
        """
        if not self._compressed:
            raise PrunerStateError("there are no masks to export yet: call compress() first")
        for path in (model_path, mask_path):
            if path is not None and not Path(path).resolve().parent.is_dir():
                raise InputError(f"the folder of {os.fspath(path)!r} does not exist")
        hold(self.bound_model)
        with unmasked(self.bound_model):
            self.bound_model.save(model_path)
        if mask_path is not None:
            masks: dict[str, Any] = dict(masks_of(self.bound_model))
            with open(mask_path, "wb") as file:
                np.savez_compressed(file, **masks)


def _algorithm(name: Any, options: dict[str, Any]) -> Algorithm:
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise InputError(f"pruning_algorithm={name!r}: there are {', '.join(ALGORITHMS)}")
    try:
        return ALGORITHMS[name](**options)
    except TypeError as error:
        if isinstance(error, ArgumentTypeError):
            raise
        raise ArgumentTypeError(f"pruning_algorithm={name!r} has no such options: {error}") from None


def _outside() -> int:
    """How many calls lie between a warning and the code that uses this package."""
    import sys

    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and "prunus" in frame.f_globals.get("__name__", "").split(".")[:1]:
        depth, frame = depth + 1, frame.f_back
    return depth
