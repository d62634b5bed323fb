"""Weighted means of tensors made a few rows at a time, against a loop over entries in float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from prunus.submodel import adding, mean
from prunus.submodel.coverage import Coverage, Rescaling
from prunus.submodel.mean import weighted_means


def weighted_mean(father: Tensor, parts: Any) -> Tensor:
    return next(weighted_means([(father, parts)]))


def by_entry(father: Tensor, parts: Any) -> Tensor:
    """Entry by entry: who holds it, and the mean of theirs."""
    out = father.clone()
    dtype = torch.complex128 if father.is_complex() else torch.float64
    for position in itertools.product(*map(range, father.shape)):
        total, weight = torch.zeros((), dtype=dtype), 0.0
        for cover, tensors, weights in parts:
            place = []
            for index, at in zip(cover.kept or [None] * father.dim(), position, strict=True):
                found = [at] if index is None else (index == at).nonzero().flatten().tolist()
                place.append(found[0] if found else None)
            if None in place:
                continue
            for tensor, factor in zip(tensors, weights, strict=True):
                total += tensor[tuple(place)].to(dtype) * factor
                weight += factor
        if weight:
            out[position] = (total / weight).to(out.dtype)
    return out


KINDS: dict[str, Any] = {
    "whole": lambda size: None,
    "prefix": lambda size: torch.arange(max(1, size // 2)),
    "window": lambda size: torch.arange(size // 3, size),
    "wrapped": lambda size: torch.cat([torch.arange(size // 4), torch.arange(size // 2, size)]),
    "scattered": lambda size: torch.randperm(size)[: max(1, size // 2)].sort().values,
    "packed in another order": lambda size: torch.randperm(size)[: max(1, 2 * size // 3)],
}


def part(shape: tuple[int, ...], kinds: tuple[str, ...], clients: int, dtype: torch.dtype) -> Any:
    kept = tuple(KINDS[kind](size) for size, kind in zip(shape, kinds, strict=True))
    cover = Coverage(shape, () if all(own is None for own in kept) else kept)
    tensors = [torch.randn(cover.sub_shape if cover.kept else shape, dtype=dtype) for _ in range(clients)]
    return cover, tensors, [float(3 + number) for number in range(clients)]


@pytest.mark.parametrize("piece", [1, 40, 1 << 19])
@pytest.mark.parametrize("small", [0, 1 << 12], ids=["one by one", "summed beforehand"])
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_any_rows_and_columns(
    first: str, second: str, piece: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mean, "PIECE", piece)
    monkeypatch.setattr(adding, "SMALL", small)
    torch.manual_seed(piece)
    shape = (13, 8, 2)
    father = torch.randn(shape)
    parts = [
        part(shape, (first, second, "whole"), 3, torch.float32),
        part(shape, (second, first, "whole"), 1, torch.float32),
    ]
    torch.testing.assert_close(weighted_mean(father, parts), by_entry(father, parts), rtol=2**-23, atol=1e-12)
    vector, parts = torch.randn(13), [part((13,), (kind,), 2, torch.float32) for kind in (first, second)]
    torch.testing.assert_close(weighted_mean(vector, parts), by_entry(vector, parts), rtol=2**-23, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("kind", ["whole", "prefix", "scattered"])
def test_any_dtype(dtype: torch.dtype, kind: str) -> None:
    torch.manual_seed(0)
    for shape in ((9, 4), (9,)):
        father = torch.randn(shape, dtype=dtype)
        kinds = (kind, "whole")[: len(shape)]
        parts = [part(shape, kinds, 2, dtype), part(shape, kinds[::-1], 1, dtype)]
        expected = by_entry(father, parts)
        torch.testing.assert_close(
            weighted_mean(father, parts), expected, rtol=torch.finfo(dtype).eps, atol=1e-12
        )


def test_results_do_not_share_the_memory_they_are_made_in() -> None:
    torch.manual_seed(0)
    fathers = [torch.randn(6, 5, dtype=torch.float64) for _ in range(3)]
    parts = [[part((6, 5), ("prefix", "whole"), 2, torch.float64)] for _ in fathers]
    together = list(weighted_means(zip(fathers, parts, strict=True)))
    for father, own, found in zip(fathers, parts, together, strict=True):
        torch.testing.assert_close(found, by_entry(father, own), rtol=1e-15, atol=1e-15)


def test_clients_tensors_are_only_read() -> None:
    torch.manual_seed(0)
    parts = [part((6, 5), (kind, "scattered"), 2, torch.float64) for kind in ("prefix", "scattered")]
    before = [tensor.clone() for _, own, _ in parts for tensor in own]
    weighted_mean(torch.randn(6, 5, dtype=torch.float64), parts)
    assert all(
        torch.equal(a, b) for a, b in zip(before, (t for _, own, _ in parts for t in own), strict=True)
    )


def test_several_threads_give_what_one_gives() -> None:
    torch.manual_seed(0)
    shape = (700, 1000)
    father = torch.randn(shape)
    parts = [part(shape, (kind, kind), 3, torch.float32) for kind in ("whole", "prefix", "scattered")]
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(weighted_mean(father, parts))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found, rtol=2**-23, atol=1e-12)


def test_rescaled_entries_are_taken_back_where_sums_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device may have no float64: the father's tensor is moved from there first."""

    class Seen(Exception):
        pass

    def own_scale(tensor: Tensor, father: Tensor, cover: Coverage) -> Tensor:
        raise Seen(father.device.type)

    monkeypatch.setattr(mean, "working_device", lambda device: torch.device("meta"))
    monkeypatch.setattr(mean, "own_scale", own_scale)
    cover = Coverage((4, 3), (torch.arange(2), None), Rescaling((None, None), 0.5))
    with pytest.raises(Seen, match="meta"):
        weighted_mean(torch.randn(4, 3), [(cover, [torch.randn(2, 3)], [1.0])])
