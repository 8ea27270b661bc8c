"""`vitrail compare`: every pool on your images, on one frozen backbone."""

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import equinox as eqx
import jax

from .._extras import require
from .._files import write_whole
from ..lab import PROBE_RECIPE, Comparison, PoolRow, compare_pools, draw_comparison, lab_progress_bar
from ..model import ViT
from ..train import Dataset, Recipe, evaluate, fit, progress_bar
from ..train._fit import check_classifier
from ..weights import load, save
from ._setup import by, check_seed, count, load_data, say_data, small_config

_COLUMNS: Final = ("pool", "accuracy", "p", "k-NN", "parameters", "µs an image", "class token")


@dataclass(frozen=True)
class Compare:
    """Trains every pooling, with a linear head, on the tokens of one frozen backbone, and says which is best.

    Without --weights the backbone is the small model of `vitrail demo`, trained on the spot with a head that reads the
    class token and the mean of the patches. An interrupted run goes on when it is started again.
    """

    data: Path | None = None
    """Your own images, as for `vitrail demo`; without it the 5,000 digits of MNIST that come with a package."""
    weights: Path | None = None
    """A model that vitrail.save wrote, as the backbone. Images are brought to its size, and their pixels normalised by
    the mean and deviation of the training images."""
    pools: str | None = None
    """Names of `vitrail list pools`, with commas between them: mean,cls,attention. By default all that can take
    part."""
    seeds: int = 3
    """How many runs there are of each pool."""
    epochs: int = PROBE_RECIPE.epochs
    """How often each run sees each image."""
    batch_size: int = PROBE_RECIPE.batch_size
    """Images a step."""
    learning_rate: float = PROBE_RECIPE.learning_rate
    """At its highest."""
    image_size: int | None = None
    """Pixels to a side that images are brought to, as for `vitrail demo`; with --weights those of the model."""
    patch_size: int | None = None
    """Pixels to a side of a patch of the backbone that is trained on the spot."""
    backbone_pool: str = "cls_mean"
    """The pooling that the backbone on the spot learns with. It favours itself: tokens that it reads are trained."""
    seed: int = 0
    """Of the backbone that is trained on the spot."""
    token_budget: float = 2.0
    """GiB of tokens to keep in memory; if they are more, they lie in a temporary file in the folder of --out."""
    out: Path = Path("vitrail-compare")
    """The folder for the results: results.csv, results.json, figure.png, the backbone, and each finished pool."""


def run_compare(command: Compare) -> None:
    """Loads, gets a backbone, compares, and writes the results."""
    started = time.perf_counter()
    require("matplotlib", extra="demo")
    check_seed(command.seed)
    recipe = dataclasses.replace(
        PROBE_RECIPE, epochs=command.epochs, batch_size=command.batch_size, learning_rate=command.learning_rate
    )
    given = None if command.weights is None else load(command.weights)
    data = load_data(command.data, _image_size(command, given))
    command.out.mkdir(parents=True, exist_ok=True)
    say_data(data)
    model = _train_backbone(command, data) if given is None else given
    if model.config.channels != data.channels:
        raise ValueError(
            f"weights must be of a model for the {data.channels} channels of the images, but {command.weights} is for "
            f"{model.config.channels}"
        )
    names = None if command.pools is None else [name.strip() for name in command.pools.split(",") if name.strip()]
    print(
        f"backbone: {model.config.grid[0]} x {model.config.grid[1]} patches of {by(model.config.patch_size)}, width "
        f"{model.config.size.dim}, depth {model.config.size.depth}, {count(model):,} parameters"
    )
    try:
        with lab_progress_bar() as report:
            comparison = compare_pools(
                model,
                data,
                pools=names,
                seeds=command.seeds,
                recipe=recipe,
                folder=command.out,
                token_budget=command.token_budget,
                report=report,
            )
    except KeyboardInterrupt:
        finished = sorted(path.stem for path in (command.out / "pools").glob("*.json"))
        print(f"finished: {', '.join(finished) or 'none yet'}. The same command goes on with the others.")
        raise
    _write(comparison, data, command.out)
    for line in table(comparison):
        print(line)
    print(f"results: {command.out / 'results.csv'}, {command.out / 'results.json'}, {command.out / 'figure.png'}")
    print(f"time: {time.perf_counter() - started:.0f} s")


