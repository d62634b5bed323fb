"""Every error that Prunus raises on purpose, one class a cause, all under `PruningError`."""

from __future__ import annotations


class PruningError(Exception):
    """Base of all errors raised on purpose; the model is untouched whenever one is raised."""


class InputError(PruningError, ValueError):
    """An argument has the right type and a wrong value."""


class ArgumentTypeError(PruningError, TypeError):
    """An argument is of a type that cannot be used here."""


class UnknownNameError(PruningError, ValueError, KeyError):
    """A module, parameter or axis name that the model does not have."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class TraceError(PruningError):
    """The model could not be run on the given inputs."""


class BudgetError(PruningError, ValueError):
    """A budget that no plan can meet; the message gives the smallest reachable value."""


class PlanError(PruningError):
    """A plan that does not fit the model it is applied to."""


class SurgeryError(PruningError):
    """The pruned model is not the one that the plan promised; everything has been put back."""


class CheckpointError(PruningError, ValueError):
    """A checkpoint that is damaged, unsafe, too new, or made for another model."""
