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
    """The run: its data, its model and its files."""

    data: Path | None = None
    """The folder of your images: one subfolder for each class (JPEG, PNG, WebP), or pictures alone for the objectives
    mae and dino, or tar files, or pictures with a captions.csv, or the four IDX files of the MNIST family, plain or
    gzipped. Default: 5,000 digits of MNIST."""
    held_out: float | Path | None = None
    """The images that the final accuracy is measured on: a share of each class, or a file that names them, one a line,
    such as cat/1.jpg. Default: a fifth."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded, and list them. Default: they are an error before the first step."""
    model: str = SMALL
    """What to train: a file of weights or a name of `vitrail list models`, to continue from its weights; a size such as
    `S/16`, to start from random weights; or `small`, a small model for small images. Weights from a file keep their
    head if it has the same classes, and get a new one otherwise."""
    recipe: str | None = None
    """The recipe, which sets the defaults of the options of training: finetune, probe, scratch, mae, dino, clip or
    demo, or a JSON file. Default: finetune for a file of weights, demo otherwise. A named recipe uses batches of at
    most 256 images, or of all images if there are fewer."""
    tokenizer: Path | None = None
    """A tokenizer.json, for a model of images and texts without a tokenizer. Default: each byte is a token."""
    resume: Path | None = None
    """The folder of an interrupted run, to continue it with its own options."""
    out: Path | None = None
    """The folder of the run. Run the same command again to continue an interrupted run."""
    picture: Path | None = None
    """Draw predictions for held-out images into this file: .png, .pdf or .svg."""
    save: Path | None = None
    """Save the trained model to this file: .safetensors."""
    board: bool = False
    """Write the metrics for TensorBoard, too, into the folder of the run."""
    validation: float = 0.0
    """The share of the training images that is set aside to choose the best model: by its accuracy, or for images with
    texts by how often an image is closest to its own text. 0 for none."""
    keep_every: int | None = None
    """The number of steps between two checkpoints. Default: one epoch."""
    mesh: str | None = None
    """How to divide the run over devices, such as `data=2,fsdp=4`: each device computes its share of a batch, and along
    fsdp it also stores its share of the weights and of the state of the optimiser."""
    join_hosts: bool = False
    """Train together with other hosts that run the same command. They are found by the variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by those of Slurm, GKE or MPI."""
    seed: int = 0
    """The seed of new weights, of the order of the images and of their augmentation. The same seed gives the same
    numbers on the same machine."""
    image_size: int | None = None
    """Resize images to this height and width in pixels. Default: the size of the file of weights; 224 for a size such
    as `S/16`; for `small` 64, or no resizing for MNIST and IDX files."""
    patch_size: int | None = None
    """The height and width of a patch of `small`. It must divide the image size. Default: about a quarter of it."""
    pool: str | None = None
    """The pool: a name of `vitrail list pools`. Default: that of the file of weights, or mean."""
    patch: str | None = None
    """The patch embedding of a new model: a name of `vitrail list patches`."""
    position: str | None = None
    """The position embedding of a new model: a name of `vitrail list positions`."""
    head: str | None = None
    """The head of a new model, or a new head for a file of weights: a name of `vitrail list heads`."""
    lora: int | None = None
    """Train low-rank adapters of this rank, the pool and the head, instead of the whole model."""
    lora_targets: tuple[str, ...] = ("q", "v")
    """The layers that get adapters: q, k, v or qkv, project, hidden, out."""


@dataclass(frozen=True, kw_only=True)
class Train(LoadOptions, Recipe, RunOptions):
    """Trains or fine-tunes a model on images with classes, with texts, or without labels.

    The run is a folder. Run the same command again, or pass --resume, to continue an interrupted run: the result is the
    same to the bit. The recipe sets the defaults of the options of training: `vitrail train --recipe mae --help` shows
    those of mae.
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
