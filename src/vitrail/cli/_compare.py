"""`vitrail compare`: compares every pool on your images, on one frozen backbone."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import equinox as eqx
import jax
import numpy as np

from .._check import check_seed
from .._extras import require
from .._files import write_whole
from ..images import Dataset
from ..lab import PROBE_RECIPE, Comparison, PoolRow, compare_pools, compare_with_best, show_comparison_progress
from ..model import ViT
from ..nn import count_parameters
from ..show import draw_comparison
from ..train import Recipe, check_classifier, evaluate, fit, show_progress
from ._evaluate import RunResult, evaluate_run
from ._options import LoadOptions, refuse_options
from ._setup import EXECUTION, format_size, load_data, load_data_for, make_small_config, print_data

_COLUMNS: Final = ("pool", "accuracy", "p", "k-NN", "parameters", "µs an image", "class token")


@dataclass(frozen=True)
class Compare(LoadOptions):
    """Trains every pool, with a linear head, on the tokens of one frozen backbone, and ranks them. With --runs, ranks
    the models of runs of `vitrail train`.

    Without --weights the backbone is the small model of `vitrail demo`, which is trained first, with a head that reads
    the class token and the mean of the patches. Start an interrupted run again to continue it.
    """

    runs: tuple[Path, ...] = ()
    """Folders of runs of `vitrail train`, whose models are compared on the held-out images of each run, or those of
    --data. Nothing is trained."""
    data: Path | None = None
    """Your own images, as for `vitrail train`; without it 5,000 digits of MNIST."""
    weights: Path | None = None
    """The backbone: any file of weights that vitrail.load reads. Images are prepared as the file says; if it does not,
    they are resized to the model's size, and normalised by the mean and deviation of the training images."""
    pools: str | None = None
    """Names of `vitrail list pools`, separated by commas: mean,cls,attention. By default all that fit."""
    seeds: int = 3
    """The number of runs of each pool."""
    epochs: int = PROBE_RECIPE.epochs
    """How many times each run sees each image."""
    batch_size: int = PROBE_RECIPE.batch_size
    """The number of images in a step."""
    learning_rate: float = PROBE_RECIPE.learning_rate
    """The highest learning rate."""
    image_size: int | None = None
    """Height and width of the images after resizing, as for `vitrail train`; with --weights those of the model."""
    patch_size: int | None = None
    """Height and width of a patch of the backbone that is trained first."""
    backbone_pool: str | None = None
    """The pool of the backbone that is trained first, by default cls_mean. It has an advantage, because the tokens are
    trained for it."""
    seed: int | None = None
    """For the backbone that is trained first, by default 0."""
    token_budget: float = 2.0
    """GiB of tokens to hold in memory; larger ones are in a temporary file in the folder of --out."""
    out: Path = Path("vitrail-compare")
    """The folder for the results: results.csv, results.json, figure.png, the backbone, and each finished pool."""


def run_compare(command: Compare) -> None:
    """Loads images and a backbone, compares, and writes the results."""
    if command.runs:
        for line in _compare_runs(command):
            print(line)
        return
    started = time.perf_counter()
    require("matplotlib", extra="demo")
    check_seed(command.seed or 0)
    recipe = dataclasses.replace(
        PROBE_RECIPE, epochs=command.epochs, batch_size=command.batch_size, learning_rate=command.learning_rate
    )
    if command.weights is None:
        command.refuse_file_options("without --weights")
    else:
        of_backbone = {name: getattr(command, name) for name in ("patch_size", "backbone_pool", "seed")}
        refuse_options("with --weights", **of_backbone)
    given = None if command.weights is None else command.load_model(command.weights, part="image")
    data = _load_data(command, given)
    command.out.mkdir(parents=True, exist_ok=True)
    print_data(data)
    model = _train_backbone(command, data) if given is None else given
    names = None if command.pools is None else [name.strip() for name in command.pools.split(",") if name.strip()]
    print(
        f"backbone: {format_size(model.config.grid)} patches of {format_size(model.config.patch_size)}, width "
        f"{model.config.size.dim}, depth {model.config.size.depth}, {count_parameters(model):,} parameters"
    )
    try:
        with show_comparison_progress() as report:
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
        print(f"finished: {', '.join(finished) or 'none yet'}. Run the same command again to continue.")
        raise
    _write_results(comparison, data, command.out)
    for line in format_table(comparison):
        print(line)
    print(f"results: {command.out / 'results.csv'}, {command.out / 'results.json'}, {command.out / 'figure.png'}")
    print(f"time: {time.perf_counter() - started:.0f} s")


