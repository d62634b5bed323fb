"""The axis algebra: every tensor dimension as a term over named, prunable axes.

An axis is a union-find node with a size. It is a *leaf*, or it is bound to

- a *product* of axes, row-major, as `flatten` and head splits make: `E = H x D`;
- a *concatenation* of axes, as `cat`, `split` and slices make: `C = a + b`;
- the *reverse* of a leaf, as `flip` makes.

`unify` makes two axes one. It refines both sides to a common structure: products by matching factors
from the right, concatenations by cutting at each other's boundaries, a product against a concatenation
by cutting the product's outer factor. What has no common refinement raises `NoRefinement`, and the
caller freezes both sides with a reason; nothing is guessed.

No function here walks the units of an axis, so cost grows with the number of operations in a model and
never with its channel counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

LEAF, PRODUCT, CONCAT, REVERSE = "leaf", "product", "concat", "reverse"

MAX_STEPS = 20_000
"""Refinement steps in one `unify` after which two axes are said to have no common structure."""


class NoRefinement(Exception):
    """Two axes of equal size that share no product or concatenation structure."""


class Node:
    """One axis term. Compare nodes by `find(a) is find(b)`, never by `==` on sizes.

    `fixed` marks leaves already known to stay whole; it is a hint while tracing, not the last word.
    """

    __slots__ = ("_parent", "children", "fixed", "kind", "size", "uid")
    _uids = itertools.count()

    def __init__(self, size: int, kind: str = LEAF, children: tuple[Node, ...] = ()) -> None:
        self.size = size
        self.kind = kind
        self.children = children
        self.fixed = False
        self._parent: Node | None = None
        self.uid = next(Node._uids)

    def __repr__(self) -> str:
        return describe(self)


ONE = Node(1)
"""The axis of every dimension of size one: it couples nothing."""


def find(node: Node) -> Node:
    """The representative of a node, with path compression."""
    root = node
    while root._parent is not None:
        root = root._parent
    while node._parent is not None and node._parent is not root:
        node._parent, node = root, node._parent
    return root


def leaf(size: int) -> Node:
    return ONE if size == 1 else Node(size)


def factors(node: Node) -> list[Node]:
    """The factors of a node, outermost first, with nested products flattened and ones dropped."""
    node = find(node)
    if node.kind != PRODUCT:
        return [] if node.size == 1 else [node]
    return [factor for child in node.children for factor in factors(child)]


def pieces(node: Node) -> list[Node]:
    """The pieces of a node in order, with nested concatenations flattened."""
    node = find(node)
    if node.kind != CONCAT:
        return [] if node.size == 0 else [node]
    return [piece for child in node.children for piece in pieces(child)]


def product(nodes: Iterable[Node]) -> Node:
    flat = [factor for node in nodes for factor in factors(node)]
    if not flat:
        return ONE
    if len(flat) == 1:
        return flat[0]
    size = 1
    for node in flat:
        size *= node.size
    return Node(size, PRODUCT, tuple(flat))


def concat(nodes: Iterable[Node]) -> Node:
    flat = [piece for node in nodes for piece in pieces(node)]
    if len(flat) == 1:
        return flat[0]
    return Node(sum(node.size for node in flat), CONCAT, tuple(flat))


def reverse(node: Node) -> Node:
    """The axis read backwards: `rev(a x b) = rev(a) x rev(b)` and `rev(a + b) = rev(b) + rev(a)`."""
    node = find(node)
    if node.size <= 1:
        return node
    if node.kind == LEAF:
        return Node(node.size, REVERSE, (node,))
    if node.kind == REVERSE:
        child = find(node.children[0])
        return child if child.kind == LEAF else reverse(reverse(child))
    if node.kind == PRODUCT:
        return product(reverse(factor) for factor in factors(node))
    return concat(reverse(piece) for piece in reversed(pieces(node)))


def settle(node: Node) -> Node:
    """`find`, with a reverse of something no longer a leaf rewritten in terms of its parts."""
    node = find(node)
    if node.kind == REVERSE and find(node.children[0]).kind != LEAF:
        turned = find(reverse(find(node.children[0])))
        if turned is not node:
            node._parent = turned
        return turned
    if node.kind == PRODUCT:
        flat = factors(node)
        if len(flat) == 1:
            node._parent = flat[0]
            return settle(flat[0])
    return node


def leaves(node: Node) -> Iterator[Node]:
    """The leaves of a node in order; a leaf that occurs twice is given twice. Ones are left out."""
    node = settle(node)
    if node.kind == LEAF:
        if node.size > 1:
            yield node
        return
    for child in node.children:
        yield from leaves(child)


def fix(node: Node) -> None:
    """Mark the leaves of an axis as known to stay whole."""
    for part in leaves(node):
        part.fixed = True


def is_fixed(node: Node) -> bool:
    """Whether every leaf of an axis is known to stay whole; an axis of size one is."""
    return all(part.fixed for part in leaves(node))


def split_leaf(node: Node, cut_at: int) -> tuple[Node, Node]:
    left, right = leaf(cut_at), leaf(node.size - cut_at)
    left.fixed, right.fixed = node.fixed, node.fixed
    node._parent = Node(node.size, CONCAT, (left, right))
    return left, right


def cut(node: Node, position: int) -> tuple[Node, Node]:
    """The two axes before and after `position`, refining the node where the cut is new."""
    node = settle(node)
    if not 0 < position < node.size:
        raise ValueError(f"cut at {position} in an axis of size {node.size}")
    if node.kind == LEAF:
        return split_leaf(node, position)
    if node.kind == REVERSE:
        left, right = split_leaf(find(node.children[0]), node.size - position)
        return reverse(right), reverse(left)
    if node.kind == CONCAT:
        before: list[Node] = []
        after = pieces(node)
        while after and position >= after[0].size:
            position -= after[0].size
            before.append(after.pop(0))
        if position:
            left, right = cut(after.pop(0), position)
            before.append(left)
            after.insert(0, right)
        return concat(before), concat(after)
    return _cut_product(node, position)


def _cut_product(node: Node, position: int) -> tuple[Node, Node]:
    outer, *rest = factors(node)
    inner = product(rest)
    row, column = divmod(position, inner.size)
    if column == 0:
        above, below = cut(outer, row)
        return product([above, inner]), product([below, inner])
    left, right = cut(inner, column)
    before, after = [left], [right]
    if row:
        above, outer = cut(outer, row)
        before.insert(0, product([above, inner]))
    if outer.size > 1:
        _, below = cut(outer, 1)
        after.append(product([below, inner]))
    return concat(before), concat(after)


def take(node: Node, start: int, stop: int) -> Node:
    """The axis of the units in `[start, stop)`."""
    if stop < find(node).size:
        node = cut(node, stop)[0]
    return cut(node, start)[1] if start > 0 else find(node)


class _Unifier:
    def __init__(self) -> None:
        self.steps = 0

    def unify(self, a: Node, b: Node) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise NoRefinement
        a, b = settle(a), settle(b)
        if a is b:
            return
        if a.size != b.size:
            raise NoRefinement
        if a.size == 1:
            return
        if b.kind == LEAF and a.kind != LEAF:
            a, b = b, a
        if a.kind == LEAF:
            self._bind_leaf(a, b)
        elif a.kind == CONCAT or b.kind == CONCAT:
            self._cut_alike(a, b)
        elif a.kind == REVERSE or b.kind == REVERSE:
            self._undo_reverse(a, b)
        else:
            self._match_factors(a, b)

    def _bind_leaf(self, a: Node, b: Node) -> None:
        if b.kind == REVERSE and find(b.children[0]) is a:
            self._make_symmetric(a)
        else:
            a._parent = b
            if a.fixed:
                fix(b)

    def _make_symmetric(self, a: Node) -> None:
        """`a = rev(a)`: the second half is the first one read backwards."""
        half, odd = divmod(a.size, 2)
        first = leaf(half)
        middle = [leaf(1)] if odd else []
        a._parent = concat([first, *middle, reverse(first)])

    def _undo_reverse(self, a: Node, b: Node) -> None:
        if a.kind != REVERSE:
            a, b = b, a
        self.unify(a.children[0], reverse(b))

    def _cut_alike(self, a: Node, b: Node) -> None:
        if a.kind != CONCAT:
            a, b = b, a
        rest_a, rest_b = a, b
        while True:
            rest_a, rest_b = settle(rest_a), settle(rest_b)
            first = pieces(rest_a)[0]
            if rest_b.kind == CONCAT:
                first = min(first, pieces(rest_b)[0], key=lambda piece: piece.size)
            size = first.size
            if size == rest_a.size:
                self.unify(rest_a, rest_b)
                break
            head_a, rest_a = cut(rest_a, size)
            if settle(rest_b).size == size:
                raise NoRefinement
            head_b, rest_b = cut(rest_b, size)
            self.unify(head_a, head_b)
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise NoRefinement
        a, b = find(a), find(b)
        if a is not b:
            a._parent = b

    def _match_factors(self, a: Node, b: Node) -> None:
        left, right = factors(a), factors(b)
        while left and right:
            x, y = settle(left.pop()), settle(right.pop())
            if x.size == y.size:
                self.unify(x, y)
                continue
            if x.size < y.size:
                x, y, left, right = y, x, right, left
            if x.size % y.size:
                raise NoRefinement
            outer = leaf(x.size // y.size)
            self.unify(x, product([outer, y]))
            left.append(outer)
        if left or right:
            raise NoRefinement
        a, b = find(a), find(b)
        if a is not b:
            a._parent = b


def unify(a: Node, b: Node) -> None:
    """Make two axes of equal size one.

    Raises:
        NoRefinement: the axes share no common structure; some of their parts may have been tied by then.
    """
    _Unifier().unify(a, b)


def regroup(nodes: Sequence[Node], sizes: Sequence[int]) -> list[Node]:
    """The axes of a row-major reshape of dimensions `nodes` to `sizes` (equal numbers of elements).

    Raises:
        NoRefinement: as `unify` does, for one group of dimensions; the axes made so far are lost.
    """
    out: list[Node] = []
    for group, targets in reshape_groups([find(n).size for n in nodes], sizes):
        sources = [nodes[i] for i in group]
        wanted = [sizes[i] for i in targets]
        if len(wanted) == 1:
            out.append(product(sources) if sources else ONE)
            continue
        fresh = [leaf(size) for size in wanted]
        real = [size for size in wanted if size != 1]
        if len(real) == 1:
            whole = product(sources)
            out.extend(whole if size != 1 else ONE for size in wanted)
            continue
        unify(product(sources), product(fresh))
        out.extend(find(node) for node in fresh)
    return out


def reshape_groups(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Smallest runs of dimensions of two row-major shapes that hold the same elements."""
    i = j = 0
    while i < len(old) or j < len(new):
        group_old: list[int] = []
        group_new: list[int] = []
        size_old = size_new = 1
        if i < len(old):
            group_old.append(i)
            size_old *= old[i]
            i += 1
        if j < len(new):
            group_new.append(j)
            size_new *= new[j]
            j += 1
        while size_old != size_new:
            if size_old < size_new:
                group_old.append(i)
                size_old *= old[i]
                i += 1
            else:
                group_new.append(j)
                size_new *= new[j]
                j += 1
        while i < len(old) and old[i] == 1 and not (j < len(new) and new[j] == 1):
            group_old.append(i)
            i += 1
        yield group_old, group_new


def describe(node: Node) -> str:
    """A term in words: `(a12:4 x a13:8)`, `(a1:16 + a2:16)`."""
    node = settle(node)
    if node.size == 1:
        return "1"
    if node.kind == LEAF:
        return f"a{node.uid}:{node.size}"
    if node.kind == REVERSE:
        return f"rev({describe(node.children[0])})"
    mark = " x " if node.kind == PRODUCT else " + "
    parts = factors(node) if node.kind == PRODUCT else pieces(node)
    return "(" + mark.join(describe(part) for part in parts) + ")"
