"""One contender in a process of its own: takes orders as lines of JSON, answers each with one.

`worker.py NAME` waits for orders; `worker.py NAME --once CASE` is a user's first call, timed from within.
"""

import contextlib
import gc
import importlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, inputs, weights

TORCH = ("timm_vit", "timm_compiled", "transformers_vit", "transformers_mae")
"""The contenders on PyTorch; the others are on JAX."""
_LIBRARY: Any = None  # of operators, which are there as long as it is


class Worker:
    """Holds at most one program at a time."""

    def __init__(self, name: str):
        if name in TORCH:
            let_torchvision_be_imported()
        self.contender = importlib.import_module(f"contenders.{name}")
        self.program: Any = None
        self.case: Any = None
        self.seed = 0

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in self.contender.DISTRIBUTIONS}

    def python(self) -> str:
        return platform.python_version()

    def prepare(self, case: dict[str, Any]) -> dict[str, float]:
        """Builds, compiles and warms up. Compiling takes what the first call takes longer than a later one; a later one
        with the drawing of its inputs is `whole`."""
        self.drop()
        self.case = Case(**case)
        started = time.perf_counter()
        self.program = self.contender.build(self.case, None)
        built = time.perf_counter() - started
        first = self.timed()
        started = time.perf_counter()
        later = [self.timed(), self.timed()]
        whole = (time.perf_counter() - started) / len(later)
        return {"build": built, "first": first, "compile": first - min(later), "whole": whole}

    def device(self) -> str:
        """What it runs on, as JAX calls it."""
        if "jax" in sys.modules:
            return sys.modules["jax"].default_backend()
        return "gpu" if sys.modules["torch"].cuda.is_available() else "cpu"

    def timed(self) -> float:
        """Seconds of one call on inputs that it has not seen."""
        self.seed += 1
        placed = self.program.place(*inputs(self.case, self.seed))
        started = time.perf_counter()
        self.program.run(placed)
        return time.perf_counter() - started

    def turn(self, calls: int) -> float:
        """Mean seconds of some calls in a row, after one that brings memory and caches back that others have used."""
        self.timed()
        return sum(self.timed() for _ in range(calls)) / calls

    def drop(self) -> None:
        """Forgets the program, so that it takes no memory while others run."""
        self.program = None
        gc.collect()
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        if "torch" in sys.modules:
            sys.modules["torch"].compiler.reset()

    def logits(self, case: dict[str, Any]) -> list[list[float]]:
        """Of given weights and images, to compare contenders by."""
        self.drop()
        shown, exact = Case(**case), contextlib.nullcontext()
        if "jax" in sys.modules:  # on a GPU its products would not be in float32 otherwise
            exact = sys.modules["jax"].default_matmul_precision("highest")
        with exact:
            program = self.contender.build(shown, weights(shown))
            out = program.run(program.place(*inputs(shown, 0)))
        return np.asarray(out.cpu() if "torch" in sys.modules else out, np.float64).tolist()

    def peak(self, side: int, dtype: str) -> float:
        """Operations a second of one large product of matrices: the machine's limit as this library reaches it."""
        product = _product(side, dtype)
        product()
        seconds: list[float] = []
        for _ in range(5):
            started = time.perf_counter()
            product()
            seconds.append(time.perf_counter() - started)
        return 2 * side**3 / min(seconds)


def let_torchvision_be_imported() -> None:
    """timm and transformers import torchvision, which asks a torch for processors alone for operators of its other
    build."""
    import torch

    global _LIBRARY
    if torch.version.cuda is not None:
        return
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _product(side: int, dtype: str) -> Callable[[], Any]:
    if "torch" in sys.modules:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        a = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
        finish = torch.cuda.synchronize if device == "cuda" else lambda: None
        return lambda: (a @ a, finish())
    import jax

    b = jax.random.normal(jax.random.key(0), (side, side), dtype)
    multiply = jax.jit(lambda b: b @ b)
    return lambda: jax.block_until_ready(multiply(b))


def once(name: str, case: Case) -> dict[str, Any]:
    """What a user waits for the first time: import, build, compile, run; and the memory that it took."""
    started = time.perf_counter()
    worker = Worker(name)
    imported = time.perf_counter() - started
    found = {"import": imported} | worker.prepare(case.asdict())
    found["all"] = found["import"] + found["build"] + found["first"]
    return found | {"memory": _peak_memory(worker.device())}


def _peak_memory(device: str) -> int:
    """The most that was held at a time: by the process, or of a GPU's memory."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if "jax" in sys.modules:
        return sys.modules["jax"].devices()[0].memory_stats()["peak_bytes_in_use"]
    return sys.modules["torch"].cuda.max_memory_allocated()


def main() -> None:
    # What libraries print goes to the standard error; answers alone go where the orders come from.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).parent))
    name = sys.argv[1]
    if sys.argv[2:3] == ["--once"]:
        print(json.dumps(once(name, Case(**json.loads(sys.argv[3])))), file=answers)
        return
    worker = Worker(name)
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(worker, order["do"])(*order["with"])
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
