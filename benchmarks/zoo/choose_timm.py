"""Choose the smallest variant of each timm family, and write the choice to `timm_families.json`.

A family is one module of `timm.models`. Sizes come from models built on the meta device. timm also registers
a few toy models for its own tests (`test_*`); the smallest ordinary variant is chosen beside them.
Run `python -m benchmarks.zoo.choose_timm` after a new timm release only: the committed file is what counts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.zoo.torchvision_shim import import_torchvision

CHOICE = Path(__file__).with_name("timm_families.json")


def main() -> None:
    """Size every registered model and write the smallest ones."""
    import_torchvision()  # timm imports it
    import timm

    families: dict[str, dict[str, Any]] = {}
    for family in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family):
            try:
                with torch.device("meta"):
                    model = timm.create_model(name)
                sizes[name] = sum(p.numel() for p in model.parameters())
            except Exception as error:
                print(f"{family}: {name}: {type(error).__name__}: {error}", file=sys.stderr)
        ordinary = [name for name in sizes if not name.startswith("test_")]
        toys = [name for name in sizes if name.startswith("test_")]
        row: dict[str, Any] = {}
        for field, names in (("model", ordinary), ("toy", toys)):
            if names:
                best = min(names, key=lambda name: (sizes[name], name))
                row[field], row[f"{field}_params"] = best, sizes[best]
        families[family] = row
        print(family, row, flush=True)
    CHOICE.write_text(json.dumps({"timm": timm.__version__, "families": families}, indent=1) + "\n")


if __name__ == "__main__":
    main()
