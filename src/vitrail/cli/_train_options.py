"""The options of `vitrail train` and `vitrail demo`."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..model import PRESETS
from ..train import RECIPES, Recipe, read_run
from ._options import LoadOptions, refuse_options

SMALL: Final = "small"
_DEMO: Final = "demo"
SETTINGS: Final = "settings"
_LARGEST_BATCH: Final = 256


class BatchDefault(int):
    """The size of a batch that is that of a recipe by name, and not what anybody chose: it is cut to the images."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run is of, and where it is kept."""

    data: Path | None = None
    """Your own images: a folder with one subfolder for each class (JPEG, PNG, WebP), of tar files, of pictures and
    captions.csv, or with the four IDX files of the MNIST family, plain or gzipped. Without it 5,000 digits of MNIST."""
    held_out: float | Path | None = None
    """The share of each class that is held out for the final accuracy, by default a fifth; or a file with the names of
    the images to hold out, one a line, as cat/1.jpg."""
    skip_broken: bool = False
    """Whether images that cannot be decoded are left out and listed. Without it they end the run before it begins."""
    model: str = SMALL
    """A file of weights or a name of `vitrail list models`, which is fine-tuned, with a fresh head unless it has one
    for the same classes; a size such as `S/16`, which begins anew; or `small`, a model for small images."""
    recipe: str | None = None
    """The recipe, whose settings are the defaults of the options below: finetune, probe, scratch, mae, dino, clip or
    demo; or a file of a recipe as JSON. By default finetune for a file of weights, and else demo. Of a recipe by name a
    batch has at most 256 images, and not more than there are; one that you choose, here or in a file, is not cut."""
    tokenizer: Path | None = None
    """The tokenizer.json that splits texts, for a model that has none; without it, a token is a byte."""
    resume: Path | None = None
    """The folder of a run, which goes on with the options that it was started with."""
    out: Path | None = None
    """The folder of the run. The same command goes on where it was interrupted."""
    picture: Path | None = None
    """A picture of the predictions for held-out images to write: .png, .pdf or .svg."""
    save: Path | None = None
    """A file to save the trained model to, for `vitrail predict` and `vitrail.load`."""
    board: bool = False
    """Whether the metrics are written into the folder of the run for TensorBoard, too."""
    validation: float = 0.0
    """The share of the training images of each class, or of those with texts, that chooses the best model: by its
    accuracy, or by how often the best text of an image is its own; 0 for none."""
    keep_every: int | None = None
    """How many steps are between two checkpoints; by default an epoch."""
    mesh: str | None = None
    """The devices that train together, as `data=2,fsdp=4`: each computes its share of a batch, and along fsdp each has
    its share of the weights and the state of the optimiser."""
    join_hosts: bool = False
    """Whether other hosts run the same command, which the environment names: the variables JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, or those of Slurm, GKE or MPI."""
    seed: int = 0
    """For fresh weights, the order of the images and their augmentation. The same seed gives the same numbers on the
    same machine."""
    image_size: int | None = None
    """Height and width of the images in pixels after resizing; by default those of the file, 224 for a size, and for
    `small` 64, without resizing for MNIST and IDX files."""
    patch_size: int | None = None
    """Height and width of a patch of `small`, a divisor of the image size; by default the one nearest to a quarter."""
    pool: str | None = None
    """The pool, a name of `vitrail list pools`; by default that of the file, or the mean."""
    patch: str | None = None
    """The patch embedding of fresh weights: a name of `vitrail list patches`."""
    position: str | None = None
    """The position embedding of fresh weights: a name of `vitrail list positions`."""
    head: str | None = None
    """The head of fresh weights: a name of `vitrail list heads`."""
    lora: int | None = None
    """The rank of adapters, which are trained with the pool and the head in place of the whole model."""
    lora_targets: tuple[str, ...] = ("q", "v")
    """The layers with adapters: q, k, v or qkv, project, hidden, out."""


