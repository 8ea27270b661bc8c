"""What every system offers."""

import abc
import dataclasses
from typing import TypeVar

import equinox as eqx

from ..model import ViT
from ..nn import Dropout, Execution

_S = TypeVar("_S", bound="AbstractSystem")


class AbstractSystem(eqx.Module):
    """A model that has a `ViT` as one of its parts, in the field `image`."""

    image: eqx.AbstractVar[ViT]
    """The image model."""

    def with_execution(self: _S, execution: Execution) -> _S:
        """Changes how the model is computed.

        **Arguments:**

        - `execution`: how the whole model is computed.

        **Returns:**

        A model with the same arrays and the new execution.

        **Raises:** what `ViT.with_execution` raises.
        """
        return dataclasses.replace(self, image=self.image.with_execution(execution))

    def with_dropout(self: _S, dropout: Dropout) -> _S:
        """Changes what is dropped at random in training.

        **Arguments:**

        - `dropout`: what is dropped at random in training, in the image model and in the text tower.

        **Returns:**

        A model with the same arrays and the new dropout.
        """
        return dataclasses.replace(self, image=self.image.with_dropout(dropout))

    @abc.abstractmethod
    def resized(
        self, image_size: int | tuple[int, int], *, patch_size: int | tuple[int, int] | None = None
    ) -> "AbstractSystem":
        """Resamples the arrays that depend on the size of images or patches.

        **Arguments:** those of [`ViT.resized`][vitrail.ViT.resized].

        **Returns:**

        The model for images or patches of another size. Each part is resampled by its own rule; all other arrays stay
        the same.

        **Raises:** what `ViT.resized` raises; `ValueError` if a part cannot be resized to other patches, as the
        decoder of MAE.
        """


def find_image_model(model: object) -> ViT | None:
    """**Arguments:**

    - `model`: a `ViT`, a system, or any other module.

    **Returns:**

    The `ViT` itself, or that of the system; `None` for another module.
    """
    if isinstance(model, ViT):
        return model
    return model.image if isinstance(model, AbstractSystem) else None
