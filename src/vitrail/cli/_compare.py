"""`vitrail compare`: which model, layer, resolution and pool is best on your images."""

import dataclasses
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, cast

import equinox as eqx
import jax
import numpy as np

from .._check import check_above_zero, check_not_negative, check_seed
from .._extras import require
from .._files import write_whole
from ..images import Dataset
from ..lab import (
    Comparison,
    PoolChoice,
    ProbeOptions,
    choose_groups,
    compare,
    compare_with_best,
    conclude,
    count_finished,
    read_plan,
    show_comparison_progress,
    tell_p_values,
    write_report,
)
from ..model import ViT
from ..nn import count_parameters
from ..pool import POOLS
from ..show import draw_comparison
from ..train import Recipe, check_classifier, evaluate, fit, show_progress
from ._compare_results import align, format_table, suggest_commands
from ._evaluate import RunResult, evaluate_run
from ._options import LoadOptions, parse_part, refuse_options
from ._setup import EXECUTION, check_data, format_size, load_data, load_data_for, make_small_config, print_data

_N = TypeVar("_N", int, float)
_DEMO: Final = "demo"
_DEFAULTS: Final = ProbeOptions()


@dataclass(frozen=True)
class Compare(LoadOptions):
    """Compares models, layers, resolutions and pools on your images, and ranks them.

    Backbones are frozen. Each pool is trained on the tokens of each model, resolution and layer. Without --models, the
    small model of `vitrail demo` is trained first, with the pool cls_mean. Run the same command again to continue an
    interrupted comparison, also with more models, layers, resolutions or pools. With --runs, the trained models of runs
    of `vitrail train` are compared instead.
    """

    runs: tuple[Path, ...] = ()
    """Folders of runs of `vitrail train`. Their models are compared on the held-out images of each run, or on those of
    --data, and nothing is trained."""
    data: Path | None = None
    """The folder of your images, as for `vitrail train`. Default: 5,000 digits of MNIST."""
    models: tuple[Path, ...] = ()
    """The backbones: files of weights in any layout that vitrail.load reads, or names of `vitrail list models`. Each
    model gets images that are prepared by the settings of its file. Without such settings, they are resized to the size
    of the model and normalised by the mean and deviation of the training images."""
    layers: str = "last"
    """The blocks whose tokens are pooled, separated by commas: last,-4 is the last and the fourth from the end. Write
    --layers=-4,last for a list that begins with a minus."""
    resolutions: str | None = None
    """The heights and widths of the images in pixels, separated by commas: 224,336. Default: that of each model."""
    pools: str | None = None
    """Names of `vitrail list pools`, separated by commas, such as "mean,cls,top_k(k=2)". Default: all that fit the
    model."""
    minutes: float | None = None
    """About how many minutes the command may take. It leaves out what would take longer, and prints what. Default: no
    limit."""
    seeds: int = _DEFAULTS.seeds
    """The number of training runs of each readout, each with another seed."""
    steps: int | None = _DEFAULTS.steps
    """The number of steps of a run. Default: 20 epochs, but at least 300 and at most 3,000 steps."""
    batch_size: int = _DEFAULTS.batch_size
    """The number of images in a step."""
    learning_rates: str = ",".join(f"{rate:g}" for rate in _DEFAULTS.learning_rates)
    """The learning rates to try on a part of the training images, separated by commas."""
    shots: str = ",".join(map(str, _DEFAULTS.shots))
    """The numbers of images of each class in few-shot tests, separated by commas. `none` skips these tests."""
    draws: int = _DEFAULTS.draws
    """The number of random choices of the images of a few-shot test."""
    image_size: int | None = None
    """Without --models: the height and width of the images of the backbone, as for `vitrail train`."""
    patch_size: int | None = None
    """Without --models: the height and width of a patch of the backbone."""
    backbone_pool: str | None = None
    """Without --models: the pool that the backbone is trained with. That pool has an advantage, because the tokens are
    trained for it. Default: cls_mean."""
    seed: int | None = None
    """Without --models: the seed of the backbone. Default: 0."""
    token_budget: float = 2.0
    """The most memory for tokens in GiB. More tokens are kept in a temporary file in the folder of --out."""
    out: Path = Path("vitrail-compare")
    """The folder for the results: report.html, results.csv, results.json, figure.png, the backbone, and each finished
    readout."""

    def list_given(self) -> list[str]:
        """The options by which the models are loaded, or the backbone is built, for `vitrail train`."""
        if self.models:
            return self.list_words()
        built = (("--patch-size", self.patch_size), ("--seed", self.seed))
        return [word for name, value in built if value is not None for word in (name, str(value))]