def format_table(comparison: Comparison) -> list[str]:
    """Formats the rows as lines, with notes."""
    lines = _align([_COLUMNS, *(_format_cells(row) for row in comparison.rows)])
    seeds = len(comparison.rows[0].correct)
    notes = [
        f"accuracy: mean and standard deviation of {seeds} run{'s' if seeds > 1 else ''}. p: p-value of the difference "
        "to the best, by a two-sided sign-flip test over the held-out images, after Holm.",
        "k-NN: 20 nearest neighbours by cosine, for pools without parameters. µs: time of pool and head, noisy.",
    ]
    notes += [f"note: {note}." for note in comparison.notes]
    skipped = [f"left out: {s.pool} ({' '.join(s.reason.split())})" for s in comparison.skipped]
    return [*lines, "", *notes, *skipped]


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines of a table: names on the left, numbers on the right, and a rule below the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def format_line(row: tuple[str, ...]) -> str:
        name, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        return "  ".join([f"{name.strip():<{widths[0]}}", *others]).rstrip()

    first, *others = map(format_line, rows)
    return [first, "-" * len(first), *others]


def _compare_runs(command: Compare) -> list[str]:
    """A table of the models of runs, the best first."""
    given = {field.name: getattr(command, field.name) for field in dataclasses.fields(Compare)}
    changed = {f.name: given[f.name] for f in dataclasses.fields(Compare) if given[f.name] != f.default}
    refuse_options("with --runs", **{name: changed[name] for name in changed.keys() - {"runs", "data"}})
    results = sorted((evaluate_run(run, data=command.data) for run in command.runs), key=_get_error)
    first = results[0]
    paired = all(r.source == first.source and np.array_equal(r.labels, first.labels) for r in results)
    p_values = compare_with_best([result.correct.astype(float) for result in results]) if paired else None
    cells = [("model", "accuracy", "p", "by", "parameters")]
    for place, result in enumerate(results):
        p = "best" if place == 0 else "" if p_values is None else f"{p_values[place - 1]:.3f}"
        by = result.method.removesuffix("accuracy").strip() or "logits"
        cells.append((str(result.file), str(result), p, by, f"{result.parameters:,}"))
    note = (
        "p: p-value of the difference to the best, by a two-sided sign-flip test over the held-out images, after Holm."
        if paired
        else "The models were tested on different images, so that no difference is tested: pass --data for the same."
    )
    return [*_align(cells), "", note]


def _get_error(result: RunResult) -> float:
    return 1 - float(result.correct.mean())


def _format_cells(row: PoolRow) -> tuple[str, ...]:
    return (
        row.pool,
        f"{row.accuracy:.2%} ± {row.spread:.2%}",
        "best" if row.p_value is None else f"{row.p_value:.3f}",
        "" if row.knn_accuracy is None else f"{row.knn_accuracy:.1%}",
        f"{row.pool_parameters:,} + {row.head_parameters:,}",
        f"{row.microseconds:.1f}",
        "yes" if row.needs_class_token else "",
    )


def _load_data(command: Compare, model: ViT | None) -> Dataset:
    """Loads the images, prepared for the model if there is one."""
    size = None if command.image_size is None else (command.image_size, command.image_size)
    if model is None:
        return load_data(command.data, size)
    config = model.config
    if size not in (None, config.image_size):
        raise ValueError(
            f"image_size must be {format_size(config.image_size)}, that of the weights, got {command.image_size}: "
            "leave it out, or resize the model with model.resized and save it"
        )
    return load_data_for(model, command.data)


def _train_backbone(command: Compare, data: Dataset) -> ViT:
    """Trains the demo's model, or goes on with that of an earlier run."""
    pool = command.backbone_pool or "cls_mean"
    config = make_small_config(data, patch_size=command.patch_size, pool=pool)
    build_key, fit_key = jax.random.split(jax.random.key(command.seed or 0))
    check_classifier(eqx.filter_eval_shape(config.build, key=build_key), data)
    model = eqx.filter_jit(config.build)(execution=EXECUTION, key=build_key)
    with show_progress() as report:
        model = fit(model, data, Recipe(), key=fit_key, report=report, folder=command.out / "backbone")
    print(f"backbone: trained with the pool {pool}, accuracy {evaluate(model, data).accuracy:.1%}")
    return model


def _write_results(comparison: Comparison, data: Dataset, out: Path) -> None:
    write_whole(out / "results.json", lambda part: part.write_text(comparison.to_json()))
    write_whole(out / "results.csv", lambda part: part.write_text(comparison.to_csv(), encoding="utf-8"))
    draw_comparison(comparison, data, out / "figure.png")
