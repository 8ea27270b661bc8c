"""Builds a model by the name of its size."""

from jaxtyping import PRNGKeyArray

from .._spec import PartSpec
from ..encoder import EncoderOptions
from ..head import HeadFactory
from ..images import Preprocess
from ..nn import Dropout, Execution, InitName
from ..patch import PatchFactory
from ..pool import PoolFactory
from ..position import PositionFactory
from ._config import NormOrder, ViTConfig, to_pair
from ._presets import parse_preset
from ._vit import ViT


def vit(
    name: str,
    *,
    num_classes: int | None = None,
    classes: tuple[str, ...] | None = None,
    image_size: int | tuple[int, int] = 224,
    channels: int = 3,
    patch: str | PartSpec | PatchFactory = "conv",
    position: str | PartSpec | PositionFactory = "learned",
    pool: str | PartSpec | PoolFactory = "mean",
    head: str | PartSpec | HeadFactory = "linear",
    norm_order: NormOrder = "norm_pool",
    class_token: bool | None = None,
    num_registers: int = 0,
    encoder: EncoderOptions = EncoderOptions(),
    init: InitName = "trunc_normal",
    preprocess: Preprocess | None = None,
    execution: Execution = Execution(),
    dropout: Dropout = Dropout(),
    key: PRNGKeyArray,
) -> ViT:
    """Builds a Vision Transformer of a published size, with fresh weights.

    !!! example

        ```python
        model = vitrail.vit("S/16", pool="mean", num_classes=10, key=jax.random.key(0))
        logits = jax.vmap(model)(images)
        ```

    **Arguments:**

    - `name`: a size of `vitrail.PRESETS` and a patch in pixels: `"S/16"`, or `"S/16x8"` for patches 16 high and 8 wide.
    - `num_classes`: the number of logits; leave it out for `head="none"`.
    - `classes`: the names of the classes, one for each logit; `None` if they are not known. `vitrail.train.fit` sets
        them and `preprocess` to those of its data.
    - `image_size`: height and width in pixels; one number for a square.
    - `channels`: the number of channels of the images.
    - `patch`, `position`, `pool`, `head`: the parts, each as a registered name, a `PartSpec`, a class, or a
        `functools.partial` of one.
    - `norm_order`: `"norm_pool"` for a final norm of the tokens, before the pool; `"pool_norm"` for one of the pooled
        vector, after the pool; `"none"` for no final norm.
    - `class_token`: whether there is a class token; `None` to have one only if the pool needs it.
    - `num_registers`: the number of register tokens.
    - `encoder`: the options of the encoder.
    - `init`: how fresh weights are drawn, `"trunc_normal"` or `"big_vision"`, the schemes of [`INITS`][vitrail.INITS].
    - `preprocess`: how pictures are prepared for the model; `None` if that is not known.
    - `execution`: how the model is computed. Change it later with `model.with_execution`.
    - `dropout`: what is dropped at random in training. Change it later with `model.with_dropout`.
    - `key`: the random key of the weights.

    **Returns:**

    A [`ViT`][vitrail.ViT].

    **Raises:** `ValueError` if the name is not known or sizes do not fit; and what `ViTConfig.build` raises.
    """
    size, patch_size = parse_preset(name)
    config = ViTConfig(
        image_size=to_pair(image_size),
        patch_size=patch_size,
        size=size,
        num_classes=num_classes,
        classes=classes,
        channels=channels,
        patch=patch,
        position=position,
        pool=pool,
        head=head,
        norm_order=norm_order,
        class_token=class_token,
        num_registers=num_registers,
        encoder=encoder,
        init=init,
        preprocess=preprocess,
    )
    return config.build(execution=execution, dropout=dropout, key=key)
