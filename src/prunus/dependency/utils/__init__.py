"""Counting, measuring and drawing, under the names that scripts use."""

from . import benchmark
from .counting import count_ops_and_params, count_params
from .matrices import draw_computational_graph, draw_dependency_graph, draw_groups
from .nested import flatten_as_list
from .printing import print_tool

__all__ = [
    "benchmark",
    "count_ops_and_params",
    "count_params",
    "draw_computational_graph",
    "draw_dependency_graph",
    "draw_groups",
    "flatten_as_list",
    "print_tool",
]
