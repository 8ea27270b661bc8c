"""What every system offers."""

import abc
import dataclasses
from typing import TypeVar

import equinox as eqx

from ..model import ViT
from ..nn import Dropout, Execution

_S = TypeVar("_S", bound="AbstractSystem")


class AbstractSystem(eqx.Module):
    """A model that has a `ViT` as one of its parts."""

    image: eqx.AbstractVar[ViT]
    """The image model."""

    def with_execution(self: _S, execution: Execution) -> _S:
        """**Arguments:**

        - `execution`: how all of the model is to be computed.

        **Returns:**

        The same model, with the same arrays, computed in that way.

        **Raises:** what `ViT.with_execution` raises.
        """
        return dataclasses.replace(self, image=self.image.with_execution(execution))

    def with_dropout(self: _S, dropout: Dropout) -> _S:
        """**Arguments:**

        - `dropout`: what is to be dropped at random in training: in the image model, and in a text tower.

        **Returns:**

        The same model, with the same arrays, and that dropout.
        """
        return dataclasses.replace(self, image=self.image.with_dropout(dropout))

    @abc.abstractmethod
    def resized(
        self, image_size: int | tuple[int, int], *, patch_size: int | tuple[int, int] | None = None
    ) -> "AbstractSystem":
        """**Arguments:** those of [`ViT.resized`][vitrail.ViT.resized].

        **Returns:**

        The model for images or patches of another size. Each part is resampled by its own rule; all other arrays stay
        the same.

        **Raises:** what `ViT.resized` raises; `ValueError` if a part has no rule for other patches, as the decoder of
        MAE.
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
