"""`vitrail train` and `vitrail demo`: train a model on images, in a folder from which a run can go on."""

import argparse
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import equinox as eqx
import jax

from .._check import check_rate, check_seed
from .._extras import require
from .._spec import PartSpec
from ..images import Dataset, Examples, hold_out
from ..model import PRESETS, ViT, lora, replace, vit
from ..nn import count_parameters
from ..show import SUFFIXES, draw_curves, draw_predictions
from ..systems import ImageText
from ..train import (
    OBJECTIVES,
    RECIPES,
    Progress,
    Recipe,
    evaluate,
    fit,
    join_hosts,
    make_mesh,
    make_objective,
    read_metrics,
    read_run,
    show_progress,
    write_board,
)
from ..weights import save, save_adapters
from ._options import LoadOptions, refuse_options
from ._setup import EXECUTION, check_out, format_size, load_data, load_data_for, make_small_config, print_data
from ._texts import measure_matches

_SMALL: Final = "small"
_DEMO: Final = "demo"
_SETTINGS: Final = "settings"
_LARGEST_BATCH: Final = 256
_DRAW_EVERY: Final = 60.0  # seconds
_PARTS: Final = ("patch", "position", "head")


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
    model: str = _SMALL
    """A file of weights, which is fine-tuned, with a fresh head unless it has one for the same classes; a size such as
    `S/16`, which begins anew; or `small`, a model for small images."""
    recipe: str | None = None
    """The recipe, whose settings are the defaults of the options below: finetune, probe, scratch, mae, dino, clip or
    demo; or a file of a recipe as JSON. By default finetune for a file of weights, and else demo. A batch has at most
    256 images by default, and not more than there are."""
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
    """The share of the training images of each class that chooses the best model; 0 for none."""
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
    model = given.model or _SMALL
    name = given.recipe or (_DEMO if model == _SMALL or _is_size(model) else "finetune")
    recipe = vars(_find_recipe(name))
    batch_size = min(recipe["batch_size"], _LARGEST_BATCH)
    defaults: dict[str, Any] = {**recipe, "batch_size": batch_size, "model": model, "recipe": name}
    if "demo" in args[:1]:
        return Train(**defaults, picture=Path("vitrail-demo.png"), save=Path("vitrail-demo.safetensors"))
    return Train(**defaults, out=Path("vitrail-run"))


def has_settings(run: Path) -> bool:
    """Whether a run was started by `vitrail train`."""
    return _SETTINGS in read_run(run)


def read_settings(run: Path) -> Train:
    """Reads the options that a run was started with.

    **Raises:** `ValueError` if it is not the folder of a run, or the run was not started by `vitrail train`.
    """
    settings = read_run(run).get(_SETTINGS)
    if settings is None:
        raise ValueError(f"{run} must be a run of vitrail train, got one of vitrail.train.fit: go on with that call")
    try:
        return Train.from_json(json.dumps(settings))
    except (ValueError, TypeError) as error:
        why = str(error).splitlines()[0].partition(": its fields")[0]
        raise ValueError(f"{run} must be a run of this version of vitrail, got one of another: {why}") from error


def run_train(command: Train) -> None:
    """Joins the other hosts, if there are any, and trains."""
    recipe = _check(command)
    with contextlib.ExitStack() as stack:
        if command.join_hosts and join_hosts() > 0:  # the first host says what all do
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        _train(command, recipe)


def _train(command: Train, recipe: Recipe) -> None:
    """Loads images and a model, and trains."""
    started = time.perf_counter()
    mesh = None if command.mesh is None else make_mesh(command.mesh)
    build_key, fit_key = jax.random.split(jax.random.key(command.seed))
    model, data = _load(command, key=build_key)
    if not data.classes:
        refuse_options("for images without classes", head=command.head)
    if command.picture and "label" not in make_objective(recipe, data.preprocess).inputs:
        refuse_options(f"for the objective {recipe.objective}, which does not classify", picture=command.picture)
    if command.lora is not None:
        model = lora(model, command.lora, command.lora_targets, key=jax.random.fold_in(build_key, 1))
    data, validation = _divide(data, command.validation, command.seed)
    recipe = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, len(data.train)))
    print_data(data)
    print(_describe_model(command.model, model))
    options: dict[str, Any] = {"validation": validation, "keep_every": command.keep_every, "mesh": mesh}
    if command.out is not None:
        print(f"recipe: {recipe}")
        options |= {"folder": command.out, "notes": {_SETTINGS: json.loads(_make_lasting(command).to_json())}}
    try:
        with _report(command) as report:
            trained = fit(model, data, recipe, key=fit_key, report=report, **options)
    finally:
        if command.out is not None and read_metrics(command.out):
            _draw(command.out)
    _finish(command, recipe, trained, data)
    print(f"time: {time.perf_counter() - started:.0f} s")


