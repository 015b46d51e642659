"""The graph of the legacy package's two models as Keras 3 describes it in `config.json`.

Derived from the description inside genuine files; Keras itself is not needed. The order of the layers
matters: it is the order of `get_weights()`, and it numbers the groups of the weights file.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptycho_backends import constants
from ptycho_backends.archive.genuine_archive import SHARING, TRAINED, layer_numbers
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference.initial_weights import layer_channels

MODEL_NAMES = {TRAINED: "functional", SHARING: "functional_1"}
_OUTPUTS = {TRAINED: ("trimmed_obj", "intensity_scaler_inv", "pred_intensity"), SHARING: ("trimmed_obj",)}
_INPUTS = ("input", "input_positions")

_KERAS, _OPS = "keras.layers", "keras.src.ops"
_LAYERS, _MODEL, _HELPER = "ptycho.custom_layers", "ptycho.model", "ptycho.tf_helper"

Shape = tuple[int, ...]


@dataclass
class Node:
    """One layer or operation, with the settings that `config.json` describes."""

    name: str
    module: str
    class_name: str
    shape: Shape
    """Of its output, without the batch axis."""
    inputs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    as_list: bool = False
    """Pass the inputs as one list."""
    output_index: int = 0
    """Number of the output that the next layer takes."""
    tensor_dtype: str = "float32"
    built: bool = True
    """Keras records the shape it was built for."""
    slice: Mapping[str, int | None] | None = None
    """Of the last axis, for `GetItem`."""

    @property
    def is_layer(self) -> bool:
        """Operations have no weights and no place in the weights file."""
        return not self.module.startswith(_OPS)


class _Graph:
    """Nodes by name; a new one is given its inputs by name, and returns its own."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.nodes: dict[str, Node] = {}
        self.filters = {layer: channels[1] for layer, channels in layer_channels(config).items()}
        self.numbers = layer_numbers(config)
        self._counts: dict[str, int] = {}

    def add(self, node: Node) -> str:
        self.nodes[node.name] = node
        return node.name

    def shape(self, name: str) -> Shape:
        return self.nodes[name].shape

    def numbered(self, stem: str) -> str:
        """Keras's automatic name: the stem, then the stem with 1, 2, ..."""
        count = self._counts.get(stem, 0)
        self._counts[stem] = count + 1
        return f"{stem}_{count}" if count else stem

    def operation(self, stem: str, module: str, class_name: str, inputs: tuple[str, ...]) -> str:
        name, shape = self.numbered(stem), self.shape(inputs[0])
        return self.add(Node(name, f"{_OPS}.{module}", class_name, shape, inputs, built=False))

    def conv(self, layer: str, source: str, activation: str = "relu") -> str:
        number = self.numbers[layer]
        name = f"conv2d_{number}" if number else "conv2d"
        filters = self.filters[layer]
        settings = {
            "filters": filters,
            "kernel_size": [3, 3],
            "strides": [1, 1],
            "padding": "same",
            "data_format": "channels_last",
            "dilation_rate": [1, 1],
            "groups": 1,
            "activation": activation,
            "use_bias": True,
            "kernel_initializer": _initializer("GlorotUniform", seed=None, input_axes=None, output_axes=None),
            "bias_initializer": _initializer("Zeros"),
            "kernel_regularizer": None,
            "bias_regularizer": None,
            "activity_regularizer": None,
            "kernel_constraint": None,
            "bias_constraint": None,
        }
        shape = (*self.shape(source)[:2], filters)
        return self.add(Node(name, _KERAS, "Conv2D", shape, (source,), settings))

    def pool(self, source: str) -> str:
        height, width, channels = self.shape(source)
        settings = {
            "pool_size": [2, 2],
            "padding": "same",
            "strides": [2, 2],
            "data_format": "channels_last",
        }
        name, shape = self.numbered("max_pooling2d"), (height // 2, width // 2, channels)
        return self.add(Node(name, _KERAS, "MaxPooling2D", shape, (source,), settings, built=False))

    def upsample(self, source: str) -> str:
        height, width, channels = self.shape(source)
        settings = {"size": [2, 2], "data_format": "channels_last", "interpolation": "nearest"}
        name, shape = self.numbered("up_sampling2d"), (2 * height, 2 * width, channels)
        return self.add(Node(name, _KERAS, "UpSampling2D", shape, (source,), settings))

    def channels(self, source: str, start: int | None, stop: int | None) -> str:
        height, width, channels = self.shape(source)
        shape = (height, width, len(range(channels)[start:stop]))
        part = {"start": start, "stop": stop, "step": None}
        node = Node(
            self.numbered("get_item"), f"{_OPS}.numpy", "GetItem", shape, (source,), built=False, slice=part
        )
        return self.add(node)

    def decoder_block(self, block: str, source: str) -> str:
        return self.upsample(self.conv(f"{block}/conv1", self.conv(f"{block}/conv0", source)))

    def custom(
        self,
        name: str,
        module: str,
        class_name: str,
        shape: Shape,
        inputs: tuple[str, ...],
        settings: Mapping[str, Any],
        **details: Any,
    ) -> str:
        """A layer of the legacy package."""
        return self.add(Node(name, module, class_name, shape, inputs, settings, **details))


def _initializer(class_name: str, **settings: Any) -> dict[str, Any]:
    return {
        "module": "keras.initializers",
        "class_name": class_name,
        "config": settings,
        "registered_name": None,
    }


# --- the models


def _built(config: ModelConfig) -> _Graph:
    graph, N, C = _Graph(config), config.N, config.group_size
    for name, shape in zip(_INPUTS, ((N, N, C), (1, 2, C)), strict=True):
        graph.add(Node(name, _KERAS, "InputLayer", shape))
    encoded = graph.custom(
        "intensity_scaler", _MODEL, "IntensityScaler", (N, N, C), ("input",), {}, as_list=True
    )
    for i in range(len(constants.ENCODER_FILTERS[N])):
        block = f"encoder/block{i}"
        encoded = graph.pool(graph.conv(f"{block}/conv1", graph.conv(f"{block}/conv0", encoded)))
    heads = (
        _decoded(graph, encoded, "amplitude", "amp", "amp_padded", config.amp_activation, 1.0),
        _decoded(graph, encoded, "phase", "phi", "phase_padded", "tanh", math.pi),
    )
    patches = graph.custom(
        "obj", _LAYERS, "CombineComplexLayer", graph.shape(heads[0]), heads, {"use_polar": True}, as_list=True
    )
    _diffracted(graph, patches)
    return graph


def _decoded(
    graph: _Graph, encoded: str, decoder: str, head: str, padded: str, activation: str, scale: float
) -> str:
    config = graph.config
    for i in range(len(constants.DECODER_FILTERS[config.N])):
        encoded = graph.decoder_block(f"{decoder}/block{i}", encoded)

    def activated(source: str) -> str:
        settings = {"activation_name": activation, "scale": scale}
        return graph.custom(head, _LAYERS, "ActivationLayer", graph.shape(source), (source,), settings)

    if not config.pad_object:
        border = graph.decoder_block(f"{decoder}/border", encoded)
        return activated(graph.conv(f"{decoder}/border_head", border, "linear"))

    inner = graph.channels(encoded, None, -constants.BORDER_CHANNELS)
    inner = activated(graph.conv(f"{decoder}/inner_head", inner, "linear"))
    margin, channels = config.N // 4, graph.shape(inner)[-1]
    shape = (config.N, config.N, channels)
    settings = {"padding": [[margin, margin], [margin, margin]], "data_format": "channels_last"}
    result = graph.add(Node(padded, _KERAS, "ZeroPadding2D", shape, (inner,), settings))
    if not config.probe_big:
        return result
    border = graph.channels(encoded, -constants.BORDER_CHANNELS, None)
    border = graph.decoder_block(f"{decoder}/border", border)
    border = graph.conv(f"{decoder}/border_head", border, "linear")
    border = graph.operation("silu", "nn", "Silu", (border,))
    mask = graph.numbered("center_mask_layer")
    kind = {"N": config.N, "c": channels, "kind": "border"}
    graph.custom(mask, _HELPER, "CenterMaskLayer", shape, (border,), kind)
    border = graph.operation("multiply", "numpy", "Multiply", (border, mask))
    return graph.operation("add", "numpy", "Add", (result, border))


def _diffracted(graph: _Graph, patches: str) -> None:
    config, (N, _, channels) = graph.config, graph.shape(patches)
    side, C = config.canvas_size, config.group_size
    complex_valued = {"dtype": "complex64", "tensor_dtype": "complex64"}
    group = {"N": N, "gridsize": config.gridsize}
    canvas, views = (side, side, channels), (N, N, C)
    if config.object_big:
        merged = graph.custom(
            "padded_obj_2", _LAYERS, "ReassemblePatchesLayer", canvas, (patches, "input_positions"),
            {"padded_size": side, **group}, as_list=True, **complex_valued,
        )  # fmt: skip
    else:
        merged = graph.custom(
            "padded_obj", _LAYERS, "PadReconstructionLayer", canvas, (patches,), {}, **complex_valued
        )
    graph.custom(
        "trimmed_obj", _LAYERS, "TrimReconstructionLayer", (N, N, channels), (merged,),
        {"output_size": N}, **complex_valued,
    )  # fmt: skip
    illuminated = graph.custom(
        "padded_objs_with_offsets", _LAYERS, "ExtractPatchesPositionLayer", views,
        (merged, "input_positions"), {"jitter": 0.0, **group}, as_list=True, **complex_valued,
    )  # fmt: skip
    lit = graph.custom(
        "probe_illumination", _MODEL, "ProbeIllumination", views, (illuminated,), {"N": N}, as_list=True
    )
    settings = {"h": N, "w": N, "pad": False}
    diffracted = graph.custom(
        "pred_amplitude",
        _LAYERS,
        "PadAndDiffractLayer",
        views,
        (lit,),
        settings,
        as_list=True,
        output_index=1,
    )
    flat = graph.custom("pred_diff_channels", _LAYERS, "FlatToChannelLayer", views, (diffracted,), group)
    scaled = graph.custom(
        "intensity_scaler_inv", _MODEL, "IntensityScaler_inv", views, (flat,), {}, as_list=True
    )
    graph.custom("pred_intensity", _LAYERS, "SquareLayer", views, (scaled,), {})


def ordered_nodes(config: ModelConfig, model: str) -> list[Node]:
    """The nodes of one of the two models in the order that Keras gives them when it builds the graph.

    That is: those farthest from an output first, and at equal distance in the order in which a search
    from the outputs, depth first, meets them.
    """
    nodes, outputs = _built(config).nodes, _OUTPUTS[model]
    met: list[str] = []
    # Every node stands behind its inputs here, so that distances can be found in one pass from the end.
    finished: list[str] = []

    def visit(name: str) -> None:
        if name in met:
            return
        met.append(name)
        for source in nodes[name].inputs:
            visit(source)
        finished.append(name)

    for output in outputs:
        visit(output)
    distances = dict.fromkeys(finished, 0)
    for name in reversed(finished):
        for source in nodes[name].inputs:
            distances[source] = max(distances[source], distances[name] + 1)
    # An input that no output needs comes last of all but the outputs at the end.
    places = {name: place for place, name in enumerate(met)}
    for name in _INPUTS:
        distances.setdefault(name, 0)
        places.setdefault(name, -1)
    return [nodes[name] for name in sorted(distances, key=lambda name: (-distances[name], places[name]))]


# --- as JSON


def graph_json(config: ModelConfig, model: str) -> dict[str, Any]:
    """Content of `config.json` inside `model.keras`."""
    order = ordered_nodes(config, model)
    nodes = {node.name: node for node in order}
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {
            "name": MODEL_NAMES[model],
            "trainable": True,
            "layers": [_node_json(node, nodes) for node in order],
            "input_layers": [[name, 0, 0] for name in _INPUTS],
            "output_layers": [[name, 0, 0] for name in _OUTPUTS[model]],
        },
        "registered_name": "Functional",
        "build_config": {"input_shape": None},
        "compile_config": {},
    }


