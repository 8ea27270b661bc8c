"""The tokens of a frozen backbone, computed once and kept."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from .._tokens import Tokens
from ..model import Backbone, ViT
from ..train import Dataset, Examples, Normalisation
from ..train._evaluate import each_batch

_BATCH: Final = 50
_GIB: Final = 2**30


@dataclass(frozen=True)
class LabProgress:
    """How far a comparison has come."""

    doing: Literal["backbone", "pool"]
    """Whether the backbone runs over the images, or a pool is trained."""
    name: str
    """The pool, and of which run it is; empty for the backbone."""
    done: int
    """Images, or steps."""
    total: int
    """Images, or steps."""


@dataclass(frozen=True)
class Layout:
    """How a sequence divides into class token, registers and patches. It hashes, so that a compiled function can
    depend on it."""

    grid: tuple[int, int]
    has_class_token: bool
    num_registers: int

    @staticmethod
    def of(backbone: Backbone) -> "Layout":
        """How the sequences of a backbone divide."""
        return Layout(backbone.grid, backbone.class_token is not None, backbone.num_registers)

    @property
    def length(self) -> int:
        """The number of tokens."""
        return int(self.has_class_token) + self.num_registers + self.grid[0] * self.grid[1]

    def tokens(self, sequence: Float[Array, "tokens dim"]) -> Tokens:
        """The tokens of one image."""
        return Tokens.from_sequence(
            sequence, self.grid, class_token=self.has_class_token, num_registers=self.num_registers
        )


@dataclass(frozen=True)
class Kept:
    """All tokens of a data set, in memory or in a file, prefix first."""

    train: Float32[np.ndarray, "train_images tokens dim"]
    """Of the images to learn from."""
    test: Float32[np.ndarray, "test_images tokens dim"]
    """Of the images held out."""
    layout: Layout
    """How each image's sequence divides."""


@contextlib.contextmanager
def kept_tokens(
    model: ViT,
    data: Dataset,
    budget: float,
    folder: Path | None,
    report: Callable[[LabProgress], object],
) -> Generator[Kept]:
    """Runs the backbone once over all images. What exceeds the budget in GiB lies in a file as long as this lasts."""
    layout = Layout.of(model.backbone)
    shapes = [(len(part), layout.length, model.backbone.dim) for part in (data.train, data.test)]
    size = sum(4 * int(np.prod(shape)) for shape in shapes)
    with contextlib.ExitStack() as stack:
        if size <= budget * _GIB:
            arrays = [np.empty(shape, np.float32) for shape in shapes]
        else:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokens-", dir=folder)))
            _check_space(size, place)
            arrays = [
                cast(Any, np.lib.format.open_memmap(place / f"{i}.npy", "w+", np.dtype(np.float32), shape))
                for i, shape in enumerate(shapes)
            ]
        seen, total = 0, len(data.train) + len(data.test)
        for part, array in zip((data.train, data.test), arrays, strict=True):
            for where, made in _sequences(model, part, data.normalisation):
                array[where] = made
                seen += len(made)
                report(LabProgress("backbone", "", seen, total))
        yield Kept(arrays[0], arrays[1], layout)


def _sequences(model: ViT, part: Examples, normalisation: Normalisation) -> Iterator[tuple[slice, Any]]:
    return each_batch(_run, model, part.images, normalisation, _BATCH)


@eqx.filter_jit
def _run(
    model: ViT, images: UInt8[Array, "batch height width channels"], normalisation: Normalisation
) -> Float[Array, "batch tokens dim"]:
    def sequence(image: Float[Array, "height width channels"]) -> Float[Array, "tokens dim"]:
        return model.backbone(image).sequence

    return jax.vmap(sequence)(normalisation(images)).astype(jnp.float32)


def _check_space(size: int, place: Path) -> None:
    free = shutil.disk_usage(place).free
    if free < size:
        raise OSError(
            f"the tokens take {size / _GIB:.1f} GiB, but only {free / _GIB:.1f} are free in {place.parent}: raise "
            "token_budget if the memory is large enough, or take fewer images, or another folder"
        )