def _check(command: Train) -> Recipe:
    """Makes the recipe, and checks what needs neither images nor a model, so that it does not fail after an hour."""
    if command.out is None:
        refuse_options(
            "without --out", board=command.board, validation=command.validation or None, keep_every=command.keep_every
        )
    if command.resume not in (None, command.out):
        refuse_options("with --resume, whose folder goes on", out=command.out)
    if command.lora is None and command.lora_targets != RunOptions.lora_targets:
        refuse_options("without --lora", lora_targets=command.lora_targets)
    if command.join_hosts:
        refuse_options("with --join-hosts", board=command.board, picture=command.picture, save=command.save)
    check_seed(command.seed)
    check_rate(validation=command.validation)
    require("matplotlib", extra="demo")
    require("safetensors", extra="demo")
    if command.picture is not None:
        check_out("picture", command.picture, SUFFIXES)
    if command.save is not None:
        check_out("save", command.save, (".safetensors",))
    if command.board:
        require("tensorboardX", extra="board")
    recipe = Recipe(**{field.name: getattr(command, field.name) for field in dataclasses.fields(Recipe)})
    if command.tokenizer is not None:
        given = recipe.objective if isinstance(recipe.objective, PartSpec) else PartSpec(str(recipe.objective))
        if given.name != "clip":
            refuse_options("without the objective clip", tokenizer=command.tokenizer)
        options = {**dict(given.options), "tokenizer": str(command.tokenizer)}
        recipe = dataclasses.replace(recipe, objective=OBJECTIVES.configure("clip", **options))
    adapted = command.lora is not None and not recipe.train
    return dataclasses.replace(recipe, train=("readout",)) if adapted else recipe


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


def _load(command: Train, *, key: Any) -> tuple[Any, Dataset]:
    size = None if command.image_size is None else (command.image_size, command.image_size)
    fresh = {name: getattr(command, name) for name in _PARTS if getattr(command, name) is not None}
    read = command.choose_images()
    if command.model == _SMALL or _is_size(command.model):
        command.refuse_file_options(f"for the model {command.model}")
    if command.model == _SMALL:
        data = load_data(command.data, size, **read)
        config = make_small_config(data, patch_size=command.patch_size, pool=command.pool or "mean", **fresh)
        return eqx.filter_jit(config.build)(execution=EXECUTION, key=key), data
    refuse_options(f"for the model {command.model}", patch_size=command.patch_size)
    if _is_size(command.model):
        data = load_data(command.data, size or (224, 224), **read)
        options: dict[str, Any] = {"channels": data.channels, "image_size": data.image_size, **fresh}
        options |= {"num_classes": len(data.classes)} if data.classes else {"head": "none"}
        return vit(command.model, pool=command.pool or "mean", key=key, **options), data
    file = Path(command.model)
    if not file.exists():
        raise ValueError(
            f"model must be a file of weights, {_SMALL}, or a size and a patch, as S/16, of the sizes "
            f"{', '.join(PRESETS)}, got {command.model!r}"
        )
    head = fresh.pop("head", None)
    refuse_options("for a file of weights", **fresh)
    changes = {} if command.pool is None else {"pool": command.pool}
    model = command.load_model(file, image_size=command.image_size, key=key, **changes)
    data = load_data_for(model if isinstance(model, ViT) else model.image, command.data, **read)
    if not isinstance(model, ViT) and "label" in make_objective(command, data.preprocess).inputs:
        model = model.image
    if isinstance(model, ViT) and data.classes and (head is not None or model.config.classes != data.classes):
        model = replace(model, head=head or "linear", num_classes=len(data.classes), classes=data.classes, key=key)
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


def _describe_model(name: str, model: Any) -> str:
    parameters = f"{count_parameters(model):,} parameters"
    if not isinstance(model, ViT):
        return f"{type(model).__name__}: {name}, {parameters}"
    config = model.config
    patches = f"{format_size(config.grid)} patches of {format_size(config.patch_size)}"
    return f"ViT: {patches}, width {config.size.dim}, depth {config.size.depth}, pool {config.pool}, {parameters}"


def _make_lasting(command: Train) -> Train:
    """The options without what depends on the folder that the command was started in."""
    lasting = {name: value.resolve() for name, value in vars(command).items() if isinstance(value, Path)}
    file = Path(command.model)
    model = str(file.resolve()) if command.model != _SMALL and file.exists() else command.model
    return dataclasses.replace(command, **{**lasting, "model": model, "resume": None})


@contextlib.contextmanager
def _report(command: Train) -> Generator[Callable[[Progress], None]]:
    with contextlib.ExitStack() as stack:
        reports = [stack.enter_context(show_progress())]
        if command.board and command.out is not None:
            reports.append(stack.enter_context(write_board(command.out)))
        drawn = time.monotonic()

        def report(progress: Progress) -> None:
            nonlocal drawn
            for each in reports:
                each(progress)
            if command.out is not None and time.monotonic() - drawn > _DRAW_EVERY:
                _draw(command.out)
                drawn = time.monotonic()

        yield report


def _draw(run: Path) -> None:
    if jax.process_index() > 0:
        return
    with contextlib.suppress(OSError):  # of a full disk, which `fit` reports
        draw_curves(run, run / "curves.png")


def _finish(command: Train, recipe: Recipe, trained: Any, data: Dataset) -> None:
    """Evaluates, draws and saves."""
    if command.save is not None:
        save(trained, command.save)
    if isinstance(trained, ViT):
        found = evaluate(trained, data)
        print(f"test accuracy: {found.accuracy:.1%} ({found.correct:,} of {len(data.test):,} held-out images)")
        if command.picture is not None:
            draw_predictions(trained, data, found, command.picture)
            print(f"picture: {command.picture}")
    if isinstance(trained, ImageText):
        right, number = measure_matches(trained, data)
        print(
            f"test text accuracy: {right.mean():.1%} ({right.sum():,} of {len(right):,} held-out images, whose own "
            f"text is the best of {number:,})"
        )
    if command.save is not None:
        print(f"model: {command.save} (vitrail predict {command.save} IMAGE)")
    if command.out is not None:
        if command.lora is not None:
            save_adapters(trained, command.out / "adapters.safetensors", also=recipe.train)
        files = sorted(path.name for path in command.out.glob("*.*") if not path.name.startswith("events."))
        print(f"run: {command.out} ({', '.join(files)})")
