"""A fast slice of the zoo; `python -m benchmarks.zoo` runs all of it."""

from __future__ import annotations

import importlib.util

import pytest
from benchmarks.zoo.measure import measure
from benchmarks.zoo.suites import find

pytestmark = pytest.mark.zoo

# The most that may be left of the parameters: a quarter where both sides of a layer are cut, plus the ends.
SLICE = {
    "torchvision/resnet18": 0.30,
    "torchvision/densenet121": 0.32,
    "torchvision/mobilenet_v3_small": 0.40,
    "torchvision/shufflenet_v2_x0_5": 0.46,  # three quarters of it are the classifier
    "torchvision/googlenet": 0.70,  # half of it are auxiliary heads, which eval mode does not run
    "torchvision/swin_t": 0.35,
    "timm-toys/test_vit": 0.40,
    "timm-toys/test_coatnet": 0.40,
    "timm-toys/test_nfnet": 0.40,
    "timm/ghostnet_050": 0.40,
    "hf/llama": 0.40,
    "hf/gpt2": 0.40,
    "hf/bert": 0.40,
    "hf/mamba": 0.45,
}
PACKAGES = {"torchvision": "torchvision", "timm": "timm", "timm-toys": "timm", "hf": "transformers"}


@pytest.mark.parametrize("key", SLICE)
def test_half_of_a_zoo_model(key: str) -> None:
    package = PACKAGES[key.partition("/")[0]]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    record = measure(find(key))
    assert record["status"] == "ok", record.get("traceback", record)
    assert record["remaining"] <= SLICE[key]
