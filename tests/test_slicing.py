"""Cutting tensors with the lowest peak of memory: what is held on to as it is, and what in parts."""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from prunus.surgery.slicing import cut, join, whole

SIZES = st.lists(
    st.tuples(st.integers(1, 100), st.integers(0, 100)).map(lambda pair: (pair[0], min(pair))), max_size=6
)


def _peak(sizes: list[tuple[int, int]], hold: tuple[bool, ...]) -> int:
    kept = sum(size[1] for size, held in zip(sizes, hold, strict=True) if held)
    return max([kept, *(size[0] for size, held in zip(sizes, hold, strict=True) if not held)])


@given(SIZES)
def test_no_other_choice_of_largest_tensors_peaks_lower(sizes: list[tuple[int, int]]) -> None:
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i][0])
    prefixes = [tuple(i in order[:count] for i in range(len(sizes))) for count in range(len(sizes) + 1)]
    assert _peak(sizes, tuple(whole(sizes))) == min(_peak(sizes, hold) for hold in prefixes)


def test_one_tensor_that_dominates_is_held_and_equal_ones_are_not() -> None:
    assert whole([(74, 19), (12, 3), (2, 1)]) == [True, False, False]
    assert whole([(10, 3)] * 10) == [False] * 10
    assert whole([]) == []


def test_both_ways_cut_to_the_same_and_join_to_the_same() -> None:
    for hold, layout in product((False, True), (torch.contiguous_format, torch.channels_last)):
        tensor = torch.randn(6, 8, 3, 3).contiguous(memory_format=layout)
        before = tensor.clone()
        kept = [torch.tensor([0, 2, 5]), torch.tensor([1, 2, 3, 7]), None, None]
        small, removed = cut(tensor, kept, hold)
        assert torch.equal(small, before[kept[0]][:, kept[1]])
        assert torch.equal(join(small, removed), before)
