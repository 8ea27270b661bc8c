"""`vitrail train`: trains a model on images, in a folder from which it can go on."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from .._check import check_rate, check_seed
from ..images import Dataset, Examples, hold_out
from ..model import PRESETS, ViT, replace, vit
from ..nn import count_parameters
from ..systems import ImageText
from ..train import OBJECTIVES, RECIPES, Recipe, evaluate, fit, show_progress
from ._options import LoadOptions, refuse_options
from ._setup import EXECUTION, load_data, load_data_for, make_small_config, print_data
from ._texts import measure_matches

_SMALL = "small"
_DEMO = "demo"
_LARGEST_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Train(LoadOptions):
    """Trains a model on images: to classify them, to probe a frozen backbone, with texts, or without labels.

    The run is a folder. The same command goes on where it was interrupted, and its result is the same to the bit.
    """

    data: Path | None = None
    """Your own images: a folder of classes, of pictures and captions.csv, or of tar files; without it 4,000 digits of
    MNIST."""
    held_out: float | Path | None = None
    """The share of each class that is held out for the final accuracy, by default a fifth; or a file with the names of
    the images to hold out, one a line, as cat/1.jpg."""
    skip_broken: bool = False
    """Whether images that cannot be decoded are left out and listed. Without it they end the run before it begins."""
    model: str = _SMALL
    """A file of weights, which is fine-tuned; a size such as `S/16`, which begins anew; or `small`, the model of
    `vitrail demo`."""
    recipe: str | None = None
    """The recipe: finetune, probe, scratch, mae, dino, clip or demo. By default finetune for a file, and else demo."""
    objective: str | None = None
    """What the model is trained for, in place of that of the recipe: classify, probe, mae, dino or clip."""
    tokenizer: Path | None = None
    """The tokenizer.json that splits texts, for a model that has none; without it, a token is a byte."""
    epochs: int | None = None
    """How many times each image is seen."""
    batch_size: int | None = None
    """The number of images in a step; by default that of the recipe, but at most 256, and not more than there are."""
    learning_rate: float | None = None
    """The highest learning rate."""
    weight_decay: float | None = None
    """The weight decay of matrices."""
    layer_decay: float | None = None
    """The factor of the learning rate from one block to the block before it."""
    average: float | None = None
    """The share of the running mean of the weights that stays in a step: 0.999."""
    accumulate: int | None = None
    """In how many parts a batch is computed, for less memory."""
    freeze: tuple[str, ...] = ()
    """Parts that are not trained: backbone.patch, encoder."""
    image_size: int | None = None
    """Height and width of the images in pixels; by default those of the file, 224 for a size, 64 for `small`."""
    pool: str | None = None
    """The pool, in place of that of the file, or of the mean."""
    validation: float = 0.0
    """The share of the training images of each class that chooses the best model; 0 for none."""
    keep_every: int | None = None
    """How many steps are between two checkpoints; by default an epoch."""
    seed: int = 0
    """For fresh weights, the order of the images and their augmentation."""
    out: Path = Path("vitrail-run")
    """The folder of the run."""


def run_train(command: Train) -> None:
    """Loads images and a model, and trains."""
    check_seed(command.seed)
    check_rate(validation=command.validation)
    recipe = _make_recipe(command)
    build_key, fit_key = jax.random.split(jax.random.key(command.seed))
    model, data = _load(command, key=build_key)
    data, validation = _divide(data, command.validation, command.seed)
    if command.batch_size is None:
        fitting = min(recipe.batch_size, _LARGEST_BATCH, len(data.train))
        recipe = dataclasses.replace(recipe, batch_size=fitting)
    print_data(data)
    print(f"model: {command.model}, {count_parameters(model):,} parameters; {recipe}")
    with show_progress() as report:
        trained = fit(
            model,
            data,
            recipe,
            key=fit_key,
            report=report,
            folder=command.out,
            validation=validation,
            keep_every=command.keep_every,
        )
    if isinstance(trained, ViT):
        found = evaluate(trained, data)
        print(f"test accuracy: {found.accuracy:.1%} ({found.correct:,} of {len(data.test):,} held-out images)")
    if isinstance(trained, ImageText):
        share, number = measure_matches(trained, data)
        print(f"texts: of {number:,}, their own is the best for {share:.1%} of {len(data.test):,} held-out images")
    print(f"run: {command.out} (last.safetensors{', best.safetensors' if validation else ''}, metrics.jsonl)")


def _make_recipe(command: Train) -> Recipe:
    name = command.recipe or (_DEMO if command.model == _SMALL or _is_size(command.model) else "finetune")
    recipes = {_DEMO: Recipe(), **RECIPES}
    if name not in recipes:
        raise ValueError(f"recipe must be one of {', '.join(recipes)}, got {name!r}")
    if command.objective is not None and command.objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {command.objective!r}")
    fields = (
        "objective",
        "epochs",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "layer_decay",
        "average",
        "accumulate",
    )
    given = {field: getattr(command, field) for field in fields if getattr(command, field) is not None}
    recipe = dataclasses.replace(recipes[name], freeze=command.freeze, **given)
    if command.tokenizer is None:
        return recipe
    if recipe.objective != "clip":
        raise ValueError("tokenizer has no effect without the objective clip: leave it out")
    spec = OBJECTIVES.configure("clip", tokenizer=str(command.tokenizer))
    return dataclasses.replace(recipe, objective=spec)


def _load(command: Train, *, key: Any) -> tuple[Any, Dataset]:
    size = None if command.image_size is None else (command.image_size, command.image_size)
    pool = command.pool or "mean"
    options: dict[str, Any] = {"skip_broken": command.skip_broken}
    if command.held_out is not None:
        options["held_out"] = command.held_out
    if command.data is None:
        refuse_options("without data", held_out=command.held_out, skip_broken=command.skip_broken)
    if command.model == _SMALL:
        data = load_data(command.data, size, **options)
        config = make_small_config(data, patch_size=None, pool=pool)
        return eqx.filter_jit(config.build)(execution=EXECUTION, key=key), data
    if _is_size(command.model):
        data = load_data(command.data, size or (224, 224), **options)
        head: dict[str, Any] = {"num_classes": len(data.classes)} if data.classes else {"head": "none"}
        described = {"channels": data.channels, "image_size": data.image_size, "pool": pool}
        return vit(command.model, key=key, **described, **head), data
    file = Path(command.model)
    if not file.exists():
        raise ValueError(
            f"model must be a file of weights, {_SMALL}, or a size and a patch, as S/16, of the sizes "
            f"{', '.join(PRESETS)}, got {command.model!r}"
        )
    changes = {} if command.pool is None else {"pool": command.pool}
    model = command.load_model(file, image_size=command.image_size, key=key, **changes)
    data = load_data_for(model if isinstance(model, ViT) else model.image, command.data, **options)
    if isinstance(model, ViT) and data.classes:
        model = replace(model, head="linear", num_classes=len(data.classes), classes=data.classes, key=key)
    return model, data


def _is_size(model: str) -> bool:
    return model.partition("/")[0] in PRESETS and "/" in model


def _divide(data: Dataset, share: float, seed: int) -> tuple[Dataset, Examples | None]:
    """The data set without the images of validation, and those."""
    if share == 0:
        return data, None
    if not data.classes:
        raise ValueError("validation must be 0 for images without classes: no accuracy chooses the best model")
    mask = hold_out(data.train.labels, seed=seed, share=share)
    return dataclasses.replace(data, train=data.train[~mask]), data.train[mask]
