"""Benchmarks of Prunus: each prints a table, writes JSON, and quotes ratios against a named peer."""
