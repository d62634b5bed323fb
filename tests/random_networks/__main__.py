"""Print the network of a seed: `python -m random_networks 17`, from the tests folder."""

import sys

from . import random_network

model, inputs = random_network(int(sys.argv[1]))
print(model)
print("input", [tuple(x.shape) for x in inputs])
