"""`vitrail export`: a model as a file for a server, a colleague or another library."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..deploy import check_export, export
from ..exported import ExportFormat
from ..nn import Execution
from ._options import LoadOptions


@dataclass(frozen=True)
class Export(LoadOptions):
    """Exports a model as StableHLO or ONNX, to run it without vitrail's model code.

    JAX runs StableHLO on CPU, CUDA and TPU; onnxruntime and others run ONNX. The folder gets a program for each
    function of the model, and card.json, which lists their inputs and outputs.
    """

    file: Path
    """A safetensors or npz file, an index of several, or a folder with one."""
    out: Path
    """The folder to write."""
    format: ExportFormat = "stablehlo"
    """The format. stablehlo needs the extra `export`, onnx the extra `onnx`."""
    weights: Literal["inside", "beside"] = "inside"
    """Where the weights are: inside the file of the program, or in a file beside it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the computation. ONNX takes float32 only. Inputs and outputs are float32."""
    part: Literal["image"] | None = None
    """`image` takes only the image model of a system such as CLIP."""


def run_export(command: Export) -> None:
    """Exports a model and prints what was written."""
    execution = Execution(compute_dtype=command.dtype)
    check_export(command.out, execution, command.format)
    model = command.load_model(command.file, part=command.part, execution=execution)
    card = export(model, command.out, format=command.format, weights=command.weights)
    if card.preprocess is None:
        print("preprocess: not known for the weights, so the card has none")
    for name, function in card.functions.items():
        taken, given = (", ".join(map(str, specs)) for specs in (function.inputs, function.outputs))
        print(f"{name}: ({taken}) -> ({given})")
        print(f"    {sum(function.sizes.values()):,} bytes, {function.difference:.1e} from the model")
    print(f"written: {command.out}")
