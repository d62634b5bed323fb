"""One choice over many parameters: dtypes, ties, channels."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import prunus.masks as prune


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_the_lowest_of_many_tensors_against_a_sort(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed dtypes, ties, zeros of both signs and infinities, against a stable sort in float64."""
    from prunus.masks import ranking

    monkeypatch.setattr(ranking, "PIECE", piece)
    for trial in range(30):
        torch.manual_seed(trial)
        dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float64 if trial % 2 else torch.float32]
        tensors = [(torch.randn(torch.randint(1, 40, ()), 2) * 2).round() / 2 for _ in dtypes]
        tensors = [t.to(dtype) for t, dtype in zip(tensors, dtypes, strict=True)]
        tensors[0][0, 0], tensors[1][0, 0] = float("inf"), -float("inf")
        alive = [None if i == 0 else torch.rand(t.shape) > 0.3 for i, t in enumerate(tensors)]
        items = [
            ranking.Ranked(t, a, lambda piece: piece * 1, "it") for t, a in zip(tensors, alive, strict=True)
        ]
        everything = torch.cat([t.double().flatten() for t in tensors])
        taking_part = torch.cat(
            [
                torch.ones(t.numel(), dtype=torch.bool) if a is None else a.flatten()
                for t, a in zip(tensors, alive, strict=True)
            ]
        )
        places = taking_part.nonzero().flatten()
        order = places[(everything[places] + 0.0).sort(stable=True).indices]
        for count in {0, 1, len(places) // 2, len(places)}:
            expected = torch.zeros(len(everything), dtype=torch.bool)
            expected[order[:count]] = True
            got = torch.cat([chosen.flatten() for chosen in ranking.lowest(items, count)])
            assert torch.equal(got, expected)


def test_global_pruning_across_dtypes() -> None:
    model = nn.ModuleList([nn.Linear(9, 8), nn.Linear(7, 6).bfloat16(), nn.Linear(5, 4).double()])
    pairs = [(layer, "weight") for layer in model]
    values = torch.cat([layer.weight.detach().double().abs().flatten() for layer in model])
    for amount in (0.5, 0.4):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=amount)
    kept = torch.cat([layer.weight_mask.flatten() for layer in model])
    first = round(0.5 * len(values))
    gone = first + round(0.4 * (len(values) - first))
    assert int((~kept).sum()) == gone
    assert values[~kept].max() <= values[kept].min()
    assert [layer.weight.dtype for layer in model] == [torch.float32, torch.bfloat16, torch.float64]


def test_many_choices_leave_no_masks_behind() -> None:
    model = nn.Linear(400, 400)
    for _ in range(5):
        prune.global_unstructured([(model, "weight")], prune.L1Unstructured, amount=0.1)
    (hook,) = model._forward_pre_hooks.values()
    assert len(hook) == 5
    assert len(pickle.dumps(hook)) < 3000
    prune.custom_from_mask(model, "bias", torch.arange(400) % 2)
    (_, other) = model._forward_pre_hooks.values()
    assert torch.equal(other.mask, torch.arange(400) % 2 == 1)


def test_ties_are_cut_at_the_count() -> None:
    model = nn.ModuleList([nn.Linear(10, 10, bias=False) for _ in range(3)])
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(0.5)
    prune.global_unstructured([(layer, "weight") for layer in model], prune.L1Unstructured, amount=137)
    assert [int((~layer.weight_mask).sum()) for layer in model] == [100, 37, 0]


@pytest.mark.parametrize("n", [1, 2, float("inf")])
def test_global_structured(n: float) -> None:
    model = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(16, 6, 1), nn.Linear(50, 10)])
    pairs = [(layer, "weight") for layer in model]
    prune.global_unstructured(pairs, prune.LnStructured, amount=0.25, n=n, dim=0)
    prune.global_unstructured(pairs, prune.LnStructured, amount=5, n=n, dim=0)
    norms, kept = [], []
    for layer in model:
        flat = layer.weight_orig.detach().flatten(1).abs()
        norms.append(flat.max(1).values if n == float("inf") else flat.pow(n).mean(1).pow(1 / n))
        rows = layer.weight_mask.flatten(1)
        assert torch.equal(rows.any(1), rows.all(1))
        kept.append(rows.any(1))
    alive, norm = torch.cat(kept), torch.cat(norms)
    assert int((~alive).sum()) == 6 + 5
    assert norm[~alive].max() < norm[alive].min()
    prune.global_unstructured(pairs, prune.RandomStructured, amount=0.5, dim=1)
