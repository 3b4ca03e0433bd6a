"""OpenVINO's graphs: of ONNX files, as torch modules; of torch modules; and the operators in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.preprocess import PrePostProcessor

from litmeter.classifier.model.card import ModelCard
from litmeter.errors import ParamsError
from litmeter.system.temporary import scratch


class GraphModel(torch.nn.Module):
    """The model of an ONNX file, for its test and reference answers on the CPU; its state is the graph."""

    def __init__(self) -> None:
        super().__init__()
        self._state = torch.empty(0, dtype=torch.uint8)
        self._compiled: openvino.CompiledModel | None = None

    def get_extra_state(self) -> torch.Tensor:
        """The bytes of the graph as OpenVINO writes it: its structure in XML, a zero, and its weights."""
        return self._state

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Set the graph."""
        self._state, self._compiled = state, None

    def graph(self, image_size: int) -> openvino.Model:
        """The graph; raise ParamsError unless its only input is floats (N, 3, image_size, image_size)."""
        structure, _, weights = self._state.numpy().tobytes().partition(b"\0")
        graph = openvino.Core().read_model(structure, weights)
        images = openvino.PartialShape([-1, 3, image_size, image_size])
        if (len(graph.inputs), len(graph.outputs)) != (1, 1) or not (
            graph.input().element_type.is_real() and graph.input().partial_shape.compatible(images)
        ):
            takes = ", ".join(f"{i.element_type.to_string()} {i.partial_shape}" for i in graph.inputs)
            raise ParamsError(
                f"it takes {takes or 'nothing'}, and has {len(graph.outputs)} outputs; allowed: one input, "
                "of floats, and one output"
            )
        return graph

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of floats (N, 3, size, size), image by image: some graphs take no batch."""
        if self._compiled is None:
            graph, options = self.graph(images.shape[-1]), {"INFERENCE_PRECISION_HINT": "f32"}
            graph.reshape([1, *images.shape[1:]])
            self._compiled = openvino.Core().compile_model(graph, "CPU", options)
        outputs = [self._compiled(image.contiguous().numpy())[0] for image in torch.split(images.float(), 1)]
        return torch.cat([torch.from_numpy(logits.copy()) for logits in outputs])


def read_onnx(path: Path) -> dict[str, torch.Tensor]:
    """The state of a ``GraphModel`` from an ONNX file; raise ParamsError where OpenVINO cannot read it."""
    reader = FrontEndManager().load_by_framework("onnx")
    try:
        graph = reader.convert(reader.load(str(path)))
    except Exception as error:  # of several types
        line = " ".join(str(error).split())[-300:]
        raise ParamsError(f"model.onnx: OpenVINO cannot read {path}: {line}") from error
    with scratch() as folder:
        openvino.serialize(graph, folder / "model.xml", folder / "model.bin")
        content = (folder / "model.xml").read_bytes() + b"\0" + (folder / "model.bin").read_bytes()
    return {"_extra_state": torch.frombuffer(bytearray(content), dtype=torch.uint8)}


def pixel_graph(graph: openvino.Model, card: ModelCard) -> openvino.Model:
    """The graph with the card's normalisation before it, for uint8 pixels (N, 3, size, size)."""
    processor = PrePostProcessor(graph)
    images = processor.input()
    images.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NCHW"))
    images.model().set_layout(openvino.Layout("NCHW"))
    mean, std = ([255 * value for value in values] for values in (card.mean, card.std))
    images.preprocess().convert_element_type(openvino.Type.f32).mean(mean).scale(std)
    return processor.build()


def converted(model: torch.nn.Module, example: torch.Tensor, any_batch: bool = False) -> openvino.Model:
    """The graph of a torch module, for batches as large as ``example`` or of any size."""
    # torch takes a batch size of one for a constant.
    images = torch.cat([example[:1]] * 2) if any_batch else example
    shapes = ({0: torch.export.Dim.AUTO},) if any_batch else None
    with torch.no_grad():
        exported = torch.export.export(model, (images,), dynamic_shapes=shapes)
        graph: openvino.Model = openvino.convert_model(exported)
    return graph


class Operator(NamedTuple):
    """A convolution or matrix product: multiply-accumulates, weights, and the size of each activation."""

    macs: int
    weights: int
    activations: tuple[int, ...]


def operators(graph: openvino.Model, image_size: int) -> Iterator[Operator]:
    """The convolutions and matrix products that one image runs through."""
    graph.reshape([1, 3, image_size, image_size])
    varying = {node.get_name() for node in graph.get_parameters()}  # nodes whose output depends on the image
    for node in graph.get_ordered_ops():
        inputs, kind = node.input_values(), node.get_type_name()
        read = [value for value in inputs if value.get_node().get_name() in varying]
        if not read:
            continue
        varying.add(node.get_name())
        if kind not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        taken, weights, output = (value.shape for value in (*inputs, node.output(0)))
        if kind == "MatMul":
            depth = taken[-2 if node.get_attributes()["transpose_a"] else -1]
        else:
            depth = math.prod(weights) // output[1]  # weights of an output channel
        weight_count = math.prod(weights) if len(read) == 1 else 0  # else both inputs are activations
        moved = tuple(math.prod(value.shape) for value in (*read, node.output(0)))
        yield Operator(math.prod(output) * depth, weight_count, moved)
