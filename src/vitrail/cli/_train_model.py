"""The model and the images of `vitrail train`."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import equinox as eqx
from jax.sharding import Mesh

from ..head import HEADS
from ..images import HALF, TRANSFORMS, Dataset, Examples, Preprocess, hold_out_images
from ..model import PRESETS, ViT, lora, replace, vit
from ..nn import count_parameters
from ..patch import PATCHES
from ..pool import POOLS
from ..position import POSITIONS
from ..systems import find_image_model
from ..train import Recipe, find_shardings, make_divided, make_objective
from ..weights import is_model_name
from ._options import refuse_options
from ._setup import EXECUTION, format_size, load_data, load_data_for, make_small_config
from ._train_options import SMALL, BatchDefault, Train, is_size

_T = TypeVar("_T")
_PARTS: Final = {"patch": PATCHES, "position": POSITIONS, "head": HEADS}


def check_names(command: Train, recipe: Recipe) -> None:
    """Looks up all that is named, before anything is loaded.

    **Raises:** what the registries raise for a name or an option that they do not have.
    """
    make_objective(recipe, Preprocess("cover", "bicubic", *HALF))
    for transform in recipe.transforms:
        TRANSFORMS.describe(transform)
    for name, registry in {**_PARTS, "pool": POOLS}.items():
        if (choice := getattr(command, name)) is not None:
            registry.describe(choice)


def load_training(command: Train, mesh: Mesh | None, *, key: Any) -> tuple[Any, Dataset]:
    """Loads the images, and loads or builds the model: divided over the mesh from the start, if there is one."""
    size = None if command.image_size is None else (command.image_size, command.image_size)
    fresh = {name: getattr(command, name) for name in _PARTS if getattr(command, name) is not None}
    read = command.choose_images()
    if command.model != SMALL and not is_size(command.model):
        return _load_file(command, mesh, fresh, read, key=key)
    command.refuse_file_options(f"for the model {command.model}")
    if command.model == SMALL:
        data = load_data(command.data, size, **read)
        config = make_small_config(data, patch_size=command.patch_size, pool=command.pool or "mean", **fresh)
        return _build(functools.partial(config.build, execution=EXECUTION), mesh, key=key), data
    refuse_options(f"for the model {command.model}", patch_size=command.patch_size)
    data = load_data(command.data, size or (224, 224), **read)
    options: dict[str, Any] = {"channels": data.channels, "image_size": data.image_size, **fresh}
    options |= {"num_classes": len(data.classes)} if data.classes else {"head": "none"}
    make = cast("Callable[..., ViT]", functools.partial(vit, command.model, pool=command.pool or "mean", **options))
    return (make(key=key) if mesh is None else _build(make, mesh, key=key)), data


def find_licence(command: Train) -> str | None:
    """The licence of the weights that the training begins with; `None` for fresh ones, or if nothing names it."""
    if command.model == SMALL or is_size(command.model):
        return None
    return command.read_card(_find_file(command)).licence


def adapt(command: Train, model: Any, *, key: Any) -> Any:
    """The model with the adapters that are asked for."""
    return model if command.lora is None else lora(model, command.lora, command.lora_targets, key=key)


def fit_batch(recipe: Recipe, data: Dataset, mesh: Mesh | None) -> Recipe:
    """The recipe with a batch that the images fill. One that somebody chose is not cut.

    **Raises:** `ValueError` if that is larger than the images.
    """
    if recipe.batch_size <= (images := len(data.train)):
        return recipe
    parts = recipe.accumulate * (1 if mesh is None else mesh.size)
    cut = images - images % parts
    if not isinstance(recipe.batch_size, BatchDefault) or cut == 0:
        raise ValueError(
            f"batch_size must be at most {cut or parts}, for {images:,} training images"
            f"{f' in {parts} parts' if parts > 1 else ''}, got {recipe.batch_size:,}: pass a smaller batch"
        )
    print(f"batch_size: {cut}, because there are {images:,} training images; {recipe.batch_size} by default")
    return dataclasses.replace(recipe, batch_size=cut)


def _build(make: Callable[..., _T], mesh: Mesh | None, *, key: Any) -> _T:
    """Builds a model by one compiled program."""

    def build(key: Any) -> _T:
        return make(key=key)

    return eqx.filter_jit(build)(key) if mesh is None else make_divided(mesh, build, key)


def _load_file(
    command: Train, mesh: Mesh | None, fresh: dict[str, Any], read: dict[str, Any], *, key: Any
) -> tuple[Any, Dataset]:
    """Loads a file of weights. A run that goes on has all of them in its checkpoint: if the file is gone, its own last
    model stands in for it."""
    file = _find_file(command)
    if file != Path(command.model) and not is_model_name(command.model):
        print(f"model: {command.model} is not there; the run goes on from its own checkpoint")
    if not file.exists() and not is_model_name(command.model):
        raise ValueError(
            f"model must be a file of weights, a name of `vitrail list models`, {SMALL}, or a size and a patch, as "
            f"S/16, of the sizes {', '.join(PRESETS)}, got {command.model!r}"
        )
    head = fresh.pop("head", None)
    refuse_options("for a file of weights", **fresh)
    changes: dict[str, Any] = {} if command.pool is None else {"pool": command.pool}
    changes |= {} if mesh is None else {"shardings": functools.partial(find_shardings, mesh=mesh)}
    model = command.load_model(file, image_size=command.image_size, key=key, **changes)
    image = cast(ViT, find_image_model(model))
    data = load_data_for(image, command.data, **read)
    if "label" in make_objective(command, data.preprocess).inputs:
        model = image
    if isinstance(model, ViT) and data.classes and (head is not None or model.config.classes != data.classes):
        model = replace(model, head=head or "linear", num_classes=len(data.classes), classes=data.classes, key=key)
    return model, data


def _find_file(command: Train) -> Path:
    """The file of `--model`, or of a run that goes on without it, the last model of the run."""
    own = None if command.resume is None else command.resume / "last.safetensors"
    return own if own is not None and own.exists() and not Path(command.model).exists() else Path(command.model)


def divide_training(data: Dataset, share: float, seed: int) -> tuple[Dataset, Examples | None]:
    """The data set without the images of validation, and those. Equal images are on one side."""
    if share == 0:
        return data, None
    mask = hold_out_images(data.train, seed=seed, share=share)
    return dataclasses.replace(data, train=data.train[~mask]), data.train[mask]


def describe_model(name: str, model: Any) -> str:
    """Describes a model in a line."""
    parameters = f"{count_parameters(model):,} parameters"
    if not isinstance(model, ViT):
        return f"{type(model).__name__}: {name}, {parameters}"
    config = model.config
    patches = f"{format_size(config.grid)} patches of {format_size(config.patch_size)}"
    return f"ViT: {patches}, width {config.size.dim}, depth {config.size.depth}, pool {config.pool}, {parameters}"
