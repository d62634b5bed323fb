"""Where each tensor and number of a checkpoint belongs in a model, or why the model is another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..errors import CheckpointError
from ..graph.attributes import _SKIPPED
from .manifest import Manifest, TensorRecord
from .scalars import Key, Number, Scalars
from .structure import Place, Structure

_WAY_OUT = "build the model with the class and the options that the saved one was built with"


@dataclass
class Assignment:
    """One tensor of the checkpoint and where it belongs.

    Attributes:
        tensor: the tensor of the model that takes the values; None where it has to be a new one.
        template: what a new one is made like, if there is something.
        device: where the values go.
    """

    name: str
    record: TensorRecord
    places: list[Place]
    tensor: Tensor | None
    template: Tensor | None
    device: torch.device


class Matcher:
    """Compares a manifest with a model; every method raises CheckpointError where they differ."""

    def __init__(self, manifest: Manifest, structure: Structure) -> None:
        self.manifest = manifest
        self.structure = structure

    def refuse(self, what: str) -> NoReturn:
        model = type(self.structure.modules[""]).__name__
        raise CheckpointError(
            f"the checkpoint is of a {self.manifest.model} and does not fit this {model}: {what}; {_WAY_OUT}"
        )

    def check_modules(self) -> None:
        saved, here = self.manifest.modules, self.structure.modules
        for name, kind in saved.items():
            if name not in here:
                self.refuse(f"it has a module {name!r} ({kind}), this model has none of that name")
            if type(here[name]).__name__ != kind:
                where = f"module {name!r}" if name else "the model"
                self.refuse(f"{where} is a {kind} there, a {type(here[name]).__name__} here")
        extra = sorted(here.keys() - saved.keys())
        if extra:
            self.refuse(f"module {extra[0]!r} ({type(here[extra[0]]).__name__}) is not in it")

    def assignments(self) -> list[Assignment]:
        here = self.structure.places()
        names: dict[str, list[str]] = {name: [name] for name in self.manifest.tensors}
        for alias, name in self.manifest.aliases.items():
            names[name].append(alias)
        extra = sorted(here.keys() - self.manifest.tensors.keys() - self.manifest.aliases.keys())
        if extra and here[extra[0]].kind == "attribute":
            self.refuse(f"attribute {extra[0]!r} is a tensor here only, perhaps since this model was run")
        if extra:
            self.refuse(f"{here[extra[0]].kind} {extra[0]!r} is not in it")
        out: list[Assignment] = []
        taken: set[int] = set()
        owner: dict[tuple[int, str | int], str] = {}
        for name, record in self.manifest.tensors.items():
            places = [here[item] if item in here else self._new_place(item, record) for item in names[name]]
            for place in places:
                self._check_kind(place, places[0], record)
                other = owner.setdefault(place.position, name)
                if other != name:
                    self.refuse(f"{other!r} and {place.name!r} are two tensors there, the same module's here")
            own = [place.tensor for place in places if place.tensor is not None]
            for tensor in own:
                self._check_tensor(name, record, tensor)
            free = next((tensor for tensor in own if id(tensor) not in taken), None)
            taken.add(id(free))
            device = self._device(own[0] if own else self._near(name, here))
            out.append(Assignment(name, record, places, free, own[0] if own else None, device))
        return out

    @staticmethod
    def _near(name: str, here: dict[str, Place]) -> Tensor | None:
        """A tensor of the same module, or else any."""
        owner = name.rpartition(".")[0]
        same = (place.tensor for item, place in here.items() if item.rpartition(".")[0] == owner)
        return next(same, next((place.tensor for place in here.values()), None))

    @staticmethod
    def _device(tensor: Tensor | None) -> torch.device:
        return torch.get_default_device() if tensor is None or tensor.device.type == "meta" else tensor.device

    def _new_place(self, name: str, record: TensorRecord) -> Place:
        """A place that is empty in the model as built: of a cache, say, that a forward pass fills.

        A layer without a bias is given one if compaction did that, or if it may have: the history is lost.
        """
        owner, _, key = name.rpartition(".")
        if name in self.manifest.items:
            owner, key, item = self.manifest.items[name]
            table = getattr(self.structure.modules.get(owner), "__dict__", {}).get(key)
            if type(table) is dict and key not in _SKIPPED and item not in table:
                return Place(name, "attribute", table, item, None)
            self.refuse(f"it has a tensor {name!r}, this model does not")
        module = self.structure.modules.get(owner)
        added = {_uncompiled(item) for plan in self.manifest.history for item in plan.get("added", ())}
        may_have = name in added or not self.manifest.history
        if (
            module is not None
            and record.kind == "parameter"
            and may_have
            and module._parameters.get(key, "") is None
        ):
            return Place(name, "parameter", module._parameters, key, None)
        if module is not None and record.kind == "buffer" and module._buffers.get(key, "") is None:
            return Place(name, "buffer", module._buffers, key, None)
        if module is None or record.kind != "attribute" or not _is_free(module, key):
            self.refuse(f"it has a {record.kind} {name!r}, this model does not")
        return Place(name, "attribute", module.__dict__, key, None)

    def _check_kind(self, place: Place, first: Place, record: TensorRecord) -> None:
        if place is first and place.kind != record.kind:
            self.refuse(f"{place.name!r} is a {record.kind} there, a {place.kind} here")
        if (place.kind == "parameter") != (first.kind == "parameter") and place.tensor is not first.tensor:
            self.refuse(
                f"{place.name!r} and {first.name!r} are one tensor there, and of different kinds here"
            )

    def _check_tensor(self, name: str, record: TensorRecord, tensor: Tensor) -> None:
        if record.kind == "attribute":
            return
        if _category(record.dtype) != _category(tensor.dtype):
            self.refuse(f"{record.kind} {name!r} is {record.dtype} there, {tensor.dtype} here")
        if record.kind != "parameter" or isinstance(tensor, UninitializedParameter):
            return
        shape = tuple(tensor.shape)
        if len(shape) != len(record.shape) or any(a > b for a, b in zip(record.shape, shape, strict=True)):
            self.refuse(
                f"parameter {name!r} has the shape {record.shape} there, which is no part of {shape} here"
            )

    def numbers(self, here: Scalars) -> dict[Key, Number]:
        """New values of numbers of the model.

        One that the model lacks is left out if pruning is not known to have changed it: some are first set
        by a forward pass.
        """
        repaired = {
            (_uncompiled(item["module"]), tuple(item["path"]))
            for plan in self.manifest.history
            for item in plan.get("attributes", ())
        }
        new: dict[Key, Number] = {}
        for key, value in {**self.manifest.integers, **self.manifest.floats}.items():
            if key in here.values and (here.values[key] is not None or type(value) is int):
                new[key] = value
            elif key in repaired:
                module, path = key
                self.refuse(f"{'.'.join(map(str, path))!r} of module {module!r} is no number here")
        return new


def _uncompiled(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _is_free(module: nn.Module, key: str) -> bool:
    """Whether an attribute may be added to a module, or filled if it is None, without hiding anything."""
    if key in module.__dict__:
        return module.__dict__[key] is None and key not in _SKIPPED and not key.startswith("__")
    return (
        key.isidentifier()
        and not key.startswith("__")
        and not hasattr(type(module), key)
        and not any(key in space for space in (module._parameters, module._buffers, module._modules))
    )


def _category(dtype: torch.dtype) -> str:
    if dtype.is_floating_point or dtype.is_complex:
        return "complex" if dtype.is_complex else "float"
    return "bool" if dtype == torch.bool else "int"
