"""Imported once by the process that forks the workers, so that each model starts at once.

Prunus itself is imported by the worker alone: an edit to it takes effect with the next model.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.zoo.torchvision_shim import import_torchvision

import_torchvision()

import timm  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()
__all__ = ["timm", "torch", "transformers"]
