"""One choice over many parameters: dtypes, ties, channels."""

from __future__ import annotations

import contextlib
import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as original

import prunus.masks as prune
from pretended_devices import PretendedDevices


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


# -- devices ----------------------------------------------------------------------------------------------


class EveryThird(prune.BasePruningMethod):
    """A method of one's own, which wants one vector."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        mask = default_mask.clone()
        mask[::3] = 0
        return mask


class FirstChannels(prune.BasePruningMethod):
    """A structured method of one's own."""

    PRUNING_TYPE = "structured"
    dim = 0

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        mask = default_mask.clone()
        mask[:5] = 0
        return mask


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "entries": (prune.L1Unstructured, {"amount": 0.4}),
    "entries at random": (prune.RandomUnstructured, {"amount": 0.4}),
    "channels": (prune.LnStructured, {"amount": 0.4, "n": 2, "dim": 0}),
    "channels at random": (prune.RandomStructured, {"amount": 3, "dim": 1}),
    "blocks": (prune.Blocks, {"amount": 0.4, "block": (2, 2)}),
    "patterns": (prune.NOfM, {"n": 1, "m": 2}),
    "one vector": (EveryThird, {}),
    "one matrix": (FirstChannels, {}),
}


def on_devices(devices: list[str]) -> list[tuple[nn.Module, str]]:
    torch.manual_seed(3)
    shapes, dtypes = [(8, 6), (4, 8), (12, 4)], [torch.float32, torch.bfloat16, torch.float64]
    layers = [nn.Linear(i, o, dtype=dtype) for (o, i), dtype in zip(shapes, dtypes, strict=True)]
    return [(layer.to(device), "weight") for layer, device in zip(layers, devices, strict=True)]


@pytest.mark.parametrize("case", METHODS)
def test_tensors_of_two_devices_do_not_meet(case: str) -> None:
    method, options = METHODS[case]
    results = []
    for pretended in (True, False):
        pairs = on_devices(["cpu"] * 3)
        scores = {pairs[2]: torch.rand(12, 4)}
        first, second, third = ([*module.parameters()] for module, _ in pairs)
        labels = {"one": first + third, "two": second, "cpu": [scores[pairs[2]]]}
        torch.manual_seed(4)
        with PretendedDevices(labels) if pretended else contextlib.nullcontext():
            for _ in range(2):
                prune.global_unstructured(pairs, method, importance_scores=scores, **options)
        results.append([module._buffers["weight_mask"] for module, _ in pairs])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_pretence_notices_what_real_devices_would() -> None:
    a, b = torch.ones(3), torch.ones(3)
    with PretendedDevices({"one": [a], "two": [b]}):
        for call in (lambda: a + b, lambda: torch.cat([a * 2, b]), lambda: a.cpu() + b):
            with pytest.raises(AssertionError, match="took tensors of"):
                call()
        assert torch.equal(a.cpu() + b.cpu(), a.to("cpu") + b.cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", METHODS)
def test_parameters_on_two_devices(case: str) -> None:
    method, options = METHODS[case]
    results = []
    for devices in (["cuda", "cpu", "cuda"], ["cpu"] * 3):
        pairs = on_devices(devices)
        torch.manual_seed(4)
        for _ in range(2):
            prune.global_unstructured(pairs, method, **options)
        masks = [module._buffers["weight_mask"] for module, _ in pairs]
        for (module, _), mask, device in zip(pairs, masks, devices, strict=True):
            assert mask.device.type == device
            assert module.weight.device.type == device
        results.append([mask.cpu() for mask in masks])
    if "entries at random" not in case:  # its draws are those of each device
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    else:
        assert sum(map(torch.count_nonzero, results[0])) == sum(map(torch.count_nonzero, results[1]))


def latest(module: nn.Module) -> Any:
    (hook,) = module._forward_pre_hooks.values()
    return hook[-1] if isinstance(hook, prune.PruningContainer) else hook


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_latest_choice_can_be_read_of_its_method(rounds: int, dtype: torch.dtype) -> None:
    found = []
    for package in (prune, original):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5, dtype=dtype), nn.Linear(5, 4, dtype=dtype))
        for _ in range(rounds):
            pairs = [(layer, "weight") for layer in model]
            package.global_unstructured(pairs, package.L1Unstructured, amount=0.3)
        hooks = [next(iter(layer._forward_pre_hooks.values())) for layer in model]
        methods = [hook if rounds == 1 else hook[-1] for hook in hooks]
        found.append([(m.mask * 2, m.mask.mean(), 1 - m.mask, (m.mask == 0).sum()) for m in methods])
        assert all(torch.equal(m.mask, layer.weight_mask) for m, layer in zip(methods, model, strict=True))
        methods[0].mask.zero_()
        if package is prune:
            assert model[0].weight_mask.any()  # the mask of a method is not that of the module
    for ours, theirs in zip(*found, strict=True):
        for mine, own in zip(ours, theirs, strict=True):
            assert torch.equal(mine, own)
            assert mine.dtype is own.dtype


def test_in_a_copy_the_copy_has_the_mask() -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    prune.global_unstructured([(model[0], "weight")], prune.L1Unstructured, amount=0.3)
    other = copy.deepcopy(model)
    before = model[0].weight_mask.clone()
    other[0].weight_mask.zero_()
    assert not latest(other[0]).mask.any()
    assert torch.equal(latest(model[0]).mask, before)
    model[0].double()
    assert latest(model[0]).mask.mean().dtype is torch.float64


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_module_read_from_a_file_has_the_mask(rounds: int) -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    for _ in range(rounds):
        prune.global_unstructured([(model[0], "weight")], prune.L1Unstructured, amount=0.3)
    other = pickle.loads(pickle.dumps(model))
    assert torch.equal(latest(other[0]).mask, model[0].weight_mask)
    other[0].weight_mask.zero_()
    assert not latest(other[0]).mask.any()
    assert latest(model[0]).mask.any()


def test_what_is_not_kept_is_said() -> None:
    model = nn.Linear(6, 5)
    pairs = [(model, "weight")]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.3)
    first = latest(model)
    prune.l1_unstructured(model, "weight", 0.5)
    with pytest.raises(AttributeError, match="a later choice has taken its place"):
        _ = first.mask
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.1)
    third = latest(model)
    prune.remove(model, "weight")
    with pytest.raises(AttributeError, match="it was removed"):
        _ = third.mask
    with pytest.raises(AttributeError, match="only the module has it"):
        _ = pickle.loads(pickle.dumps(third)).mask