def run_compare(command: Compare) -> None:
    """Loads images and models, compares, and writes the results."""
    if command.runs:
        for line in _compare_runs(command):
            print(line)
        return
    started = time.perf_counter()
    require("matplotlib", extra="demo")
    axes = _Axes.read(command)
    try:
        comparison = _compare_models(command, axes)
    except KeyboardInterrupt:
        print(f"finished readouts: {count_finished(command.out)}. Run the same command again to continue.")
        raise
    about = [
        f"{name}: {'the small model of vitrail demo' if file is None else file}" for name, file in axes.files.items()
    ]
    about.append(f"images: {'5,000 digits of MNIST' if command.data is None else command.data}")
    commands = suggest_commands(comparison, axes.files, command.data, command.list_given())
    out = command.out
    write_whole(out / "results.json", lambda part: part.write_text(comparison.to_json(), encoding="utf-8"))
    write_whole(out / "results.csv", lambda part: part.write_text(comparison.to_csv(), encoding="utf-8"))
    draw_comparison(comparison, out / "figure.png")
    write_report(comparison, out / "report.html", about=about, commands=commands)
    for line in [
        *format_table(comparison),
        "",
        *comparison.conclusion,
        *(["", "next:", *commands] if commands else []),
    ]:
        print(line)
    print(f"results: {out / 'report.html'}, {out / 'results.csv'}, {out / 'results.json'}, {out / 'figure.png'}")
    print(f"time: {time.perf_counter() - started:.0f} s")


@dataclass(frozen=True)
class _Axes:
    """What is compared, and how, as the command line says."""

    files: dict[str, Path | None]
    """The models by name; no file for the one that is trained first."""
    layers: tuple[int, ...]
    resolutions: tuple[int, ...] | None
    pools: tuple[PoolChoice, ...] | None
    options: ProbeOptions

    @staticmethod
    def read(command: Compare) -> "_Axes":
        """Reads the lists of the command line, before anything is loaded."""
        check_seed(command.seed or 0)
        check_not_negative(token_budget=command.token_budget)
        check_above_zero(minutes=command.minutes)
        if command.models:
            names = ("image_size", "patch_size", "backbone_pool", "seed")
            refuse_options("with --models", **{name: getattr(command, name) for name in names})
        else:
            command.refuse_file_options("without --models")
        layers = [-1 if text == "last" else _read_number("layers", text, int) for text in _divide(command.layers)]
        sizes = (
            None
            if command.resolutions is None
            else [_read_number("resolutions", x, int) for x in _divide(command.resolutions)]
        )
        pools = None if command.pools is None else tuple(parse_part(text) for text in _divide(command.pools))
        shots = [] if command.shots == "none" else _divide(command.shots)
        for pool in (*(pools or ()), *([command.backbone_pool] if command.backbone_pool else [])):
            POOLS.describe(pool)
        options = ProbeOptions(
            seeds=command.seeds,
            steps=command.steps,
            batch_size=command.batch_size,
            learning_rates=tuple(_read_number("learning-rates", x, float) for x in _divide(command.learning_rates)),
            shots=tuple(_read_number("shots", text, int) for text in shots),
            draws=command.draws,
        )
        return _Axes(
            _name_files(command.models), tuple(layers), None if sizes is None else tuple(sizes), pools, options
        )


def _divide(text: str) -> list[str]:
    """The items of a list: commas within parentheses are of an item."""
    return [item.strip() for item in re.split(r",(?![^(]*\))", text) if item.strip()]


def _read_number(name: str, text: str, kind: type[_N]) -> _N:
    try:
        return kind(text)
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{name} must be {what}, separated by commas, got {text!r}") from error


def _name_files(files: Sequence[Path]) -> dict[str, Path | None]:
    """The models by the shortest names that tell them apart."""
    if not files:
        return {_DEMO: None}
    short = list(map(_name_file, files))
    names = short if len(set(short)) == len(short) else list(map(str, files))
    if len(set(names)) < len(names):
        raise ValueError(f"models must have each file once, got {', '.join(names)}: remove one")
    return dict(zip(names, files, strict=True))


def _name_file(file: Path) -> str:
    """The name of a model by its file: of a model of a run that of the folder, as all runs have the same files."""
    if not file.exists():
        return file.as_posix()  # of the Hub
    whole = file.resolve()
    if whole.is_dir() or (whole.parent / "run.json").exists():
        return (whole if whole.is_dir() else whole.parent).name
    return whole.stem if whole.suffix in (".safetensors", ".npz") else whole.name


