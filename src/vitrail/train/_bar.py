"""A progress bar."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from .._extras import require
from ._loop import Progress


@contextmanager
def show_progress() -> Generator[Callable[[Progress], None]]:
    """Shows loss, accuracy, images per second and the time left while a model is trained.

    !!! example

        ```python
        with vitrail.train.show_progress() as report:
            model = vitrail.train.fit(model, data, recipe, key=key, report=report)
        ```

    If the output is not a terminal, only the last state is written.

    **Returns:**

    A context manager that returns a function for the argument `report` of `fit`.

    **Raises:** `MissingExtraError` if rich is not installed.
    """
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
            figures = f"loss {progress.loss:.3f}"
            if "accuracy" in progress.metrics:
                figures += f"  accuracy {progress.metrics['accuracy']:6.1%}"
            if progress.step > 1:
                figures += f"  {progress.images_per_second:,.0f} images/s"
            bar.update(
                task,
                description="training",
                total=progress.steps,
                completed=progress.step,
                figures=figures,
                left=_format_time(progress),
            )

        yield report


def _format_time(progress: Progress) -> str:
    if progress.step == 1:
        return ""
    done = progress.step == progress.steps
    seconds = round(progress.seconds if done else progress.seconds_left)
    return f"{seconds // 60}:{seconds % 60:02} {'in all' if done else 'left'}"
