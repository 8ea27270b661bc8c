"""Runs what `vitrail.export` wrote, with JAX or onnxruntime: no code of models is imported here."""

from ._card import (
    CARD as CARD,
    ArraySpec as ArraySpec,
    ExportCard as ExportCard,
    ExportError as ExportError,
    ExportFormat as ExportFormat,
    FunctionCard as FunctionCard,
    digest_file as digest_file,
)
from ._load import (
    Exported as Exported,
    ExportedFunction as ExportedFunction,
    load_exported as load_exported,
    read_weights as read_weights,
)
from ._onnx import open_onnx as open_onnx