@dataclass(frozen=True, kw_only=True)
class Train(LoadOptions, Recipe, RunOptions):
    """Trains a model on images: to classify them, to probe a frozen backbone, with texts, or without labels.

    The run is a folder. The same command, or --resume, goes on where it was interrupted, and its result is the same to
    the bit. Options that the recipe sets have its values as defaults: see `vitrail train --recipe mae --help`.
    """

    def __post_init__(self) -> None:
        """The recipe is checked when it is made of the options, after the command line is parsed."""

    def choose_images(self) -> dict[str, Any]:
        """Which images are read: arguments of `load_images`.

        **Raises:** `ValueError` if there are none to choose from.
        """
        if self.data is None:
            refuse_options("without data", held_out=self.held_out, skip_broken=self.skip_broken)
        held_out = {} if self.held_out is None else {"held_out": self.held_out}
        return {"skip_broken": self.skip_broken, **held_out}


def make_defaults(args: Sequence[str]) -> Train:
    """**Arguments:**

    - `args`: of the command line, from the name of the command on.

    **Returns:**

    The options where the command line does not say otherwise: those of the run that goes on, or of the recipe.

    **Raises:** `ValueError` if there is no such run or recipe.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--resume", "--recipe", "--model"):
        parser.add_argument(name)
    try:
        given, _ = parser.parse_known_args(args)
    except argparse.ArgumentError:  # which the parser of the command reports
        return Train()
    if given.resume is not None:
        refuse_options("with --resume, which has it from the run", recipe=given.recipe, model=given.model)
        return dataclasses.replace(read_settings(Path(given.resume)), out=Path(given.resume))
    model = given.model or SMALL
    name = given.recipe or (_DEMO if model == SMALL or is_size(model) else "finetune")
    recipe = vars(_find_recipe(name))
    if name == _DEMO or name in RECIPES:
        recipe = {**recipe, "batch_size": BatchDefault(min(recipe["batch_size"], _LARGEST_BATCH))}
    defaults: dict[str, Any] = {**recipe, "model": model, "recipe": name}
    if "demo" in args[:1]:
        return Train(**defaults, picture=Path("vitrail-demo.png"), save=Path("vitrail-demo.safetensors"))
    return Train(**defaults, out=Path("vitrail-run"))


def read_settings(run: Path, otherwise: Train | None = None) -> Train:
    """Reads the options that a run was started with; `otherwise` if it was not started by `vitrail train`.

    **Raises:** `ValueError` if it is not the folder of a run, or it was not started so and there is no `otherwise`.
    """
    settings = read_run(run).get(SETTINGS)
    if settings is None:
        if otherwise is not None:
            return otherwise
        raise ValueError(f"{run} must be a run of vitrail train, got one of vitrail.train.fit: go on with that call")
    try:
        return Train.from_json(json.dumps(settings))
    except (ValueError, TypeError) as error:
        why = str(error).splitlines()[0].partition(": its fields")[0]
        raise ValueError(f"{run} must be a run of this version of vitrail, got one of another: {why}") from error


def make_lasting(command: Train, recipe: Recipe) -> Train:
    """The options as a run keeps them: with the batch that it has, and without what depends on the folder that the
    command was started in."""
    lasting = {name: value.resolve() for name, value in vars(command).items() if isinstance(value, Path)}
    file = Path(command.model)
    model = str(file.resolve()) if command.model != SMALL and file.exists() else command.model
    return dataclasses.replace(
        command, **{**lasting, "model": model, "resume": None, "batch_size": int(recipe.batch_size)}
    )


def _find_recipe(name: str) -> Recipe:
    recipes = {_DEMO: Recipe(), **RECIPES}
    if name in recipes:
        return recipes[name]
    if not Path(name).is_file():
        raise ValueError(f"recipe must be one of {', '.join(recipes)}, or a file of a recipe as JSON, got {name!r}")
    try:
        return Recipe.from_json(Path(name).read_text())
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} must be a recipe as Recipe.to_json writes it: {str(error).splitlines()[0]}"
        ) from error


def is_size(model: str) -> bool:
    """Whether a model is named by a size and a patch."""
    return model.partition("/")[0] in PRESETS and "/" in model
