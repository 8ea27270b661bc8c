"""A progress bar for a comparison."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from .._extras import require
from ._tokens import LabProgress


@contextmanager
def show_comparison_progress() -> Generator[Callable[[LabProgress], None]]:
    """Shows the progress of each backbone, and then of each readout.

    **Returns:**

    A context manager that returns a function for the argument `report` of `compare`.

    **Raises:** `MissingExtraError` if rich is not installed.
    """
    rich = require("rich.progress", extra="train")
    bar = rich.Progress(
        rich.TextColumn("{task.description:<56}"),
        rich.BarColumn(bar_width=20),
        rich.TextColumn("{task.percentage:>3.0f} %"),
        rich.TimeElapsedColumn(),
    )
    with bar:
        task = bar.add_task("starting", total=None)
        current = ""

        def report(progress: LabProgress) -> None:
            nonlocal current
            name = f"{progress.name}, one pass" if progress.doing == "backbone" else progress.name
            if name != current:
                bar.reset(task)
                current = name
            bar.update(task, description=name, total=progress.total, completed=progress.done)

        yield report
