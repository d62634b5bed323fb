"""Layers printed as they were and as they are."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ...errors import InputError


class print_tool:
    """Shows what has become of each layer.

    Example:
        >>> print_tool.before_pruning(model)
        >>> pruner.step()
        >>> print_tool.after_pruning(model)
    """

    _before: ClassVar[str | None] = None

    @staticmethod
    def before_pruning(model: nn.Module) -> None:
        """Remember how the model is printed."""
        print_tool._before = str(model)

    @staticmethod
    def after_pruning(model: nn.Module, do_print: bool = True) -> str:
        """Print the model, `before => after` where a line has changed; returns the text.

        Raises:
            InputError: `before_pruning` has not been called.
        """
        if print_tool._before is None:
            raise InputError("call print_tool.before_pruning(model) before the model is pruned")
        lines = zip(print_tool._before.split("\n"), str(model).split("\n"), strict=False)
        text = "".join(f"{a}\n" if a == b else f"{a} => {b.lstrip()}\n" for a, b in lines)
        print_tool._before = None
        if do_print:
            print(text)
        return text
