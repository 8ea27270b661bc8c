"""How readouts are trained and tested."""

from dataclasses import dataclass
from typing import Final

from .._check import check_above_zero, check_not_negative, check_positive

_EPOCHS: Final = 20
_MIN_STEPS: Final = 300
_MAX_STEPS: Final = 3000
_MAX_SEARCHED: Final = 500


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How each readout, a pool and a linear head, is trained and tested.

    The learning rate is searched: part of the training images is held out, the readout is trained on the others once
    for each rate, and the rate whose readout is best on the part that is held out is taken. The test images are not
    read for that.
    """

    seeds: int = 3
    """The number of runs of each readout, with other fresh weights and another order of the images."""
    steps: int | None = None
    """The number of steps of a run; `None` for 20 epochs, but at least 300 and at most 3,000 steps."""
    batch_size: int = 128
    """The number of images in a step, at most the training images."""
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    """The highest learning rates that are tried. One is taken without a search."""
    weight_decay: float = 1e-4
    """Of AdamW, on matrices."""
    shots: tuple[int, ...] = (1, 5, 10)
    """For each number, a readout is trained on so many images of each class; empty for none."""
    draws: int = 3
    """How often these images are drawn anew."""
    neighbours: int = 20
    """How many of the nearest training images vote, for pools without parameters."""

    def __post_init__(self) -> None:
        check_positive(
            seeds=self.seeds,
            steps=1 if self.steps is None else self.steps,
            batch_size=self.batch_size,
            shots=self.shots,
            draws=self.draws,
            neighbours=self.neighbours,
        )
        for rate in self.learning_rates:
            check_above_zero(learning_rates=rate)
        check_not_negative(weight_decay=self.weight_decay)
        if not self.learning_rates:
            raise ValueError("learning_rates must have at least one rate, got none: pass (3e-3,)")
        for name, values in (("learning_rates", self.learning_rates), ("shots", self.shots)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must have each number once, got {values}: remove those that are there twice")

    def count_steps(self, images: int) -> int:
        """**Arguments:**

        - `images`: the number of training images.

        **Returns:**

        The number of steps of a run.
        """
        if self.steps is not None:
            return self.steps
        return max(_MIN_STEPS, min(_MAX_STEPS, _EPOCHS * images // self.batch_size))

    def count_search_steps(self, images: int) -> int:
        """**Arguments:**

        - `images`: the number of training images.

        **Returns:**

        The number of steps of a run of the search.
        """
        return min(self.count_steps(images), _MAX_SEARCHED)
