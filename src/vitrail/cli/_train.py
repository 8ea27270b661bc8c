"""`vitrail train` and `vitrail demo`: train a model on images, in a folder from which a run can go on."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

import jax

from .._check import check_positive, check_rate, check_seed
from .._extras import require
from .._spec import PartSpec
from ..images import Dataset
from ..model import ViT
from ..show import SUFFIXES, draw_curves, draw_predictions
from ..systems import ImageText
from ..train import (
    OBJECTIVES,
    Progress,
    Recipe,
    evaluate,
    fit,
    join_hosts,
    make_mesh,
    make_objective,
    match_texts,
    read_metrics,
    share_failure,
    show_progress,
    write_board,
)
from ..weights import save, save_adapters
from ._options import refuse_options
from ._setup import check_data, check_out, print_data
from ._train_model import adapt, check_names, describe_model, divide_training, find_licence, fit_batch, load_training
from ._train_options import SETTINGS, RunOptions, Train, make_lasting

_DRAW_EVERY: Final = 60.0  # seconds


def run_train(command: Train) -> None:
    """Joins the other hosts, if there are any, and trains."""
    recipe = _check(command)
    with contextlib.ExitStack() as stack:
        if command.join_hosts and join_hosts() > 0:  # the first host says what all do
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        with share_failure():
            _train(command, recipe)


def _train(command: Train, recipe: Recipe) -> None:
    """Loads images and a model, and trains."""
    started = time.perf_counter()
    mesh = None if command.mesh is None else make_mesh(command.mesh)
    build_key, fit_key = jax.random.split(jax.random.key(command.seed))
    model, data = load_training(command, mesh, key=build_key)
    if not data.classes:
        refuse_options("for images without classes", head=command.head)
    if command.picture and "label" not in make_objective(recipe, data.preprocess).inputs:
        refuse_options(f"for the objective {recipe.objective}, which does not classify", picture=command.picture)
    model = adapt(command, model, key=jax.random.fold_in(build_key, 1))
    data, validation = divide_training(data, command.validation, command.seed)
    print_data(data)
    recipe = fit_batch(recipe, data, mesh)
    print(describe_model(command.model, model))
    licence = None if command.out is None and command.save is None else find_licence(command)
    options: dict[str, Any] = {"validation": validation, "keep_every": command.keep_every, "mesh": mesh}
    if command.out is not None:
        print(f"recipe: {recipe}")
        notes = {SETTINGS: json.loads(make_lasting(command, recipe).to_json())}
        options |= {"folder": command.out, "notes": notes, "licence": licence}
    try:
        with _report(command) as report:
            trained = fit(model, data, recipe, key=fit_key, report=report, **options)
    finally:
        if command.out is not None:
            _draw(command.out)
    _finish(command, recipe, trained, data, licence)
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
    check_data(command.data)
    for name in ("image_size", "patch_size", "keep_every", "lora"):
        if (number := getattr(command, name)) is not None:
            check_positive(**{name: number})
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
    check_names(command, recipe)
    adapted = command.lora is not None and not recipe.train
    return dataclasses.replace(recipe, train=("readout",)) if adapted else recipe


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
    if jax.process_index() > 0 or not (run / "metrics.jsonl").exists() or not read_metrics(run):
        return
    with contextlib.suppress(OSError):  # of a full disk, which `fit` reports
        draw_curves(run, run / "curves.png")


def _finish(command: Train, recipe: Recipe, trained: Any, data: Dataset, licence: str | None) -> None:
    """Evaluates, draws and saves."""
    if command.save is not None:
        save(trained, command.save, licence=licence)
    if isinstance(trained, ViT):
        found = evaluate(trained, data)
        print(f"test accuracy: {found.accuracy:.1%} ({found.correct:,} of {len(data.test):,} held-out images)")
        if command.picture is not None:
            draw_predictions(trained, data, found, command.picture)
            print(f"picture: {command.picture}")
    if isinstance(trained, ImageText):
        right, number = match_texts(trained, data)
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
