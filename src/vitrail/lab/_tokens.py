"""The tokens of a frozen backbone, computed once and stored."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from .._files import make_scratch, remove_stale
from .._tokens import Tokens
from ..images import Dataset, Preprocess
from ..model import Backbone, ViT
from ..train import check_outputs, iterate_batches

_BATCH: Final = 50
_GIB: Final = 2**30


@dataclass(frozen=True)
class LabProgress:
    """The progress of a comparison."""

    doing: Literal["plan", "backbone", "readout"]
    """Whether costs are measured, a backbone computes tokens, or a readout is trained."""
    name: str
    """Of which model and resolution; for a readout also of which layer and pool, and what is done with it."""
    done: int
    """The number of backbones, images or steps done."""
    total: int
    """The number of all of them."""


@dataclass(frozen=True)
class SequenceForm:
    """How a sequence is divided into class token, registers and patches. It can be hashed, so that a compiled function
    can depend on it."""

    grid: tuple[int, int]
    has_class_token: bool
    num_registers: int

    @staticmethod
    def from_backbone(backbone: Backbone) -> "SequenceForm":
        """Returns the form of the sequences of a backbone."""
        return SequenceForm(backbone.grid, backbone.class_token is not None, backbone.num_registers)

    @property
    def length(self) -> int:
        """The number of tokens."""
        return int(self.has_class_token) + self.num_registers + self.grid[0] * self.grid[1]

    def divide(self, sequence: Float[Array, "tokens dim"]) -> Tokens:
        """Divides the sequence of one image."""
        return Tokens.from_sequence(
            sequence, self.grid, class_token=self.has_class_token, num_registers=self.num_registers
        )


@dataclass(frozen=True)
class StoredTokens:
    """The tokens of all images of a data set after each of some blocks, in memory or in a file."""

    layers: tuple[int, ...]
    """The blocks, counted from the end if negative."""
    train: Float32[np.ndarray, "layers train_images tokens dim"]
    """The sequences of the images to learn from."""
    test: Float32[np.ndarray, "layers test_images tokens dim"]
    """The sequences of the images held out."""
    form: SequenceForm
    """How each sequence is divided."""

    def get_layer(self, layer: int) -> "LayerTokens":
        """The tokens after one block."""
        place = self.layers.index(layer)
        return LayerTokens(self.train[place], self.test[place], self.form)


@dataclass(frozen=True)
class LayerTokens:
    """The tokens of all images of a data set after one block."""

    train: Float32[np.ndarray, "train_images tokens dim"]
    """The sequences of the images to learn from."""
    test: Float32[np.ndarray, "test_images tokens dim"]
    """The sequences of the images held out."""
    form: SequenceForm
    """How each sequence is divided."""


@contextlib.contextmanager
def store_tokens(
    model: ViT,
    data: Dataset,
    layers: tuple[int, ...],
    budget: float,
    folder: Path | None,
    report: Callable[[int, int], object],
) -> Generator[StoredTokens]:
    """Runs the backbone once over all images, for all layers. Tokens that need more than the budget in GiB are in
    temporary files.

    Files that killed processes left in the same place are removed first.
    """
    form = SequenceForm.from_backbone(model.backbone)
    shapes = [(len(layers), len(part), form.length, model.backbone.dim) for part in (data.train, data.test)]
    size = sum(4 * int(np.prod(shape)) for shape in shapes)
    parent = Path(tempfile.gettempdir()) if folder is None else folder
    remove_stale(parent)
    with contextlib.ExitStack() as stack:
        if size <= budget * _GIB:
            arrays = [np.empty(shape, np.float32) for shape in shapes]
        else:
            place = stack.enter_context(make_scratch(parent, "vitrail-tokens"))
            _check_space(size, place)
            arrays = [
                cast(Any, np.lib.format.open_memmap(place / f"{i}.npy", "w+", np.dtype(np.float32), shape))
                for i, shape in enumerate(shapes)
            ]
        seen, total = 0, len(data.train) + len(data.test)
        for name, part, array in zip(("training", "held-out"), (data.train, data.test), arrays, strict=True):
            fixed = (layers, data.preprocess)
            for where, sequences in iterate_batches(_run, model, part.images, fixed, _BATCH):
                check_outputs(f"tokens of the {name} images", sequences, first=where.start)
                array[:, where] = np.moveaxis(sequences, 1, 0)
                seen += len(sequences)
                report(seen, total)
        yield StoredTokens(layers, arrays[0], arrays[1], form)


@eqx.filter_jit
def _run(
    model: ViT, images: UInt8[Array, "batch height width channels"], fixed: tuple[tuple[int, ...], Preprocess]
) -> Float[Array, "batch layers tokens dim"]:
    layers, preprocess = fixed

    def run_one(image: Float[Array, "height width channels"]) -> Float[Array, "layers tokens dim"]:
        return run_layers(model, image, layers)

    return jax.vmap(run_one)(preprocess.normalise(images))


def run_layers(
    model: ViT, image: Float[Array, "height width channels"], layers: tuple[int, ...]
) -> Float[Array, "layers tokens dim"]:
    """The tokens of an image after some blocks, each after the final norm if the backbone has one."""
    backbone = model.backbone
    if layers == (-1,):
        tokens = backbone(image).sequence[None]  # by the neck, if there is one
    else:
        tokens = backbone.activations(image, layers=layers, norm=backbone.norm is not None)["tokens"]
    return tokens.astype(jnp.float32)


def _check_space(size: int, place: Path) -> None:
    free = shutil.disk_usage(place).free
    if free < size:
        raise OSError(
            f"the tokens need {size / _GIB:.1f} GiB, got {free / _GIB:.1f} free in {place.parent}: raise token_budget "
            "if there is enough memory, or use fewer images or another folder"
        )
