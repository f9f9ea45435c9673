"""The formats that a model is exported to: written, opened again and run, all on the CPU.

``torch-export`` is PyTorch's own archive (``.pt2``). Opening one is not safe: ``torch.export.load``
unpickles some of its parts, so a file from elsewhere may run code. What is written here holds no
pickled weights, and is opened here only to be compared. An archive with boxes needs ``import
torchvision`` before it is opened.

``onnx`` is data alone; boxes are pooled by its RoiAlign, whose ``half_pixel`` mode (opset 16) is
``aligned``, and ``output_half_pixel`` is not. Neither format says where the code lay that it was
made from: the exporters' stack traces and example inputs are taken out.
"""

import importlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision
from torch import Tensor
from torch.export import Dim, ExportedProgram

from vidssl.errors import ExportError
from vidssl.jobs._graphs import BOXES, CLIPS, Graph

OPSET = 20
"""Of what is written as ONNX; onnxruntime reads it since 1.17."""

Run = Callable[[Sequence[Tensor]], list[Tensor]]
"""Inputs to outputs, each in the order of the graph's."""


class Format(ABC):
    """One way to write a traced graph."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """What it needs besides PyTorch; the extra that brings them has the format's name."""

    def require(self) -> None:
        """Do nothing if all is installed that the format needs.

        Raises:
            ExportError: with what is not, and how to install it.
        """
        absent = []
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError:
                absent.append(package)
        if absent:
            raise ExportError(
                f"--format {self.name} needs {', '.join(self.packages)}, of which "
                f"{', '.join(absent)} cannot be imported; install them with: "
                f"pip install 'vidssl[{self.name}]'"
            )

    @abstractmethod
    def write(self, graph: Graph, program: ExportedProgram, path: Path) -> None:
        """Write the program to ``path``, whatever that is called."""

    @abstractmethod
    def open(self, path: Path) -> Run:
        """Return what the written file computes."""

    @abstractmethod
    def versions(self) -> dict[str, str | int]:
        """Return what wrote the file and what reads it."""


class TorchExport(Format):
    """PyTorch's archive of an exported program."""

    name: ClassVar[str] = "torch-export"
    suffix: ClassVar[str] = ".pt2"

    def write(self, graph: Graph, program: ExportedProgram, path: Path) -> None:
        """Write the program to ``path``, whatever that is called."""
        with path.open("wb") as file:
            torch.export.save(program, file)

    def open(self, path: Path) -> Run:
        """Return what the written file computes."""
        module = torch.export.load(io.BytesIO(path.read_bytes())).module()

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            return list(module(*inputs))

        return run

    def versions(self) -> dict[str, str | int]:
        """Return what wrote the file and what reads it."""
        return {"torch": torch.__version__, "torchvision": torchvision.__version__}


class Onnx(Format):
    """The open format of several runtimes; needs the extra ``onnx``."""

    name: ClassVar[str] = "onnx"
    suffix: ClassVar[str] = ".onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")

    def write(self, graph: Graph, program: ExportedProgram, path: Path) -> None:
        """Write the program to ``path``, whatever that is called, and check it as ONNX does."""
        import onnx

        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[port.name for port in graph.inputs],
            output_names=[port.name for port in graph.outputs],
            external_data=False,
            verbose=False,
        )
        assert written is not None
        model = written.model_proto
        _name_sizes(model, graph)
        for node in model.graph.node:
            del node.metadata_props[:]
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString())

    def open(self, path: Path) -> Run:
        """Return what the written file computes, by onnxruntime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        names = [port.name for port in session.get_inputs()]

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            return [torch.from_numpy(output) for output in session.run(None, feed)]

        return run

    def versions(self) -> dict[str, str | int]:
        """Return what wrote the file and what reads it."""
        found = {name: str(importlib.import_module(name).__version__) for name in self.packages}
        return {"torch": torch.__version__, **found, "opset": OPSET}


FORMATS: dict[str, Format] = {format_.name: format_ for format_ in (TorchExport(), Onnx())}


def trace(graph: Graph) -> ExportedProgram:
    """Return the graph's module as a program for any number of clips, and of boxes from 0.

    It is traced with 2 clips and 3 boxes, which leaves no mark on it.

    Raises:
        ExportError: if the network cannot take clips of the graph's size.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = {CLIPS: Dim(CLIPS, min=1), BOXES: Dim(BOXES, min=0)}
    shapes = tuple(
        {axis: sizes[size] for axis, size in enumerate(port.shape) if isinstance(size, str)}
        for port in graph.inputs
    )
    with torch.no_grad():
        try:
            graph.module(*graph.draw(1, 1, generator))
        except (ValueError, RuntimeError) as error:  # PyTorch's own, where a map becomes too small
            shape = "x".join(str(size) for size in graph.inputs[0].shape[2:])
            raise ExportError(
                f"{graph.backbone}: cannot take clips of {shape} (frames, height, width): {error}"
            ) from error
        program = torch.export.export(
            graph.module, graph.draw(2, 3, generator), dynamic_shapes=shapes
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    program.example_inputs = None
    return program


def _name_sizes(model: Any, graph: Graph) -> None:
    """Give the free sizes of inputs and outputs their words, everywhere in an ONNX model."""
    words = {}
    for value, port in zip(model.graph.input, graph.inputs, strict=True):
        for size, word in zip(value.type.tensor_type.shape.dim, port.shape, strict=True):
            if isinstance(word, str):
                words[size.dim_param] = word
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in words:
                size.dim_param = words[size.dim_param]
