"""Live progress of a comparison in a terminal."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from .._extras import require
from ._kept import LabProgress


@contextmanager
def lab_progress_bar() -> Generator[Callable[[LabProgress], None]]:
    """Shows the pass of the backbone, and then each pool while it is trained.

    **Returns:**

    A context manager that gives what `compare_pools` takes as `report`.

    **Raises:** `MissingExtraError` where rich is not installed.
    """
    rich = require("rich.progress", extra="train")
    bar = rich.Progress(
        rich.TextColumn("{task.description:<32}"),
        rich.BarColumn(bar_width=20),
        rich.TextColumn("{task.percentage:>3.0f} %"),
        rich.TimeElapsedColumn(),
    )
    with bar:
        task = bar.add_task("starting", total=None)
        shown = ""

        def report(progress: LabProgress) -> None:
            nonlocal shown
            name = "backbone, one pass" if progress.doing == "backbone" else progress.name
            if name != shown:
                bar.reset(task)
                shown = name
            bar.update(task, description=name, total=progress.total, completed=progress.done)

        yield report
