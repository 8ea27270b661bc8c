"""`vitrail export`: a model as a file for a server, a colleague or another library."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..deploy import export
from ..exported import ExportFormat
from ..nn import Execution
from ._options import LoadOptions


@dataclass(frozen=True)
class Export(LoadOptions):
    """Exports the model in a file of weights as StableHLO, which JAX runs on CPU, CUDA and TPU without vitrail's
    model code, or as ONNX, for onnxruntime and others. The folder gets a program for each function of the model, and
    card.json, which says what they take and return."""

    file: Path
    """A safetensors or npz file, an index of several, or a folder with one."""
    out: Path
    """The folder to write."""
    format: ExportFormat = "stablehlo"
    """stablehlo needs the extra `export`, onnx the extra `onnx`."""
    weights: Literal["inside", "beside"] = "inside"
    """Whether the weights are in the file of the program, or in one beside it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the computation; float32 for ONNX. Inputs and outputs are float32."""
    part: Literal["image"] | None = None
    """`image` for the image model of a system alone."""


def run_export(command: Export) -> None:
    """Exports a model and prints what was written."""
    execution = Execution(compute_dtype=command.dtype)
    model = command.load_model(command.file, part=command.part, execution=execution)
    card = export(model, command.out, format=command.format, weights=command.weights)
    if card.preprocess is None:
        print("preprocess: not known for the weights, so the card has none")
    for name, function in card.functions.items():
        taken, given = (", ".join(map(str, specs)) for specs in (function.inputs, function.outputs))
        print(f"{name}: ({taken}) -> ({given})")
        print(f"    {sum(function.sizes.values()):,} bytes, {function.difference:.1e} from the model")
    print(f"written: {command.out}")
