"""Accuracy at equal cost, beside Torch-Pruning and `torch.nn.utils.prune`: `python -m benchmarks.quality`."""
