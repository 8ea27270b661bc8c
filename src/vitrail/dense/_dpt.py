"""The dense readout `dpt`."""

from typing import Literal, final

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_above_zero, check_positive
from .._tokens import Tokens
from ..nn import TRUNC_NORMAL, ActivationName, Init, split_key
from ._base import AbstractDenseReadout, check_class_token, check_layers
from ._endings import DepthEnding, SegmentationEnding
from ._fusion import Fusion
from ._reassemble import ClassTokenUse, Reassemble


@final
class DPTReadout(AbstractDenseReadout):
    """The Dense Prediction Transformer: the tokens of four blocks become maps of four sizes, which convolutions fuse.

    With `num_classes=None` it ends in one channel, a depth; otherwise in the scores of classes. Use it for fine maps.

    Depth Anything is this readout with `use_class_token="ignore"`, `norm=True` and `upsampling="fit"`.

    ??? cite

        Ranftl, Bochkovskiy and Koltun, *Vision Transformers for Dense Prediction*, ICCV 2021, arXiv:2103.13413; Yang et
        al., *Depth Anything*, CVPR 2024, arXiv:2401.10891, and *Depth Anything V2*, NeurIPS 2024, arXiv:2406.09414.
    """

    reassemble: tuple[Reassemble, ...]
    fusion: tuple[Fusion, ...]
    ending: DepthEnding | SegmentationEnding
    layers: tuple[int, ...] = eqx.field(static=True)
    norm: bool = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)
    upsampling: Literal["fit", "double"] = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        depth: int,
        num_classes: int | None,
        class_token: bool = False,
        init: Init = TRUNC_NORMAL,
        layers: tuple[int, ...] | None = None,
        norm: bool = True,
        use_class_token: ClassTokenUse = "ignore",
        activation: ActivationName = "gelu",
        widths: tuple[int, ...] = (96, 192, 384, 768),
        scales: tuple[float, ...] = (4, 2, 1, 0.5),
        fusion_dim: int = 256,
        fusion_bias: bool = True,
        batch_norm: bool = False,
        upsampling: Literal["fit", "double"] = "fit",
        hidden_dim: int = 32,
        refine: bool = False,
        depth_activation: Literal["relu", "sigmoid"] = "relu",
        max_depth: float = 1.0,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `depth`: the number of blocks.
        - `num_classes`: the number of classes; `None` for a depth.
        - `class_token`: whether there is a class token.
        - `init`: draws the weights.
        - `layers`: the blocks whose tokens are read, the first for the finest map; `None` for the last block of each
            quarter of the encoder: 2, 5, 8 and 11 of twelve blocks. That needs at least four blocks.
        - `norm`: whether the final norm is applied to these tokens.
        - `use_class_token`: `"ignore"`; `"add"` to add the class token to each patch token; or `"project"` to
            concatenate it and project both.
        - `activation`: the activation after that projection.
        - `widths`: the number of channels of each map before the fusion.
        - `scales`: the number of cells along each side of a patch in each map.
        - `fusion_dim`: the number of channels of the fusion.
        - `fusion_bias`, `batch_norm`: whether the convolutions of the fusion have a bias, and a batch norm with the
            running mean and variance of a checkpoint.
        - `upsampling`: `"fit"` to upsample each map to the size of the next and the last to that of the image, as in
            Depth Anything; or `"double"` to upsample each map by two, as in Hugging Face's DPT. With `"double"` the
            result has the size of the image only if patches have 16 pixels and the grid has even sides.
        - `hidden_dim`: the number of channels before the depth. This option and the next three need `num_classes=None`.
        - `refine`: whether one more convolution comes before the depth.
        - `depth_activation`: the activation of the depth: `"relu"` for a relative inverse depth, `"sigmoid"` for
            metres.
        - `max_depth`: the factor of the depth after the activation.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if a layer is not a block, if `layers`, `widths` and `scales` differ in length, if a
        scale is not possible, if a model without a class token should read one, or if an option of the depth comes with
        `num_classes`.
        """
        if layers is None and depth < 4:
            raise ValueError(
                f"layers must be given for an encoder of fewer than four blocks, got layers=None and {depth} blocks: "
                "pass layers, widths and scales of equal length"
            )
        layers = tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)) if layers is None else layers
        check_layers(layers, depth)
        if not len(layers) == len(widths) == len(scales):
            raise ValueError(
                f"layers, widths and scales must have one entry for each map, got {layers}, {widths} and {scales}"
            )
        if use_class_token != "ignore":
            check_class_token(f"use_class_token={use_class_token!r}", class_token)
        check_positive(widths=widths, fusion_dim=fusion_dim, hidden_dim=hidden_dim)
        check_above_zero(max_depth=max_depth)
        if num_classes is not None and (hidden_dim, refine, depth_activation, max_depth) != (32, False, "relu", 1.0):
            raise ValueError(
                "hidden_dim, refine, depth_activation and max_depth are options of a depth, got them with "
                f"num_classes={num_classes}: leave them out, or pass num_classes=None"
            )
        reassemble_key, fusion_key, ending_key = split_key(key, 3)
        self.reassemble = tuple(
            Reassemble(
                dim,
                width,
                fusion_dim,
                scale=scale,
                class_token=use_class_token,
                activation=activation,
                init=init,
                key=map_key,
            )
            for width, scale, map_key in zip(widths, scales, split_key(reassemble_key, len(layers)), strict=True)
        )
        self.fusion = tuple(
            Fusion(fusion_dim, first=i == 0, bias=fusion_bias, batch_norm=batch_norm, init=init, key=one_key)
            for i, one_key in enumerate(split_key(fusion_key, len(layers)))
        )
        self.ending = (
            DepthEnding(
                fusion_dim,
                hidden_dim=hidden_dim,
                refine=refine,
                activation=depth_activation,
                max_depth=max_depth,
                init=init,
                key=ending_key,
            )
            if num_classes is None
            else SegmentationEnding(fusion_dim, num_classes=num_classes, init=init, key=ending_key)
        )
        self.layers = layers
        self.norm = norm
        self.out_dim = 1 if num_classes is None else num_classes
        self.upsampling = upsampling

    def __call__(
        self, tokens: Tokens, *, image_size: tuple[int, int], key: PRNGKeyArray | None = None
    ) -> Float[Array, "height width {self.out_dim}"]:
        grids, class_tokens = tokens.patch_grid, tokens.class_token
        maps = [
            reassemble(grids[i], None if class_tokens is None else class_tokens[i])
            for i, reassemble in enumerate(self.reassemble)
        ]
        fused = None
        for i, fuse in enumerate(self.fusion):
            coarse = maps[-1 - i]
            finer = maps[-2 - i] if i + 1 < len(maps) and self.upsampling == "fit" else None
            size = (coarse if fused is None else fused).shape
            fused = fuse(fused, coarse, (2 * size[0], 2 * size[1]) if finer is None else finer.shape[:2])
        assert fused is not None
        rows, cols, _ = fused.shape
        return self.ending(fused, image_size if self.upsampling == "fit" else (2 * rows, 2 * cols))
