"""Measured latency: of whole models, of single operations, and plans that meet a latency budget."""

from .folder import cache_folder
from .table import LatencyTable
from .timing import compare, measure

__all__ = ["LatencyTable", "cache_folder", "compare", "measure"]
