"""Files of named tensors: safetensors, one or several, npz, and the conversion of PyTorch's pickles."""

from ._npz import NpzFile as NpzFile
from ._open import find_main_file as find_main_file, list_files as list_files, open_source as open_source
from ._opened import OpenedFile as OpenedFile
from ._pickle import convert_torch as convert_torch
from ._renamed import RenamedSource as RenamedSource, unwrap_names as unwrap_names
from ._safetensors import SafetensorsFile as SafetensorsFile, write_safetensors as write_safetensors
from ._shards import ShardedFile as ShardedFile
from ._source import (
    AbstractSource as AbstractSource,
    ArraySource as ArraySource,
    NumpyArray as NumpyArray,
    TensorInfo as TensorInfo,
    allocate as allocate,
    parse_json as parse_json,
)
from ._unstacked import UnstackedSource as UnstackedSource
