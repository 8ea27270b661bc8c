"""`vitrail evaluate`: how good the model of a run is on held-out images."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Bool, Integer

from ..images import Dataset
from ..model import ViT
from ..nn import count_parameters
from ..systems import ImageText, find_image_model, find_templates, zero_shot
from ..train import evaluate, knn, match_texts
from ..weights import load
from ._options import refuse_options
from ._setup import check_data, load_data_for, print_data
from ._train_options import Train, read_settings

Method = Literal["accuracy", "k-NN accuracy", "text accuracy", "zero-shot accuracy"]
"""How a model is tested."""
_NEIGHBOURS = 20


@dataclass(frozen=True)
class Evaluate:
    """Measures the accuracy of the model of a run on held-out images.

    A model without a classifier is tested by the 20 nearest training images, by the cosine of their features. A model
    of images and texts is tested by how often an image is closest to its own text, and on images with classes by
    zero-shot classification: the names of the classes are the texts.
    """

    run: Path
    """The folder of a run of `vitrail train`."""
    data: Path | None = None
    """Other images than those of the run, with the same classes. A model of images and texts takes any classes."""
    held_out: float | Path | None = None
    """Which images are held out, as for `vitrail train`. Default: as in the run."""
    which: Literal["best", "last"] | None = None
    """Which model of the run. Default: the best on its validation images, or the last if it has none."""
    templates: str | None = None
    """For zero-shot classification: the texts that name a class, as for `vitrail predict`."""


@dataclass(frozen=True)
class RunResult:
    """How good the model of a run is."""

    file: Path
    """The model."""
    method: Method
    """What was measured."""
    parameters: int
    """The number of parameters."""
    correct: Bool[np.ndarray, " images"]
    """Whether each held-out image is classified correctly."""
    labels: Integer[np.ndarray, " images"]
    """The classes of those images."""
    source: tuple[object, ...]
    """Where those images are from: the same for the same images."""

    def __str__(self) -> str:
        """The accuracy with the number of images."""
        return f"{self.correct.mean():.1%} ({self.correct.sum():,} of {len(self.correct):,} held-out images)"


def run_evaluate(command: Evaluate) -> None:
    """Loads the model of a run and its images, and prints the accuracy."""
    options: Any = {name: value for name, value in vars(command).items() if name != "run"}
    result = evaluate_run(command.run, **options)
    print(f"test {result.method} of {result.file}: {result}")


def evaluate_run(
    run: Path,
    *,
    data: Path | None = None,
    which: Literal["best", "last"] | None = None,
    held_out: float | Path | None = None,
    templates: str | None = None,
) -> RunResult:
    """Evaluates the model of a run on its held-out images, or those of `data`, which are divided as those of the run:
    so no image of a copy of them is tested that was trained on.

    **Raises:** `ValueError` if it is not the folder of a run with a model, if the images have other classes, or if
    there are `templates` and no zero-shot classification.
    """
    settings = read_settings(run, None if data is None else Train())
    changes: dict[str, Any] = {"data": data, "held_out": held_out}
    check_data(data)
    if templates is not None:
        find_templates(templates)
    settings = dataclasses.replace(settings, **{name: value for name, value in changes.items() if value is not None})
    files = [run / f"{name}.safetensors" for name in ((which,) if which else ("best", "last"))]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        advice = "leave out --which" if which == "best" else f"let it go on with vitrail train --resume {run}"
        raise ValueError(f"{run} must have {files[-1].name}, got a run without: {advice}")
    model: Any = load(file)
    image = cast(ViT, find_image_model(model))
    loaded = load_data_for(image, settings.data, **settings.choose_images())
    print_data(loaded)
    source = (settings.data and settings.data.resolve(), settings.held_out, loaded.skipped)
    method, correct = _measure(model, loaded, templates)
    return RunResult(file, method, count_parameters(model), correct, loaded.test.labels, source)


def _measure(model: Any, data: Dataset, templates: str | None) -> tuple[Method, Bool[np.ndarray, " images"]]:
    """How a model is tested on the held-out images, and which it gets right."""
    if isinstance(model, ImageText) and data.test.texts is None:
        classifier = zero_shot(model, data.classes, templates=templates or "photo")
        return "zero-shot accuracy", evaluate(classifier, data).predicted == data.test.labels
    refuse_options("without zero-shot classification", templates=templates)
    if isinstance(model, ImageText):
        return "text accuracy", match_texts(model, data)[0]
    if not isinstance(model, ViT):
        found = knn(model.image, data, neighbours=min(_NEIGHBOURS, len(data.train)))
        return "k-NN accuracy", found.ranked[0, :, 0] == data.test.labels
    _check_classes(model, data)
    return "accuracy", evaluate(model, data).predicted == data.test.labels


def _check_classes(model: ViT, data: Dataset) -> None:
    classes = model.config.classes
    if classes is not None and classes != data.classes:
        raise ValueError(
            f"data must have the classes of the model, {', '.join(classes[:5])}, got "
            f"{', '.join(data.classes[:5]) or 'none'}"
        )
