"""Measured latency: of whole models, of single operations, and plans that meet a latency budget."""

from .folder import cache_folder
from .measure import compare, measure
from .table import LatencyTable

__all__ = ["LatencyTable", "cache_folder", "compare", "measure"]
