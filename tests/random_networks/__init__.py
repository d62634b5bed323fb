"""Networks built from random programs, reproducible by seed: `random_network(seed)`."""

from .programs import Network, random_network

__all__ = ["Network", "random_network"]
