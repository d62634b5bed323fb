"""What the names and types of a configuration stand for among the layers of a Keras model."""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape

from ..configuration import Entry, LayerInfo
from .walking import Found
from .weights import Weight


def selectable(
    found: Sequence[Found], weights: dict[str, list[Weight]], entries: Sequence[Entry]
) -> list[LayerInfo]:
    """The layers that could be pruned, and those without weights that an entry asks for by name or type."""
    having = [each for each in found if each.name in weights or each.layer._trainable_variables]
    types = {kind for each in having for kind in each.types}
    names = {each.name for each in having}
    asked = {name for entry in entries for name in entry.op_names or ()}
    asked_types = {kind for entry in entries for kind in entry.op_types or ()} - types
    infos = []
    for each in found:
        holds_some = any(name.startswith(each.name + "/") for name in names)
        wanted = each.name in asked or each.layer.name in asked or set(each.types) & asked_types
        if each.name in names or (wanted and not holds_some):
            infos.append(each.info)
    return infos


def in_full(entry: Entry, found: Sequence[Found], infos: Sequence[LayerInfo]) -> Entry:
    """An entry whose names of layers that hold others stand for these, and short names for full ones."""
    own = {info.name for info in infos}
    changed = {}
    for key in ("op_names", "exclude_op_names"):
        names = getattr(entry, key)
        if names is None:
            continue
        full: list[str] = []
        for name in names:
            if name in own:
                full.append(name)
                continue
            places = [each.name for each in found if name in (each.name, each.layer.name)]
            places += [each.name for each in found if not places and each.name.endswith("/" + name)]
            reached: list[str] = []
            for place in places:
                if place in own:
                    reached.append(place)
                elif any(other.startswith(place + "/") for other in own):
                    reached.append(escape(place) + "/*")
            full.extend(reached or [name])
        changed[key] = full
    return entry.model_copy(update=changed) if changed else entry
