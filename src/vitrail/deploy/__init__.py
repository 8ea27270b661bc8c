"""Exports models: to StableHLO by `jax.export`, to ONNX by jax2onnx."""

from ._export import export as export
from ._functions import Function as Function, list_functions as list_functions
