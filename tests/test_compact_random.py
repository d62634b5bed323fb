"""Compaction of networks drawn at random: small ones against a reference, large ones against themselves.

A failing seed is printed with the error; `python -m random_networks SEED` in this folder prints the network.
"""

from __future__ import annotations

import itertools
import traceback
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compacting import KINDS, compacted, randomised, strew_zeros
from micro import REGISTRY
from oracle import parameter_count
from random_networks import random_network

BATCH, NETWORKS = 15, 60
TOLERANCE = 1e-7


def check(
    model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], seed: int, kind: str
) -> bool:
    """Zero, compact, compare; where whole units were zeroed, at least those must be gone."""
    torch.manual_seed(seed)
    plan = strew_zeros(model, args, kwargs, seed, kind)
    compaction = compacted(model, *args, tolerance=TOLERANCE, **kwargs)
    if kind == "units" and plan is not None and plan.exact and plan.chosen:
        left = parameter_count(model)
        compaction.undo(model) if compaction.chosen else None
        assert left <= parameter_count(plan.apply(model)), "pruning the zeroed units removes more"
    return bool(compaction.chosen)


@pytest.mark.parametrize("start", range(0, NETWORKS, BATCH))
def test_random_networks(start: int) -> None:
    failed: list[str] = []
    cut = 0
    for seed in range(start, start + BATCH):
        kind = KINDS[seed % len(KINDS)]
        model, inputs = random_network(seed)
        try:
            cut += check(model, inputs, {}, seed, kind)
        except Exception:
            failed.append(f"seed {seed}, {kind}: {traceback.format_exc(limit=-2)}")
    assert not failed, "\n".join(failed)
    assert cut > BATCH // 2


@pytest.mark.parametrize("name", [name for name in REGISTRY if not name.startswith("hugging_face")])
def test_micro_networks(name: str) -> None:
    seed = zlib.crc32(name.encode())
    model, args, kwargs = REGISTRY[name].fresh()
    check(model.eval(), args, kwargs, seed, KINDS[seed % len(KINDS)])


# -- a perceptron, and a reference that looks at numbers one at a time ------------------------------------


def survivors(weights: list[Tensor], biases: list[Tensor]) -> list[int]:
    """Hidden widths that should remain of linear layers with ReLU between them.

    A unit goes if its input weights from units that vary are all zero, so that it is a constant, or if no
    unit that matters reads it.
    """
    layers = [len(weights[0][0]), *(len(weight) for weight in weights)]
    constant: list[list[float | None]] = [[None] * layers[0]]
    for weight, bias in zip(weights, biases, strict=True):
        row: list[float | None] = []
        for j in range(len(weight)):
            terms = [(float(w), c) for w, c in zip(weight[j], constant[-1], strict=True)]
            varies = any(w != 0 and c is None for w, c in terms)
            total = float(bias[j]) + sum(w * c for w, c in terms if c is not None)
            row.append(None if varies else max(total, 0.0))
        constant.append(row)
    matters = [[True] * layers[-1]]
    for number in range(len(weights) - 1, 0, -1):
        here = []
        for i in range(layers[number]):
            readers = [j for j in range(layers[number + 1]) if matters[0][j]]
            varies = constant[number][i] is None
            here.append(varies and any(float(weights[number][j][i]) != 0 for j in readers))
        matters.insert(0, here)
    return [max(1, sum(row)) for row in matters[:-1]]


@st.composite
def perceptrons(draw: st.DrawFn) -> nn.Sequential:
    sizes = draw(st.lists(st.integers(2, 6), min_size=3, max_size=5))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layer = nn.Linear(a, b)
        density = draw(st.sampled_from([0.3, 0.6, 0.9]))
        with torch.no_grad():
            layer.weight.mul_(torch.rand(b, a) < density)
            layer.bias.mul_(torch.rand(b) < 0.7)
        layers += [layer, nn.ReLU()]
    model = randomised(nn.Sequential(*layers[:-1]))
    assert isinstance(model, nn.Sequential)
    return model


@settings(max_examples=60, deadline=None)
@given(model=perceptrons())
def test_what_remains_of_a_perceptron(model: nn.Sequential) -> None:
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    expected = survivors(
        [layer.weight.detach() for layer in linear], [layer.bias.detach() for layer in linear]
    )
    compacted(model, torch.randn(4, linear[0].in_features).double())
    assert [layer.out_features for layer in linear[:-1]] == expected
