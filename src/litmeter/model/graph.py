"""OpenVINO's graphs of models: read, checked, run, given their normalisation, and their operators counted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import openvino
import torch
from openvino.preprocess import PrePostProcessor

from litmeter.errors import ParamsError
from litmeter.model.card import ModelCard


def read_graph(path: Path, image_size: int) -> openvino.Model:
    """The graph in an ONNX file, or as the stage ``export`` wrote it.

    Raise ParamsError where OpenVINO cannot read it, or it takes no square images of this size.
    """
    try:
        graph = openvino.Core().read_model(path)
    except RuntimeError as error:
        line = " ".join(str(error).split())[-300:]
        raise ParamsError(f"model.onnx: OpenVINO cannot read {path}: {line}") from error
    takes = ", ".join(f"{one.element_type.to_string()} {one.partial_shape}" for one in graph.inputs)
    images = openvino.PartialShape([-1, 3, image_size, image_size])
    if (len(graph.inputs), len(graph.outputs)) != (1, 1) or not (
        graph.input().element_type.is_real() and graph.input().partial_shape.compatible(images)
    ):
        raise ParamsError(
            f"model.onnx: {path} takes {takes}, and has {len(graph.outputs)} outputs; allowed: floats "
            f"{images} (by model.preprocess.size), and one output"
        )
    return graph


class GraphModel(torch.nn.Module):
    """A graph as a module without parameters, in float32 on the CPU: for its test and its reference answers.

    It takes float images (N, 3, size, size), and runs one by one: some graphs take no larger batch.

    Attributes:
        graph, of_one: as it was read, and for a batch of one image.
    """

    def __init__(self, graph: openvino.Model, image_size: int) -> None:
        super().__init__()
        self.graph, self.of_one = graph, graph.clone()
        self.of_one.reshape([1, 3, image_size, image_size])
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        self._compiled = openvino.Core().compile_model(self.of_one, "CPU", options)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        single = torch.split(images.float(), 1)
        outputs = [self._compiled(image.contiguous().numpy())[0] for image in single]
        return torch.cat([torch.from_numpy(logits.copy()) for logits in outputs])


def pixel_graph(graph: openvino.Model, card: ModelCard) -> openvino.Model:
    """The graph with the card's normalisation before it, for uint8 pixels (N, 3, size, size)."""
    processor = PrePostProcessor(graph)
    own = processor.input()
    own.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NCHW"))
    own.model().set_layout(openvino.Layout("NCHW"))
    mean, std = ([255 * value for value in values] for values in (card.mean, card.std))
    own.preprocess().convert_element_type(openvino.Type.f32).mean(mean).scale(std)
    return processor.build()


def converted(model: torch.nn.Module, example: torch.Tensor, any_batch: bool = False) -> openvino.Model:
    """The graph of a torch module, for batches of the size of ``example``, or of any size."""
    # Of two images, as torch takes a size of one for a constant.
    images = torch.cat([example[:1]] * 2) if any_batch else example
    shapes = ({0: torch.export.Dim.AUTO},) if any_batch else None
    with torch.no_grad():
        exported = torch.export.export(model, (images,), dynamic_shapes=shapes)
        graph: openvino.Model = openvino.convert_model(exported)
    return graph


class Operator(NamedTuple):
    """A convolution or matrix product of a graph, for the batch size that the graph has.

    Attributes:
        macs: its multiply-accumulates.
        moved: numbers in each activation that it reads or writes.
        layer, takes: torch's convolution of the same size, with other weights, and the shape of an image
            that it takes; for those of two dimensions.
    """

    macs: int
    moved: tuple[int, ...]
    layer: torch.nn.Conv2d | None = None
    takes: tuple[int, ...] = ()


def operators(graph: openvino.Model) -> Iterator[Operator]:
    """The convolutions and matrix products of a graph with static shapes."""
    fixed: set[str] = set()  # names of the nodes that no image changes
    for node in graph.get_ordered_ops():
        kind, inputs = node.get_type_name(), node.input_values()
        varying = [value for value in inputs if value.get_node().get_name() not in fixed]
        if kind == "Constant" or (inputs and not varying):
            fixed.add(node.get_name())
            continue
        if kind not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        outputs, options = math.prod(node.get_output_shape(0)), node.get_attributes()
        moved = (*(math.prod(value.shape) for value in varying), outputs)
        taken, weights = ([*value.shape] for value in inputs)
        if kind == "MatMul":
            depth = taken[-2] if options["transpose_a"] and len(taken) > 1 else taken[-1]
            yield Operator(outputs * depth, moved)
            continue
        groups = weights.pop(0) if kind == "GroupConvolution" else 1
        channels, per_group, *kernel = weights
        found = Operator(outputs * per_group * math.prod(kernel), moved)
        if len(kernel) == 2:
            layer = torch.nn.Conv2d(
                groups * per_group,
                groups * channels,
                tuple(kernel),
                stride=tuple(options["strides"]),
                padding=tuple(map(max, options["pads_begin"], options["pads_end"])),
                dilation=tuple(options["dilations"]),
                groups=groups,
            )
            found = found._replace(layer=layer, takes=tuple(taken[1:]))
        yield found


def parameters_in(graph: openvino.Model) -> int:
    """The numbers in a graph's constants, but for those that say shapes and axes."""
    constants = (node for node in graph.get_ops() if node.get_type_name() == "Constant")
    types = ((node.get_element_type(), node) for node in constants)
    of_bytes = (openvino.Type.i8, openvino.Type.u8)
    return sum(
        math.prod(node.get_output_shape(0)) for kind, node in types if kind.is_real() or kind in of_bytes
    )