def _compare_models(command: Compare, axes: _Axes) -> Comparison:
    started = time.monotonic()
    _check_compared(command, axes)
    models = {name: command.load_model(file, part="image") for name, file in axes.files.items() if file is not None}
    loaded: Dataset | None = None  # the images that the backbone was trained on are read as they are
    if not models:
        models[_DEMO], loaded = _train_backbone(command, axes)
    for name, model in models.items():
        config = model.config
        print(
            f"{name}: {format_size(config.grid)} patches of {format_size(config.patch_size)}, width "
            f"{config.size.dim}, depth {config.size.depth}, {count_parameters(model):,} parameters"
        )
    printed: list[str] = []

    def load_images(model: ViT) -> Dataset:
        is_loaded = loaded is not None and loaded.image_size == model.config.image_size
        data = loaded if loaded is not None and is_loaded else load_data_for(model, command.data)
        if not printed:
            print_data(data)
            printed.append(data.name)
        return data

    minutes = command.minutes
    if minutes is not None:
        minutes -= (time.monotonic() - started) / 60
        if minutes <= 0:
            raise ValueError(
                f"minutes must be enough to load the models, or to train a backbone, got {command.minutes:g}, which "
                "are over: pass more, or run the same command again to go on"
            )
    with show_comparison_progress() as report:
        return compare(
            models,
            load_images,
            layers=axes.layers,
            resolutions=axes.resolutions,
            pools=axes.pools,
            options=axes.options,
            minutes=minutes,
            folder=command.out,
            token_budget=command.token_budget,
            report=report,
        )


def _check_compared(command: Compare, axes: _Axes) -> None:
    """Finds what is wrong with the images, the folder and the models before any weights are read."""
    check_data(command.data)
    if command.out.exists() and not command.out.is_dir():
        raise ValueError(f"out must be a folder, got the file {command.out}: name another one")
    read_plan(command.out, axes.options, command.minutes)
    outlines: dict[str, ViT] = {}
    for name, file in axes.files.items():
        if file is None:
            return
        config = command.read_card(file, part="image").config
        if config.channels not in (1, 3):
            raise ValueError(
                f"{file} must read grey or RGB images to be compared on pictures, got a model of {config.channels} "
                "channels: compare it with vitrail.compare on arrays"
            )
        outlines[name] = cast(ViT, eqx.filter_eval_shape(config.build, key=jax.random.key(0)))
    choose_groups(outlines, axes.layers, axes.resolutions, axes.pools)


def _train_backbone(command: Compare, axes: _Axes) -> tuple[ViT, Dataset]:
    """Trains the demo's model, or goes on with that of an earlier run. What is compared is checked before. Also returns
    the images."""
    size = None if command.image_size is None else (command.image_size, command.image_size)
    data = load_data(command.data, size)
    pool = command.backbone_pool or "cls_mean"
    config = make_small_config(data, patch_size=command.patch_size, pool=pool)
    build_key, fit_key = jax.random.split(jax.random.key(command.seed or 0))
    outline = cast(ViT, eqx.filter_eval_shape(config.build, key=build_key))
    check_classifier(outline, data)
    choose_groups({_DEMO: outline}, axes.layers, axes.resolutions, axes.pools)
    model = eqx.filter_jit(config.build)(execution=EXECUTION, key=build_key)
    with show_progress() as report:
        model = fit(model, data, Recipe(), key=fit_key, report=report, folder=command.out / "backbone")
    print(f"backbone: trained with the pool {pool}, accuracy {evaluate(model, data).accuracy:.1%}")
    return model, data


def _compare_runs(command: Compare) -> list[str]:
    """A table of the models of runs, the best first."""
    given = {field.name: getattr(command, field.name) for field in dataclasses.fields(Compare)}
    changed = {f.name: given[f.name] for f in dataclasses.fields(Compare) if given[f.name] != f.default}
    refuse_options("with --runs", **{name: changed[name] for name in changed.keys() - {"runs", "data"}})
    results = sorted((evaluate_run(run, data=command.data) for run in command.runs), key=_get_error)
    first = results[0]
    paired = all(r.source == first.source and np.array_equal(r.labels, first.labels) for r in results)
    p_values = compare_with_best([result.correct.astype(float) for result in results]) if paired else None
    accuracies = [float(result.correct.mean()) for result in results]
    told = ["best", *[""] * len(results[1:])] if p_values is None else tell_p_values(accuracies, p_values)
    cells = [("model", "accuracy", "p", "by", "parameters")]
    for result, p_value in zip(results, told, strict=True):
        by = result.method.removesuffix("accuracy").strip() or "logits"
        cells.append((str(result.file), str(result), p_value, by, f"{result.parameters:,}"))
    if p_values is None:
        note = "The models were tested on different images, so that no difference is tested: pass --data for the same."
        return [*align(cells), "", note]
    note = (
        "p: p-value of the difference to the best, by a two-sided sign-flip test over the held-out images, after Holm."
    )
    names = [str(result.file) for result in results]
    sentences = conclude(names, accuracies, p_values, f"{first.method}, {accuracies[0]:.1%}", len(first.labels))
    return [*align(cells), "", note, "", *sentences]


def _get_error(result: RunResult) -> float:
    return 1 - float(result.correct.mean())
