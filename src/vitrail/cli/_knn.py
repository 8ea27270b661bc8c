"""`vitrail knn`: how good the features of a file of weights are, without training."""

from dataclasses import dataclass
from pathlib import Path

from .._check import check_above_zero, check_positive
from ..train import NearestNeighbours, knn
from ._options import LoadOptions
from ._setup import check_data, load_data_for, print_data


@dataclass(frozen=True)
class Knn(LoadOptions):
    """Tests the features of a model by nearest neighbours, without training.

    Each held-out image gets the class for which the training images with the nearest features vote.
    """

    file: Path
    """A safetensors or npz file, an index of several, or a folder with one."""
    data: Path | None = None
    """The folder of your images, as for `vitrail train`. Default: 5,000 digits of MNIST."""
    neighbours: str = "10,20,100,200"
    """The numbers of neighbours that vote, separated by commas. Numbers above that of the training images are left
    out."""
    temperature: float = 0.07
    """The temperature of the votes: a vote has the weight exp(cosine / temperature)."""
    image_size: int | None = None
    """The height and width of the images in pixels. Default: those of the model."""
    batch_size: int = 50
    """The number of images to compute at a time."""


def run_knn(command: Knn) -> None:
    """Loads images and a model, and prints a line for each number of neighbours."""
    numbers = _parse_numbers(command.neighbours)
    check_positive(batch_size=command.batch_size)
    check_above_zero(temperature=command.temperature)
    check_data(command.data)
    command.check_size(command.file, command.image_size)
    model = command.load_model(command.file, image_size=command.image_size, num_classes=None)
    data = load_data_for(model, command.data)
    print_data(data)
    fitting = [number for number in numbers if number <= len(data.train)]
    found = knn(
        model,
        data,
        neighbours=fitting or numbers,
        temperature=command.temperature,
        batch_size=command.batch_size,
    )
    for line in _format_table(found):
        print(line)


def _parse_numbers(text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise ValueError(f"neighbours must be whole numbers separated by commas, as 10,20, got {text!r}") from error
    check_positive(neighbours=tuple(numbers))
    return numbers


def _format_table(found: NearestNeighbours) -> list[str]:
    lines = [f"{'neighbours':>10}  {'right':>7}  {'among the first five':>20}"]
    for number, accuracy in found.accuracy.items():
        lines.append(f"{number:>10,}  {accuracy:>7.2%}  {found.top5_accuracy[number]:>20.2%}")
    return lines
