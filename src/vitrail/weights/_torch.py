"""PyTorch's pickles to safetensors: the one place that reads them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from .._extras import require
from .._files import write_whole
from ._errors import CheckpointError

_WRAPPERS: Final = ("state_dict", "model", "model_state_dict", "teacher", "module")
_LEAST: Final = (2, 10)


def convert_torch(path: Path | str, out: Path | str) -> tuple[int, list[str]]:
    """Writes the tensors of a `.pt`, `.pth` or `.bin` file to safetensors, under their names and to the bit.

    PyTorch reads the file with `weights_only=True`, which runs no code that the file brings along.

    **Arguments:**

    - `path`: the file of PyTorch's: a dictionary of tensors, or one that holds such a dictionary as `state_dict`,
        `model`, `model_state_dict`, `teacher` or `module`.
    - `out`: the safetensors file to write.

    **Returns:**

    How many tensors were written, and what in the file is no tensor and was left out.

    **Raises:** `CheckpointError` where the file is no such thing; `MissingExtraError` where PyTorch is not installed;
    `ValueError` where it is older than 2.10, whose `weights_only` can be got around; `OSError` where the file cannot
    be read.
    """
    path = Path(path)
    path.stat()  # that the file is not there is said before anybody installs PyTorch for it
    torch: Any = require("torch", extra="torch")
    version = [int(part) for part in re.findall(r"\d+", str(torch.__version__))[:2]]
    if tuple(version) < _LEAST:
        raise ValueError(f"torch must be 2.10 or newer to read a pickle safely, but {torch.__version__} is installed")
    safetensors: Any = require("safetensors.torch", extra="weights")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # pickles end in nearly anything
        message = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path} must be a file of tensors of PyTorch's, but it cannot be read: {message}"
        ) from error
    left_out: list[str] = []
    while isinstance(found, Mapping):
        named = cast("Mapping[str, Any]", found)
        inner = next((key for key in _WRAPPERS if isinstance(named.get(key), Mapping)), None)
        if inner is None:
            break
        left_out += [str(key) for key in named if key != inner]
        found = named[inner]
    tensors = dict(cast("Mapping[Any, Any]", found)) if isinstance(found, Mapping) else {}
    left_out += [str(key) for key, value in tensors.items() if not torch.is_tensor(value)]
    copies: dict[str, Any] = {}
    for key, tensor in tensors.items():
        if not torch.is_tensor(tensor):
            continue
        if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise CheckpointError(
                f"{path} has {key!r} as {tensor.dtype} in the layout {tensor.layout}, which safetensors does not hold: "
                "make it a plain tensor of real numbers with PyTorch"
            )
        if str(key) in copies:
            raise CheckpointError(f"{path} must have each name once as text, but it has {str(key)!r} twice")
        # safetensors writes no two tensors that share memory, nor one that does not lie in order.
        copies[str(key)] = tensor.clone().contiguous()
    if not copies:
        raise CheckpointError(f"{path} must hold tensors by name, but there are none in it")
    write_whole(Path(out), lambda part: safetensors.save_file(copies, part, metadata={"format": "pt"}))
    return len(copies), left_out
