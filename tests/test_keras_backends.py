"""The tests of prunus.keras once more on the other backends, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from keras_models import BACKEND, ROOT

AGAIN = [
    "tests/test_keras_masks.py",
    "tests/test_keras_docs.py",
    "tests/test_keras_dependency_aware.py::test_layers_that_share_channels_lose_those_of_the_lowest_sum[depthwise-FPGMPruner]",
    "tests/test_keras_dependency_aware.py::test_layers_that_share_channels_lose_those_of_the_lowest_sum[layer_normalized-L1FilterPruner]",
    "tests/test_keras_dependency_aware.py::test_partners_hold_through_training_and_come_off",
    "tests/test_keras_saving.py::test_files_in_a_fresh_process",
    "tests/test_keras_training.py::test_eighty_percent_less_on_digits",
    "tests/test_keras_training.py::test_the_callback_drives_the_pruner_and_logs",
    "tests/test_keras_pruners.py::test_level_removes_the_smallest_of_each_weight",
    "tests/test_keras_pruners.py::test_taylor_is_the_squared_product_of_weight_and_gradient",
    "tests/test_keras_pruners.py::test_documented_snippets_run_with_one_import_changed",
]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_on_another_backend(backend: str) -> None:
    if BACKEND != "torch":
        pytest.skip(f"this is a run on {BACKEND} alone")
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *AGAIN],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-5000:]
