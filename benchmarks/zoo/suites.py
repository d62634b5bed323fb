"""The suites by name."""

from __future__ import annotations

import re

from benchmarks.zoo import hf_models, timm_models, torchvision_models
from benchmarks.zoo.entry import Entry

SUITES = {
    "torchvision": torchvision_models.entries,
    "timm": timm_models.entries,
    "timm-toys": timm_models.toys,
    "hf": hf_models.entries,
}


def select(suite: str = "all", only: str | None = None) -> list[Entry]:
    """Entries of one suite or of all, whose `suite/name` matches the regular expression `only`."""
    names = list(SUITES) if suite == "all" else [suite]
    entries = [entry for name in names for entry in SUITES[name]()]
    return [entry for entry in entries if only is None or re.search(only, entry.key)]


def find(key: str) -> Entry:
    """The entry with this `suite/name`."""
    suite, _, name = key.partition("/")
    for entry in SUITES[suite]():
        if entry.name == name:
            return entry
    raise KeyError(f"no model {name!r} in suite {suite!r}")
