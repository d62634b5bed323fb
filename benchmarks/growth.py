"""How cost grows with depth, and a 70-billion-parameter model on meta: `python -m benchmarks.growth`.

Tiny Llamas of 4 to 64 layers are traced, planned and applied: the time a layer should be flat. A model of the
shape of Llama-3-70B is then built on the meta device, traced and planned, without a single weight in memory.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

from benchmarks import isolated
from benchmarks.publish import publish

DEPTHS = (4, 8, 16, 32, 64)
STAGES = ("trace", "plan", "apply")
FLAT = 1.25
LARGE_SECONDS, LARGE_BYTES = 10.0, 1.5e9
LLAMA_70B = {
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


def _llama(device: str, **options: Any) -> Any:
    import torch

    from benchmarks.zoo.torchvision_shim import import_torchvision

    import_torchvision()  # transformers imports it
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(**options)).eval()


def time_depth(layers: int, repeats: int) -> dict[str, Any]:
    """Seconds of each stage for a tiny Llama, the smallest of `repeats` runs after a warm-up."""
    import torch

    import prunus

    def once(depth: int) -> list[float]:
        model = _llama(
            "cpu",
            num_hidden_layers=depth,
            hidden_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=128,
            vocab_size=100,
        )
        inputs = {"input_ids": torch.randint(3, 100, (1, 16))}
        marks = [time.perf_counter()]
        graph = prunus.trace(model, kwargs=inputs)
        marks.append(time.perf_counter())
        plan = graph.plan(ratio=0.5)
        marks.append(time.perf_counter())
        plan.apply(model)
        marks.append(time.perf_counter())
        return [end - start for start, end in itertools.pairwise(marks)]

    once(2)
    runs = [once(layers) for _ in range(repeats)]
    return {"layers": layers, **{stage: min(run[i] for run in runs) for i, stage in enumerate(STAGES)}}


def time_large() -> dict[str, Any]:
    """Seconds and peak memory to trace and plan the 70B shape, on meta tensors only."""
    import torch

    import prunus
    from benchmarks.peak_memory import resident

    model = _llama("meta", **LLAMA_70B)
    inputs = {"input_ids": torch.zeros(1, 128, dtype=torch.long, device="meta")}
    start = time.perf_counter()
    graph = prunus.trace(model, kwargs=inputs)
    traced = time.perf_counter()
    plan = graph.plan(ratio=0.5)
    planned = time.perf_counter()
    total = sum(p.numel() for p in model.parameters())
    left = 0
    for name, _ in model.named_parameters():
        size = 1
        for indices in plan.indices(name):
            size *= len(indices)
        left += size
    return {
        "params": total,
        "remaining": left / total,
        "trace": traced - start,
        "plan": planned - traced,
        "peak_rss": resident("VmHWM"),
    }


def main() -> None:
    """Measure and publish `growth`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one depth")
    options = parser.parse_args()

    rows: list[dict[str, Any]] = []
    for depth in DEPTHS:
        row = isolated.call(
            "benchmarks.growth", "time_depth", depth, options.repeats, timeout=options.timeout
        )
        rows.append({"layers": depth, **row})
    large = isolated.call("benchmarks.growth", "time_large", timeout=options.timeout)

    targets = []
    good = [row for row in rows if "error" not in row]
    if good:
        a_layer = [sum(row[stage] for stage in STAGES) / row["layers"] for row in good]
        growth = a_layer[-1] / a_layer[0]
        depths = f"{good[0]['layers']} to {good[-1]['layers']} layers"
        text = f"time a layer from {depths} grows by {growth:.2f}, at most {FLAT}"
        targets.append((text, len(good) == len(rows) and growth <= FLAT))
    if "error" not in large:
        seconds = large["trace"] + large["plan"]
        targets.append((f"70B traced and planned in {seconds:.1f} s, under 10", seconds < LARGE_SECONDS))
        peak = large["peak_rss"]
        targets.append((f"70B peak memory {peak / 1e9:.2f} GB, under 1.5", peak < LARGE_BYTES))
    publish(
        "growth",
        "Growth with depth",
        "Milliseconds a layer on tiny Llamas (hidden 64, 4 heads, 2 key-value heads), best of several runs; "
        "last a model of the shape of Llama-3-70B on the meta device, traced and planned (seconds in all).",
        ["layers", *STAGES],
        [[str(row["layers"]), *_cells(row)] for row in rows] + [_large_row(large)],
        {"depths": rows, "llama_70b": large},
        targets,
    )


def _cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["error"][:60], "", ""]
    return [f"{1000 * row[stage] / row['layers']:.1f} ms" for stage in STAGES]


def _large_row(large: dict[str, Any]) -> list[str]:
    if "error" in large:
        return ["80 (70B)", large["error"][:60], "", ""]
    memory = f"peak {large['peak_rss'] / 1e9:.2f} GB"
    return ["80 (70B)", f"{large['trace']:.1f} s", f"{large['plan']:.1f} s", memory]


if __name__ == "__main__":
    main()
