"""Checkpoints of the original libraries with random weights, and what those libraries make of images with them.

The weights are drawn by name, so that a fixture need not hold them: NumPy's old generator gives the same numbers for
ever.
"""

import dataclasses
import functools
import json
import zlib
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from helpers import final_norm
from safetensors.numpy import save_file

import vitrail

Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-5
FIXTURES = Path(__file__).parent / "fixtures"


@dataclasses.dataclass
class Case:
    """One checkpoint: how it is published, and what the original gives for some images."""

    layout: str
    """The layout that vitrail should see in it."""
    shapes: dict[str, tuple[int, ...]]
    """The tensors of the file, by its names."""
    settings: dict[str, Any] | None
    """The `config.json` beside it."""
    outputs: dict[tuple[int, int], Arrays]
    """By height and width of the image: `tokens` after the final norm, `pooled`, `logits`, those that there are."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What else `vitrail.load` is told."""
    npz: bool = False
    """Whether the file is an npz."""
    fixed: Arrays = dataclasses.field(default_factory=dict)
    """Tensors that are not drawn."""
    max_patches: int | None = None
    """For images of native aspect in one batch, how many patches each is padded to."""


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A random tensor: around one for what scales, around zero for all else; no two the same, and none zero."""
    noise = np.asarray(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape), np.float32)
    scales = name.endswith(("gamma", "lambda1", "gamma_1", "gamma_2", "lambda_1", "lambda_2", "scale")) or (
        name.endswith("weight") and any(part in name.lower() for part in ("norm", ".ln", "ln_"))
    )
    return np.asarray(1 + 0.2 * noise if scales else 0.3 * noise, np.float32)


def image_of(size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """A random image."""
    state = np.random.RandomState(size[0] * 1000 + size[1])
    return state.standard_normal((*size, channels)).astype(np.float32)


def tensors_of(case: Case) -> Arrays:
    """The tensors of a case."""
    return {name: case.fixed.get(name, drawn(name, tuple(shape))) for name, shape in case.shapes.items()}


def published(case: Case, folder: Path) -> Path:
    """Writes the checkpoint of a case as its library publishes it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(case)
    if case.settings is not None:
        (folder / "config.json").write_text(json.dumps(case.settings))
    if case.npz:
        np.savez(folder / "model.npz", **tensors)
        return folder / "model.npz"
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


def differences(case: Case, path: Path, images: dict[tuple[int, int], np.ndarray] | None = None) -> dict[str, float]:
    """What `differences_of` returns for the image model in a file."""
    return differences_of(case, vitrail.load(path, part="image", **case.options), images)


def differences_of(
    case: Case, model: vitrail.ViT, images: dict[tuple[int, int], np.ndarray] | None = None
) -> dict[str, float]:
    """By size and output, the largest difference from the original, relative to the largest number."""
    given = {size: (images or {}).get(size, image_of(size, model.config.channels)) for size in case.outputs}
    found: dict[str, float] = {}
    packed = None if case.max_patches is None else _packed_outputs(model, given, case.max_patches)
    for size, expected in case.outputs.items():
        if packed is None:
            resized = model if size == model.config.image_size else model.resized(size)
            actual = outputs_of(resized, given[size])
        else:
            actual = packed[size]
        for name, array in expected.items():
            assert actual[name].shape == array.shape, (name, actual[name].shape, array.shape)
            found[f"{size[0]}x{size[1]} {name}"] = float(np.abs(actual[name] - array).max() / np.abs(array).max())
    return found


@eqx.filter_jit
def _outputs(model: vitrail.ViT, image: Any) -> dict[str, Any]:
    """Of an image, or of each of a packed batch."""
    if isinstance(image, vitrail.PatchedImage):
        return jax.vmap(lambda one: _outputs_of_one(model, one))(image)
    return _outputs_of_one(model, image)


def _outputs_of_one(model: vitrail.ViT, image: Any) -> dict[str, Any]:
    tokens = model.backbone(image)
    pooled = model.readout.pool(tokens)
    if model.config.norm_order == "pool_norm":
        pooled = final_norm(model)(pooled)
    return {"tokens": tokens.sequence, "pooled": pooled, "logits": model(image)}


def outputs_of(model: vitrail.ViT, image: np.ndarray) -> Arrays:
    """What vitrail gives for an image."""
    return {name: np.asarray(value) for name, value in _outputs(model, jnp.asarray(image)).items()}


def _packed_outputs(
    model: vitrail.ViT, images: dict[tuple[int, int], np.ndarray], max_patches: int
) -> dict[tuple[int, int], Arrays]:
    """What vitrail gives for each image of one packed batch, without the padding."""
    batch = vitrail.pack(list(images.values()), model.config.patch_size, max_patches)
    found = {name: np.asarray(value) for name, value in _outputs(model, batch).items()}
    counts = np.asarray(batch.mask.sum(axis=1)) + model.backbone.num_prefix
    return {
        size: {name: array[i][: counts[i]] if name == "tokens" else array[i] for name, array in found.items()}
        for i, size in enumerate(images)
    }


def case_to_json(case: Case) -> dict[str, Any]:
    """All of a case but its arrays."""
    kept = {key: value for key, value in vars(case).items() if key not in ("outputs", "fixed")}
    return {**kept, "sizes": [list(size) for size in case.outputs], "fixed": sorted(case.fixed)}


def case_arrays(case: Case) -> Arrays:
    """The arrays of a case by name."""
    named = {f"{h}x{w}/{name}": array for (h, w), found in case.outputs.items() for name, array in found.items()}
    return named | {f"fixed/{name}": array for name, array in case.fixed.items()}


def case_from(kept: dict[str, Any], arrays: Arrays) -> Case:
    """A case out of the two."""
    kept = dict(kept)
    outputs: dict[tuple[int, int], Arrays] = {(h, w): {} for h, w in kept.pop("sizes")}
    for height, width in outputs:
        start = f"{height}x{width}/"
        outputs[height, width] = {key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)}
    fixed = {name: arrays[f"fixed/{name}"] for name in kept.pop("fixed")}
    return Case(**kept, outputs=outputs, fixed=fixed)


@functools.cache
def load_cases() -> dict[str, Case]:
    """All cases of the fixtures, which `tests/oracles/make_fixtures.py` writes."""
    arrays: Arrays = {}
    kept: dict[str, Any] = {}
    for stem in ("checkpoints", "native", "rope", "beit", "recent"):
        with np.load(FIXTURES / f"{stem}.npz") as file:
            arrays |= dict(file)
        kept |= json.loads((FIXTURES / f"{stem}.json").read_text())
    return {
        name: case_from(values, {k.removeprefix(f"{name}/"): a for k, a in arrays.items() if k.startswith(f"{name}/")})
        for name, values in kept.items()
    }
