"""What is shown of a run: a progress bar, lines, and the events of TensorBoard."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .._extras import require
from ._loop import Progress

_SECONDS_A_LINE: Final = 10.0


@contextmanager
def show_progress() -> Generator[Callable[[Progress], None]]:
    """Shows loss, accuracy, images per second, the share of the time that data was waited for, and the time left while
    a model is trained: as a bar in a terminal, and else in lines, one every ten seconds and one for each accuracy on
    the images of validation.

    !!! example

        ```python
        with vitrail.train.show_progress() as report:
            model = vitrail.train.fit(model, data, recipe, key=key, report=report)
        ```

    **Returns:**

    A context manager that returns a function for the argument `report` of `fit`.

    **Raises:** `MissingExtraError` if rich is not installed.
    """
    console = require("rich", extra="train").get_console()
    if not (console.is_terminal or console.is_jupyter):
        yield _make_printer()
        return
    rich = require("rich.progress", extra="train")
    text = rich.TextColumn
    bar = rich.Progress(
        text("{task.description}"),
        rich.BarColumn(bar_width=20),
        text("{task.percentage:>3.0f} %"),
        text("[progress.data.speed]{task.fields[figures]}"),
        text("[progress.remaining]{task.fields[left]}"),
    )
    with bar:
        task = bar.add_task("compiling", total=None, figures="", left="")

        def report(progress: Progress) -> None:
            figures, left = "  ".join(_format_figures(progress)), _format_time(progress)
            done = {"description": "training", "total": progress.steps, "completed": progress.step}
            bar.update(task, **done, figures=figures, left=left)

        yield report


@contextmanager
def write_board(folder: Path | str) -> Generator[Callable[[Progress], None]]:
    """Writes the metrics of a run as events of TensorBoard, with tensorboardX.

    **Arguments:**

    - `folder`: where they are written, as that of the run. Events of later steps that are there already are hidden.

    **Returns:**

    A context manager that returns a function for the argument `report` of `fit`.

    **Raises:** `MissingExtraError` if tensorboardX is not installed.
    """
    make_writer = require("tensorboardX", extra="board").SummaryWriter
    writer = None

    def report(progress: Progress) -> None:
        nonlocal writer
        if writer is None:  # not before, because a run begins in an empty folder
            writer = make_writer(logdir=str(folder), purge_step=progress.step)
        speed = {"images_per_second": progress.images_per_second, "waited": progress.share_waited}
        for name, value in {**progress.metrics, **speed}.items():
            writer.add_scalar(name, value, progress.step)

    try:
        yield report
    finally:
        if writer is not None:
            writer.close()


def _make_printer() -> Callable[[Progress], None]:
    last = float("-inf")

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        ends = progress.step == progress.steps
        if now - last >= _SECONDS_A_LINE or ends or "validation" in progress.metrics:
            last = now
            parts = [f"step {progress.step:,} of {progress.steps:,}", *_format_figures(progress)]
            print("  ".join([*parts, _format_time(progress)]).rstrip(), flush=True)

    return report


def _format_figures(progress: Progress) -> list[str]:
    figures = [f"loss {progress.loss:.3f}"]
    figures += [
        f"{name} {progress.metrics[name]:6.1%}" for name in ("accuracy", "validation") if name in progress.metrics
    ]
    if progress.images_per_second:
        figures.append(f"{progress.images_per_second:,.0f} images/s")
        figures.append(f"data wait {progress.share_waited:.0%}")
    return figures


def _format_time(progress: Progress) -> str:
    done = progress.step == progress.steps
    seconds = progress.seconds if done else progress.seconds_left
    if seconds == float("inf"):
        return ""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02} {'in all' if done else 'left'}"