def table(comparison: Comparison) -> list[str]:
    """The rows for people, one line each, and what they mean."""
    cells = [_COLUMNS, *(_cells(row) for row in comparison.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_COLUMNS))]

    def line(row: tuple[str, ...]) -> str:
        name, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        return "  ".join([f"{name.strip():<{widths[0]}}", *others]).rstrip()

    lines = [line(row) for row in cells]
    seeds = len(comparison.rows[0].correct)
    notes = [
        f"accuracy: mean and standard deviation of {seeds} run{'s' if seeds > 1 else ''}. p: of the difference to the "
        "best, two-sided sign-flip test over the held-out images, after Holm.",
        "k-NN: 20 nearest by cosine, for pools without parameters. µs: pool and head, noisy.",
    ]
    skipped = [f"left out: {s.pool}, as {' '.join(s.reason.split())}" for s in comparison.skipped]
    return [lines[0], "-" * len(lines[0]), *lines[1:], "", *notes, *skipped]


def _cells(row: PoolRow) -> tuple[str, ...]:
    return (
        row.pool,
        f"{row.accuracy:.2%} ± {row.spread:.2%}",
        "best" if row.p_value is None else f"{row.p_value:.3f}",
        "" if row.knn_accuracy is None else f"{row.knn_accuracy:.1%}",
        f"{row.pool_parameters:,} + {row.head_parameters:,}",
        f"{row.microseconds:.1f}",
        "yes" if row.needs_class_token else "",
    )


def _image_size(command: Compare, model: ViT | None) -> tuple[int, int] | None:
    if model is None:
        return None if command.image_size is None else (command.image_size, command.image_size)
    if command.image_size is not None and model.config.image_size != (command.image_size, command.image_size):
        raise ValueError(
            f"image_size must be left out with weights, or be the {by(model.config.image_size)} of the model, but "
            f"{command.image_size} came: resize the model with model.resized, and save it"
        )
    return model.config.image_size


def _train_backbone(command: Compare, data: Dataset) -> ViT:
    """The demo's model, from the folder where an earlier run left it."""
    path, note = command.out / "backbone.safetensors", command.out / "backbone.json"
    config = small_config(data, patch_size=command.patch_size, pool=command.backbone_pool)
    images = hashlib.sha256(data.train.images.tobytes() + data.train.labels.tobytes()).hexdigest()
    made_of = {"config": config.to_json(), "recipe": repr(Recipe()), "seed": command.seed, "images": images}
    if note.exists() and path.exists():
        before = json.loads(note.read_text())
        if before != made_of:
            changed = sorted(name for name in made_of if before.get(name) != made_of[name])
            raise ValueError(
                f"out must be a new folder, or that of this comparison, but {command.out} holds a backbone of another: "
                f"{', '.join(changed)} changed. Take another folder, or remove that one"
            )
        print(f"backbone: {path} of an earlier run")
        return load(path)
    build_key, fit_key = jax.random.split(jax.random.key(command.seed))
    check_classifier(eqx.filter_eval_shape(config.build, key=build_key), data)
    with progress_bar() as report:
        model = fit(eqx.filter_jit(config.build)(key=build_key), data, Recipe(), key=fit_key, report=report)
    print(f"backbone: trained with the pool {command.backbone_pool}, {evaluate(model, data).accuracy:.1%} by itself")
    save(model, path)
    write_whole(note, lambda part: part.write_text(json.dumps(made_of)))
    return model


def _write(comparison: Comparison, data: Dataset, out: Path) -> None:
    write_whole(out / "results.json", lambda part: part.write_text(comparison.to_json()))
    write_whole(out / "results.csv", lambda part: part.write_text(comparison.to_csv()))
    draw_comparison(comparison, data, out / "figure.png")
