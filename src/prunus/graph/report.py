"""Graphs as text: a table of axes and the story of one layer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .axes import describe, settle
from .terms import Terms

if TYPE_CHECKING:
    from .axes import Node
    from .graph import Axis, Graph

MAX_MEMBERS = 4


def _where(axis: Axis) -> str:
    places = [f"{name}[{dim}]" for name, dim in axis.members]
    more = f" and {len(places) - MAX_MEMBERS} more" if len(places) > MAX_MEMBERS else ""
    return ", ".join(places[:MAX_MEMBERS]) + more


def table(graph: Graph) -> str:
    """Prunable axes with what they couple, then the frozen ones by reason."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    free = Table(title=f"{type(graph.model).__name__}: axes that can be pruned", title_justify="left")
    for column, justify in (
        ("axis", "left"),
        ("size", "right"),
        ("tensors", "right"),
        ("found in", "left"),
        ("", "left"),
    ):
        free.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for axis in graph.prunable:
        note = "approximate" if axis.node in graph.approximate else ""
        free.add_row(axis.name, str(axis.size), str(len(axis.members)), _where(axis), note)
    whole = Table(title="axes that stay whole", title_justify="left")
    for column, justify in (("reason", "left"), ("axes", "right"), ("for example", "left")):
        whole.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    reasons = Counter(axis.why.text for axis in graph.axes if axis.why is not None)
    for text, count in reasons.most_common():
        example = next(axis for axis in graph.axes if axis.why is not None and axis.why.text == text)
        whole.add_row(text, str(count), f"{example.name}: {example.reason}")
    out = StringIO()
    console = Console(file=out, width=120)
    console.print(free)
    console.print(whole)
    return out.getvalue().rstrip()


def term_in_names(graph: Graph, terms: Terms, node: Node) -> str:
    """An axis term with the graph's own axis names."""
    node, kind, parts = terms.parts(node)
    if node.size == 1:
        return "1"
    axis = graph.by_node.get(node)
    if kind == "leaf":
        return f"{axis.name}:{node.size}" if axis is not None else describe(node)
    inner = [term_in_names(graph, terms, part) for part in parts]
    if kind == "reverse":
        return f"reversed({inner[0]})"
    return "(" + (" x " if kind == "product" else " + ").join(inner) + ")"


def explain(graph: Graph, name: str) -> str:
    """The dimensions of a layer in axes; for each axis, its partners and the operations that tie them."""
    lines: list[str] = []
    if name in graph.by_name:
        axes = [graph.by_name[name]]
    else:
        axes = graph.axes_of(name)
        prefix = f"{name}." if name else ""
        for alias, first in graph.aliases.items():
            if alias == name or alias.startswith(prefix):
                dims = [term_in_names(graph, graph.terms, settle(node)) for node in graph.values[first].axes]
                lines.append(f"{alias}: [{', '.join(dims)}]")
    for axis in axes:
        lines.append("")
        state = "can be pruned" if axis.prunable else f"stays whole: {axis.reason}"
        lines.append(f"{axis.name} ({axis.size} units) {state}")
        if axis.node in graph.approximate:
            lines.append(f"  a cut is approximate: {graph.approximate[axis.node]}")
        lines.append(f"  found in: {', '.join(f'{n}[{d}]' for n, d in axis.members)}")
        for tie in graph.ties_of(axis):
            lines.append(f"  tied by {tie}")
        for constraint in graph.constraints.residual:
            if axis.node in constraint.poly.variables():
                others = [
                    graph.by_node[v].name
                    for v in constraint.poly.variables()
                    if v is not axis.node and v in graph.by_node
                ]
                equation = constraint.equation
                lines.append(f"  tied by size to {', '.join(others)}: {equation.what} in {equation.site}")
    return "\n".join(lines).strip()
