"""Halving feed-forward axes gives the model that a smaller configuration would have built."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from benchmarks.native_config import FAMILIES, Family, halve_feed_forward

pytestmark = pytest.mark.zoo


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_halved_feed_forward_is_a_native_model(family: Family) -> None:
    outcome = halve_feed_forward(family)
    assert outcome.exact
    assert outcome.loads, "the state dict does not load strictly into the smaller class"
    assert outcome.config_says == outcome.wanted
    assert outcome.difference <= 1e-5
    assert outcome.left < outcome.params