def _node_json(node: Node, nodes: Mapping[str, Node]) -> dict[str, Any]:
    described: dict[str, Any] = {"module": node.module, "class_name": node.class_name}
    described["config"] = _settings_json(node)
    if node.is_layer:
        described["registered_name"] = _registered_name(node)
    else:
        described["registered_name"] = node.class_name
    if node.inputs and node.built:
        shapes = [[None, *nodes[name].shape] for name in node.inputs]
        described["build_config"] = {"input_shape": shapes if node.as_list else shapes[0]}
    described["name"] = node.name
    described["inbound_nodes"] = [{"args": _arguments(node, nodes), "kwargs": {}}] if node.inputs else []
    return described


def _settings_json(node: Node) -> dict[str, Any]:
    if not node.is_layer:
        return {"name": node.name}
    if node.class_name == "InputLayer":
        shape = {"batch_shape": [None, *node.shape], "dtype": node.dtype, "sparse": False, "ragged": False}
        return {**shape, "name": node.name, "optional": False}
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": node.dtype},
        "registered_name": None,
    }
    return {"name": node.name, "trainable": True, "dtype": policy, **node.settings}


def _registered_name(node: Node) -> str | None:
    if node.module == _KERAS:
        return None
    # The layers of this module are registered without a package.
    return node.class_name if node.module == _HELPER else f"ptycho>{node.class_name}"


def _arguments(node: Node, nodes: Mapping[str, Node]) -> list[Any]:
    tensors: list[Any] = [
        {
            "class_name": "__keras_tensor__",
            "config": {
                "shape": [None, *nodes[name].shape],
                "dtype": nodes[name].tensor_dtype,
                "keras_history": [name, 0, nodes[name].output_index],
            },
        }
        for name in node.inputs
    ]
    if node.slice is not None:
        ellipsis = {"class_name": "__ellipsis__", "config": {}}
        return [*tensors, [ellipsis, {"class_name": "__slice__", "config": dict(node.slice)}]]
    return [tensors] if node.as_list else tensors


def group_names(nodes: Sequence[Node]) -> dict[str, str]:
    """`{layer name: group}` of the weights file: the class in snake case, counted in graph order."""
    counts: dict[str, int] = {}
    groups = {}
    for node in nodes:
        if not node.is_layer:
            continue
        stem = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.class_name).lower()
        count = counts.get(stem, 0)
        counts[stem] = count + 1
        groups[node.name] = f"{stem}_{count}" if count else stem
    return groups
