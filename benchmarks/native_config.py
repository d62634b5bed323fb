"""Halved feed-forward layers against natively small models: `python -m benchmarks.native_config`.

Halving every feed-forward axis of a Hugging Face model must give what its users would have written by hand: a
state dict that loads strictly into the class built from a smaller configuration, equal outputs, and a
`model.config` that says the new size.
"""

from __future__ import annotations

import copy
import re
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.publish import publish
from benchmarks.zoo import criteria, hf_models


@dataclass(frozen=True)
class Family:
    """A zoo architecture, the modules whose output is the feed-forward axis, and its configuration field."""

    name: str
    modules: str
    field: str


FAMILIES = (
    Family("llama", r"mlp\.(gate|up)_proj$", "intermediate_size"),
    Family("qwen2", r"mlp\.(gate|up)_proj$", "intermediate_size"),
    Family("qwen3", r"mlp\.(gate|up)_proj$", "intermediate_size"),
    Family("opt", r"fc1$", "ffn_dim"),
    Family("gpt2", r"mlp\.c_fc$", "n_inner"),
    Family("bert", r"intermediate\.dense$", "intermediate_size"),
)


@dataclass
class Outcome:
    """What held for one family."""

    name: str
    config_says: int | None
    wanted: int
    loads: bool
    difference: float
    exact: bool
    params: int
    left: int

    @property
    def met(self) -> bool:
        """Whether everything held."""
        good = self.loads and self.exact and self.config_says == self.wanted
        return good and self.difference <= criteria.TOLERANCE


def halve_feed_forward(family: Family) -> Outcome:
    """Prune the feed-forward axes of one tiny model by half, and compare with a natively small one."""
    import prunus

    entry = next(entry for entry in hf_models.entries() if entry.name == family.name)
    model = entry.build()
    _, kwargs = entry.inputs(model)
    names = [name for name, _ in model.named_modules() if re.search(family.modules, name)]
    params = sum(p.numel() for p in model.parameters())
    wanted = _width(model, names[0]) // 2

    plan = prunus.prune(model, kwargs=kwargs, ratio=dict.fromkeys(names, 0.5))
    config: Any = copy.deepcopy(model.config)
    small = hf_models.make_model(hf_models.architecture(family.name), **{family.field: wanted}).eval()
    try:
        small.load_state_dict(model.state_dict(), strict=True)
        loads = True
    except RuntimeError:
        loads = False
    _, fresh = entry.inputs(model, 1)
    difference = float("nan")
    if loads:
        expected = criteria.run(small, (), fresh)
        difference = criteria.difference(criteria.run(model, (), fresh), expected)
    left = sum(p.numel() for p in model.parameters())
    said = getattr(config, family.field)
    return Outcome(family.name, said, wanted, loads, difference, bool(plan.exact), params, left)


def _width(model: torch.nn.Module, name: str) -> int:
    # The bias, because GPT-2's Conv1D keeps its weight transposed; Llama's projections have none.
    module = model.get_submodule(name)
    source = module.weight if module.bias is None else module.bias
    return int(source.shape[0])


def main() -> None:
    """Run the six families and publish `native_config`."""
    outcomes = [halve_feed_forward(family) for family in FAMILIES]
    publish(
        "native_config",
        "Halved feed-forward axes against natively small models",
        "Each tiny model has its feed-forward axes halved; its state dict is loaded strictly into the same "
        "class built from the smaller configuration, and the outputs of the two are compared.",
        ["model", "parameters", "left", "config says", "loads strictly", "difference"],
        [
            [
                outcome.name,
                str(outcome.params),
                str(outcome.left),
                str(outcome.config_says),
                "yes" if outcome.loads else "no",
                f"{outcome.difference:.0e}",
            ]
            for outcome in outcomes
        ],
        [asdict(outcome) for outcome in outcomes],
        [(f"{o.name}: loads, equal, config says {o.wanted}", o.met) for o in outcomes],
    )


if __name__ == "__main__":
    main()
