"""Systems of the original libraries with random weights, and what those libraries make of some inputs with them.

The weights are drawn by name, as in `checkpoint_cases`. A family has its fixtures in `fixtures/systems/FAMILY.json` and
`.npz`, which `oracles/make_fixtures.py` writes from `oracles/systems_FAMILY.py`.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from checkpoint_cases import FIXTURES, Arrays, drawn, image_of
from helpers import run
from safetensors.numpy import save_file
from sam_cases import search_masks, segment, thin

import vitrail

SYSTEMS = FIXTURES / "systems"


@dataclasses.dataclass
class SystemCase:
    """One checkpoint of a system: how it is published, and what the original gives for some inputs."""

    layout: str
    """The layout that vitrail should see in it."""
    shapes: dict[str, tuple[int, ...]]
    """The tensors of the file, by its names."""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The JSON files beside it, by their names."""
    inputs: Arrays = dataclasses.field(default_factory=dict)
    """What the original was given, by the names that the function in `RUNS` reads."""
    outputs: Arrays = dataclasses.field(default_factory=dict)
    """What it gave, by the names that the function in `RUNS` returns."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What else `vitrail.load` is told."""
    image_options: dict[str, Any] | None = None
    """What `vitrail.load` is told for the image model alone; `None` for the same."""
    writable: bool = True
    """Whether vitrail writes these names, if it writes the layout at all."""
    fixed: Arrays = dataclasses.field(default_factory=dict)
    """Tensors that are not drawn."""

    def tensors(self) -> Arrays:
        """The tensors of the file."""
        return {name: self.fixed.get(name, drawn(name, tuple(shape))) for name, shape in self.shapes.items()}

    def publish(self, folder: Path) -> Path:
        """Writes the checkpoint as its library publishes it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, settings in self.settings.items():
            (folder / name).write_text(json.dumps(settings))
        save_file(self.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
        return folder / "model.safetensors"


def _run_mae(model: vitrail.MaskedAutoencoder, inputs: Arrays) -> Mapping[str, Any]:
    image, noise = jnp.asarray(inputs["image"]), jnp.asarray(inputs["noise"])
    result = run(model.reconstruct, image, noise=noise)
    return {
        "masked": result.masked,
        "loss": result.loss,
        "patches": run(model, image, jnp.argsort(noise)[: noise.size // 4]),
    }


def _run_dense(model: vitrail.Dense, inputs: Arrays) -> Mapping[str, Any]:
    """The map of each image by the names of their sizes: every third row and column, which keeps the fixture small."""
    resized = {name: model if i == 0 else model.resized(inputs[name].shape[:2]) for i, name in enumerate(inputs)}
    return {name: run(resized[name], jnp.asarray(image))[::3, ::3] for name, image in inputs.items()}


def _run_dino(model: vitrail.DINO, inputs: Arrays) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for name in ("image", "small", "hidden"):
        if name in inputs:
            image = jnp.asarray(inputs["image" if name == "hidden" else name])
            network = model if name != "small" else model.resized((image.shape[0], image.shape[1]))
            output = run(network, image, hidden=inputs[name] if name == "hidden" else None)
            found |= {f"{name} {key}": value for key, value in vars(output).items()}
            found[f"{name} patch scores"] = run(network.score_patches, output.patches)
    return found


def _run_image_text(model: vitrail.ImageText, inputs: Arrays) -> Mapping[str, Any]:
    texts, found = run(jax.vmap(model.embed_text), jnp.asarray(inputs["texts"])), dict[str, Any]()
    height, width = inputs.get("larger_size", (0, 0))
    images = {"": inputs["image"], **({"larger_": image_of((height, width))} if height else {})}
    for size, picture in images.items():
        image, sized = jnp.asarray(picture), model.resized((int(height), int(width))) if size else model
        embedding = run(sized.embed_image, image)
        both = {"image": embedding, "texts": texts, "similarity": sized.similarity(embedding, texts)}
        found |= {f"{size}{name}": array for name, array in both.items()}
    return found


def _run_sam(model: vitrail.SegmentAnything, inputs: Arrays) -> Mapping[str, Any]:
    found = thin(segment(model, inputs["photo"]))
    return found | search_masks(model, inputs["photo"]) if "search" in inputs else found


RUNS: dict[str, Callable[[Any, Arrays], Mapping[str, Any]]] = {
    "Dense": _run_dense,
    "DINO": _run_dino,
    "ImageText": _run_image_text,
    "MaskedAutoencoder": _run_mae,
    "SegmentAnything": _run_sam,
}
"""What vitrail makes of the inputs of a case, by the class of the model."""


def compare(case: SystemCase, path: Path) -> dict[str, float]:
    """What `compare_model` returns for the model in a file."""
    return compare_model(case, vitrail.load(path, **case.options))


def compare_model(case: SystemCase, model: Any) -> dict[str, float]:
    """By output, the largest difference from the original, relative to the largest number."""
    actual = RUNS[type(model).__name__](model, case.inputs)
    found: dict[str, float] = {}
    for name, expected in case.outputs.items():
        given = np.asarray(actual[name])
        assert given.shape == expected.shape, (name, given.shape, expected.shape)
        assert np.issubdtype(given.dtype, np.floating) == np.issubdtype(expected.dtype, np.floating), name
        found[name] = float(np.abs(np.float64(given) - expected).max() / max(np.abs(np.float64(expected)).max(), 1e-30))
    return found


def write_cases(family: str, cases: Mapping[str, SystemCase]) -> None:
    """Writes the fixtures of a family."""
    SYSTEMS.mkdir(exist_ok=True)
    kept: dict[str, Any] = {}
    arrays: Arrays = {}
    for name, case in cases.items():
        kept[name] = {key: value for key, value in vars(case).items() if key not in ("inputs", "outputs", "fixed")}
        for part in ("inputs", "outputs", "fixed"):
            arrays |= {f"{name}/{part}/{key}": array for key, array in getattr(case, part).items()}
    (SYSTEMS / f"{family}.json").write_text(json.dumps(kept, separators=(",", ":")))
    np.savez_compressed(SYSTEMS / f"{family}.npz", allow_pickle=False, **arrays)


@functools.cache
def load_system_cases() -> dict[str, SystemCase]:
    """The cases of all families."""
    cases: dict[str, SystemCase] = {}
    for path in sorted(SYSTEMS.glob("*.json")):
        with np.load(path.with_suffix(".npz")) as file:
            arrays = dict(file)
        for name, kept in json.loads(path.read_text()).items():
            parts: dict[str, Arrays] = {
                part: {
                    key.removeprefix(f"{name}/{part}/"): array
                    for key, array in arrays.items()
                    if key.startswith(f"{name}/{part}/")
                }
                for part in ("inputs", "outputs", "fixed")
            }
            cases[name] = SystemCase(**kept, **parts)
    return cases
