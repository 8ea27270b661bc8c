"""The batches of a run."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
from jaxtyping import Int, Shaped

from .._check import describe_value
from ..images import (
    TRANSFORMS,
    AbstractTransform,
    Dataset,
    Pictures,
    TransformContext,
    augment,
    make_transforms,
    to_picture,
)
from ..systems import ImageText, find_image_model
from ._batches import make_batches
from ._recipe import Recipe
from .objectives import OBJECTIVES, AbstractObjective, Batch


def make_host_transforms(
    objective: AbstractObjective, model: Any, data: Dataset, recipe: Recipe
) -> tuple[AbstractTransform, ...]:
    """Makes the transforms of a recipe for a model and its images.

    **Raises:** what `make_transforms` raises; `ValueError` if they make crops that the objective does not take, or the
    images are neither grey nor RGB.
    """
    image = find_image_model(model)
    patch_size = (1, 1) if image is None else image.config.patch_size
    context = TransformContext(image_size=data.image_size, patch_size=patch_size, preprocess=data.preprocess)
    transforms = make_transforms(recipe.transforms, context)
    if transforms and data.channels not in (1, 3):
        raise ValueError(
            f"transforms change grey and RGB pictures, got images of {data.channels} channels: use a recipe with "
            "transforms=()"
        )
    if transforms and transforms[-1].makes_crops and not objective.takes_crops:
        raise ValueError(
            f"transforms must give one image for {OBJECTIVES.describe(recipe.objective)}, got "
            f"{TRANSFORMS.describe(recipe.transforms[-1])}: use random_resized_crop, or the objective dino"
        )
    return transforms


def read_texts(
    model: Any, data: Dataset, which: int | slice | Int[np.ndarray, " batch"], *, quiet: bool = True
) -> Shaped[np.ndarray, "..."]:
    """The texts of training images: as token ids if the model has a tokenizer.

    **Raises:** what `ImageText.tokenize` raises.
    """
    texts = cast(Any, data.train.texts)[which]
    if not isinstance(model, ImageText):
        return texts
    return (
        model.tokenize([texts], quiet=quiet)[0] if isinstance(texts, str) else model.tokenize(list(texts), quiet=quiet)
    )


def make_feed(
    objective: AbstractObjective,
    model: Any,
    data: Dataset,
    recipe: Recipe,
    *,
    transforms: tuple[AbstractTransform, ...],
    seed: int,
    start: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Makes the batches of a run.

    **Arguments:**

    - `objective`: says which arrays a batch has.
    - `model`: what the objective prepared.
    - `data`: its training images are used.
    - `recipe`: how many epochs, and how many images in a batch.
    - `transforms`: of each image: what `make_host_transforms` returns.
    - `seed`: for all that is random.
    - `start`: how many batches are left out at the beginning.
    - `share`: which of several hosts this is, and how many there are.

    **Returns:**

    The batches, loaded ahead.

    **Raises:** what `make_batches` raises; `ValueError` if a transform gives an image of another size.
    """

    def read(which: int | Int[np.ndarray, " batch"]) -> Any:
        """The images of a batch, or the picture of one number, which transforms take."""
        if not transforms:
            return data.train.images[which]
        if transforms[0].at_own_size:
            return data.train.open(cast(int, which))
        return to_picture(data.train.images[which], data.channels)

    def load(which: int | Int[np.ndarray, " batch"]) -> Batch:
        found: dict[str, Any] = {"image": read(which), "label": data.train.labels[which]}
        if "text" in objective.inputs:
            found["text"] = read_texts(model, data, which)
        return {name: found[name] for name in objective.inputs}

    def transform(example: Batch, random: np.random.Generator) -> Batch:
        made = augment(example["image"], transforms, random=random)
        if "image" in made and made["image"].shape[:2] != data.image_size:
            (height, width), found = data.image_size, made["image"].shape
            raise ValueError(
                f"transforms must give images of {height} x {width}, the size of the data set, got {found[0]} x "
                f"{found[1]}: put random_resized_crop first"
            )
        return {**{name: array for name, array in example.items() if name != "image"}, **made}

    _, batches = make_batches(
        load,
        len(data.train),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=seed,
        start=start,
        transform=transform if transforms else None,
        host=share[0],
        hosts=share[1],
    )
    for step, batch in enumerate(batches, start=start):
        made: Any = objective.add_inputs(model, batch, seed=(seed + step) % 2**32, share=share)
        if not isinstance(made, Mapping):
            raise TypeError(
                f"add_inputs of {type(objective).__name__} must return a mapping of arrays, got "
                f"{describe_value(cast(object, made))}"
            )
        yield cast(Batch, made)


def name_images(data: Dataset, recipe: Recipe, *, seed: int, step: int) -> list[str]:
    """The images of a step of a run, to look at: their numbers in `data.train`, or the paths of their files.

    **Arguments:**

    - `data`, `recipe`, `seed`: as for `make_feed`.
    - `step`: counted from 1.
    """

    def keep_numbers(which: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " batch"]:
        return which

    _, batches = make_batches(
        keep_numbers, len(data.train), epochs=recipe.epochs, batch_size=recipe.batch_size, seed=seed, start=step - 1
    )
    pictures = data.train.images
    return [str(pictures.get_path(int(n)) if isinstance(pictures, Pictures) else n) for n in next(batches)]
