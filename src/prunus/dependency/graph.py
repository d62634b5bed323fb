"""`DependencyGraph`: ask what one cut drags along, look at it, execute it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InputError, TraceError, UnknownNameError
from ..graph.boundaries import Conditions
from ..graph.graph import Graph
from ..graph.trace import check_model, trace_under
from . import ops
from .customized import Customized, NoChannels, registration
from .cutting import GroupPlan, cut
from .edge import PruningFn
from .functions import PrunerBox
from .group import DependencyGroup
from .grouping import all_groups, channels_of, make_group, side_of
from .history import Record, record_of, replay
from .layout import Layout, kind_of_layer
from .node import Node
from .ops import OPTYPE
from .request import (
    as_call,
    classes_given,
    is_output_function,
    layers_given,
    not_in_graph,
    runner,
    unwrapped_dimensions,
)

_NO_CHANNELS = NoChannels()
_WITHOUT_CHANNELS = (
    OPTYPE.CONCAT,
    OPTYPE.SPLIT,
    OPTYPE.CUSTOMIZED,
    OPTYPE.ELEMENTWISE,
    OPTYPE.RESHAPE,
    OPTYPE.UNBIND,
    OPTYPE.EXPAND,
    OPTYPE.SLICE,
    OPTYPE.OUTPUT,
)


class DependencyGraph:
    """Which layers of a model have to be pruned together, layer by layer.

    The calls are those of Torch-Pruning's graph (G. Fang et al., "DepGraph: Towards Any Structural
    Pruning", 2023, arXiv:2301.12900); what they stand on is the trace of `prunus.trace`.

    Attributes:
        model: the model.
        module2node: the nodes, by module or parameter.
        REGISTERED_PRUNERS: the pruning functions by kind of layer.
        CUSTOMIZED_PRUNERS: those registered, by class or layer.
        IGNORED_LAYERS: layers that `get_all_groups` passes over; what lies inside registered ones among them.
        unwrapped_parameters: parameters that no layer holds, each with the dimension of its node.
    """

    def __init__(self) -> None:
        self.REGISTERED_PRUNERS: dict[OPTYPE, Any] = {
            **PrunerBox,
            **dict.fromkeys(_WITHOUT_CHANNELS, _NO_CHANNELS),
        }
        self.CUSTOMIZED_PRUNERS = Customized()
        self.IGNORED_LAYERS: list[nn.Module] = []
        self.ops = ops
        self._history: list[Record] = []
        self._layout: Layout | None = None
        self._model: nn.Module | None = None
        self._dims: dict[str, int] = {}
        self.whole_parameters: list[Tensor] = []
        self._nodes: dict[Any, Node] = {}

    # -- building -------------------------------------------------------------------------------------

    def register_customized_layer(
        self, layer_type_or_instance: Any = None, layer_pruner: Any = None, **named: Any
    ) -> None:
        """Let pruning functions of your own decide what happens inside a layer.

        The layer becomes one operation: its code is not looked into. With `prune_in_channels =
        prune_out_channels`, output i goes with input i; else both sides are cut one by one. A layer that is
        not registered is traced through, so this is only needed to override what its code says.

        Args:
            layer_type_or_instance: a class of modules, or one module.
            layer_pruner: an object derived from `BasePruningFunc`.
            named: the same two by the names that they have had in other versions: `layer_type` or
                `module_type`, and `pruner` or `customized_pruner`.

        Raises:
            ArgumentTypeError: something else.
        """
        self.CUSTOMIZED_PRUNERS.register(*registration(layer_type_or_instance, layer_pruner, named))
        self._layout = None

    def build_dependency(
        self,
        model: nn.Module,
        example_inputs: Any,
        forward_fn: Callable[[nn.Module, Any], Any] | None = None,
        output_transform: Callable[[Any], Any] | None = None,
        unwrapped_parameters: Iterable[tuple[nn.Parameter, int]] | Mapping[nn.Parameter, int] | None = None,
        customized_pruners: Mapping[Any, Any] | None = None,
        ignored_layers: Sequence[nn.Module] | None = None,
        ignored_params: Sequence[nn.Parameter] | None = None,
        verbose: bool = True,
    ) -> DependencyGraph:
        """Trace the model, without data and without changing it; returns the graph itself.

        Args:
            model: any `nn.Module`, in train or eval mode.
            example_inputs: a tensor, a list or tuple of positional inputs, or a dict of keyword inputs.
            forward_fn: calls the model: `forward_fn(model, example_inputs)`.
            output_transform: applied to what the model returns.
            unwrapped_parameters: for parameters that no layer holds, the dimension that their nodes stand
                for, as `(parameter, dimension)`; the last one of size over 1 where nothing is said. All
                other dimensions follow the trace all the same.
            customized_pruners: registered first, as by `register_customized_layer`.
            ignored_layers: added to `IGNORED_LAYERS`.
            ignored_params: parameters that stay whole; a group that would cut one is refused.
            verbose: whether registrations that match nothing in the model are warned of.

        Raises:
            PruningError: as `prunus.trace` does; `UnknownNameError` for a parameter that is not the model's,
                `InputError` for a dimension that it does not have.
        """
        check_model(model)
        for layer_type, pruner in (customized_pruners or {}).items():
            self.register_customized_layer(layer_type, pruner)
        dims = unwrapped_dimensions(model, unwrapped_parameters)
        self._model, self._dims = model, dims
        self.whole_parameters = list(ignored_params or ())
        self._inputs = as_call(example_inputs, forward_fn is not None)
        self._forward = runner(forward_fn, output_transform)
        self.IGNORED_LAYERS.extend(ignored_layers or ())
        self._nodes, self._layout = {}, None
        self._history = []
        boundaries = self.CUSTOMIZED_PRUNERS.boundaries(model)
        if verbose:
            for item in self.CUSTOMIZED_PRUNERS.unmatched(model):
                warnings.warn(f"registered layer {item!r} is nowhere in {type(model).__name__}", stacklevel=2)
        for module in boundaries:
            self.IGNORED_LAYERS.extend(inner for inner in module.modules() if inner is not module)
        try:
            self._trace()
        except TraceError:
            if forward_fn is not None or not isinstance(example_inputs, list | tuple):
                raise
            self._inputs = as_call(example_inputs, True)  # the model may take the list itself
            try:
                self._trace()
            except TraceError:
                self._inputs = as_call(example_inputs, False)
                self._trace()
        return self

    def _trace(self) -> Layout:
        model = self.model
        boundaries = self.CUSTOMIZED_PRUNERS.boundaries(model)
        conditions = Conditions(self._forward, boundaries, free_outputs=True)
        graph = trace_under(conditions, model, *self._inputs)

        def kind_of(module: nn.Module) -> OPTYPE | None:
            if module in boundaries:
                return OPTYPE.CUSTOMIZED
            return kind_of_layer(module, self.REGISTERED_PRUNERS)

        self._layout = Layout(graph, kind_of, self._dims, self._nodes)
        self._nodes = self._layout.nodes
        return self._layout

    @property
    def model(self) -> nn.Module:
        """The model.

        Raises:
            InputError: nothing has been built yet.
        """
        if self._model is None:
            raise InputError("the dependency graph is empty: call DG.build_dependency(model, example_inputs)")
        return self._model

    @property
    def layout(self) -> Layout:
        """The trace in terms of layers, made anew where the model has changed since."""
        return self._layout if self._layout is not None else self._trace()

    @property
    def graph(self) -> Graph:
        """The trace itself, as `prunus.trace` gives it, but for outputs, which may be cut here."""
        return self.layout.graph

    @property
    def module2node(self) -> dict[Any, Node]:
        """The nodes by module or parameter, in the order in which they run, with their neighbours."""
        assert self.layout.linked
        return self.layout.nodes

    @property
    def _module2name(self) -> dict[nn.Module, str]:
        """The names of the modules, where scripts look for them."""
        return {module: name for name, module in self.model.named_modules()}

    @property
    def unwrapped_parameters(self) -> list[tuple[nn.Parameter, int]]:
        nodes = (node for node in self.layout.nodes.values() if node.type == OPTYPE.PARAMETER)
        return [(node.module, node.pruning_dim) for node in nodes]

    @property
    def IGNORED_LAYERS_IN_TRACING(self) -> list[nn.Module]:
        """`IGNORED_LAYERS`, by the name that it has had since Torch-Pruning 1.6."""
        return self.IGNORED_LAYERS

    # -- asking ---------------------------------------------------------------------------------------

    def get_pruner_of_module(self, module: Any) -> Any:
        """The pruning functions of a layer or parameter: its own, those of its class, or of its kind."""
        own = self.CUSTOMIZED_PRUNERS.of(module)
        return own if own is not None else self.REGISTERED_PRUNERS.get(ops.module2type(module))

    def functions_of(self, node: Node) -> Any:
        """The pruning functions of a node."""
        if node.type in (OPTYPE.OUTPUT, OPTYPE.PARAMETER):  # buffers are tensors too, though no parameters
            return self.REGISTERED_PRUNERS[node.type]
        return self.get_pruner_of_module(node.module)

    def is_out_channel_pruning_fn(self, fn: PruningFn) -> bool:
        """Whether a function removes outputs; one that removes both counts as both."""
        return any(fn == functions.prune_out_channels for functions in self._all_functions())

    def is_in_channel_pruning_fn(self, fn: PruningFn) -> bool:
        """Whether a function removes inputs; one that removes both counts as both."""
        return any(fn == functions.prune_in_channels for functions in self._all_functions())

    def _all_functions(self) -> list[Any]:
        return [*self.REGISTERED_PRUNERS.values(), *self.CUSTOMIZED_PRUNERS.values()]

    def get_out_channels(self, module_or_node: Any) -> int | None:
        """How many outputs a layer, parameter or node has; None where it has no number of its own."""
        return channels_of(self, module_or_node, True)

    def get_in_channels(self, module_or_node: Any) -> int | None:
        """How many inputs a layer, parameter or node has; None where it has no number of its own."""
        return channels_of(self, module_or_node, False)

    # -- groups ---------------------------------------------------------------------------------------

    def get_pruning_group(
        self, module: Any, pruning_fn: PruningFn, idxs: int | Sequence[int] | Tensor
    ) -> DependencyGroup:
        """Everything that has to go when channels of one layer go. Nothing is changed.

        Where the channels are parts of a unit (some pixels of a flattened channel, say), the fewest whole
        units that cover them go: `group[0].idxs` says what the root really loses.

        Args:
            module: a layer of the model, or a parameter that no layer holds.
            pruning_fn: which side: `prune_conv_out_channels`, for example.
            idxs: channels of that side. All of them may be asked about, though not pruned.

        Raises:
            UnknownNameError: the module is not in the graph; a `ValueError`.
            MismatchedLayerError: a pruning function of other layers; a `TypeError` and `ValueError`.
            ChannelIndexError: indices out of range or repeated; an `IndexError` and `ValueError`.
            GroupError: channels that cannot go, with the reason; a `ValueError`.
        """
        model = self.model
        if self._layout is not None and not self._layout.is_current():
            self._layout = None
        node = self.layout.nodes.get(module) if isinstance(module, nn.Module | Tensor) else None
        if node is None:
            raise UnknownNameError(not_in_graph(model, module))
        functions = self.functions_of(node)
        is_output = is_output_function(node, functions, pruning_fn)
        own = functions.prune_out_channels if is_output else functions.prune_in_channels
        return make_group(self, side_of(self.layout, node, is_output), own, idxs)

    def get_all_groups(
        self,
        ignored_layers: Sequence[nn.Module] = (),
        root_module_types: Sequence[type] = (ops.TORCH_CONV, ops.TORCH_LINEAR),
        root_instances: Sequence[nn.Module] | None = None,
    ) -> Iterator[DependencyGroup]:
        """One group after another, each with all channels that can go, from the outputs of root layers.

        Layers of which nothing can go, or that have one channel, root no group. A group that would prune
        outputs of an ignored layer is left out. Groups may be pruned meanwhile.

        Args:
            ignored_layers: layers whose outputs stay whole.
            root_module_types: the classes of root layers.
            root_instances: only these layers are roots.

        Raises:
            ArgumentTypeError: names instead of layers, or no classes in `root_module_types`.
        """
        ignored = [*layers_given(ignored_layers, "ignored_layers"), *self.IGNORED_LAYERS]
        roots = None if root_instances is None else layers_given(root_instances, "root_instances")
        return all_groups(self, ignored, classes_given(root_module_types), roots)

    def check_pruning_group(self, group: DependencyGroup) -> bool:
        """Whether every layer of a group keeps at least one channel."""
        return group.emptied() is None

    # -- pruning --------------------------------------------------------------------------------------

    def execute(
        self, group: DependencyGroup, record_history: bool = True, optimizer: Optimizer | None = None
    ) -> tuple[GroupPlan, Record | None] | None:
        """Cut what a current group says; see `DependencyGroup.prune`. None where it is empty."""
        root = group[0]
        if not root.idxs:
            return None
        plan = cut(self, group, optimizer)
        self._layout = None
        record = None
        if record_history:
            record = record_of(group.root.node.path, group.root.is_output, root.idxs)
            self._history.append(record)
        return plan, record

    def take_back(self, plan: GroupPlan, record: Record | None) -> None:
        """Undo one execution, and forget its record."""
        plan.undo(self.model)
        self._layout = None
        self._history = [item for item in self._history if item is not record]

    def pruning_history(self) -> list[Record]:
        """What has been pruned, oldest first, as `[layer name, whether outputs, indices]`; plain JSON."""
        return self._history

    def load_pruning_history(self, pruning_history: Any) -> None:
        """Prune as a history says: the model, fresh, becomes the one that it was taken from.

        Raises:
            PruningError: a record that does not fit; the model is as it was.
        """
        replay(self, pruning_history)
