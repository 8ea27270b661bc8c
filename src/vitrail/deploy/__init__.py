"""Exports models: to StableHLO by `jax.export`, to ONNX by jax2onnx."""

from ._export import check_export as check_export, export as export
from ._functions import Function as Function, list_functions as list_functions
