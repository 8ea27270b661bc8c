"""The pools without parameters."""

import dataclasses
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._tokens import Tokens
from ._base import AbstractPool
from ._mask import class_token_of, kept_patches, masked_max, masked_mean


@final
class MeanPool(AbstractPool):
    r"""The mean of the patch tokens, $z = \frac{1}{N} \sum_i x_i$.

    Pick it first: it needs no class token, and treats all patches alike. It has no parameters and does not depend on
    the order of the patches.

    ??? cite

        Beyer et al., *Better plain ViT baselines for ImageNet-1k*, 2022, arXiv:2205.01580; Zhai et al., *Scaling Vision
        Transformers*, CVPR 2022, arXiv:2106.04560.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True
    include_prefix: bool = eqx.field(static=True)

    def __init__(self, dim: int, *, include_prefix: bool = False, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `include_prefix`: whether the prefix tokens count too, as in big_vision's `gap` where there is a class token.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim)
        self.out_dim = dim
        self.include_prefix = include_prefix

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        if not self.include_prefix:
            return masked_mean(tokens)
        patches, mask = kept_patches(tokens)
        count = patches.shape[0] if mask is None else jnp.sum(mask).astype(patches.dtype)
        total = jnp.sum(dataclasses.replace(tokens, patches=patches).sequence, axis=0)
        return total / (tokens.num_prefix + count)


@final
class ClassTokenPool(AbstractPool):
    r"""The class token as it leaves the encoder, $z = x_\mathrm{cls}$. The patches do not count.

    Pick it for checkpoints that were trained with it: the first ViT, DeiT, CLIP, DINO. It needs the class token, has no
    parameters and does not depend on the order of the patches. DeiT's distilled models read a second prefix token, too.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, equation 4.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = True
    order_invariant: ClassVar[bool] = True
    num_tokens: int = eqx.field(static=True)

    def __init__(self, dim: int, *, num_tokens: int = 1, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `num_tokens`: how many prefix tokens are read, one after the other: `2` for the class token and the
            distillation token (the first register) of DeiT.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim, num_tokens=num_tokens)
        self.num_tokens = num_tokens
        self.out_dim = num_tokens * dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder, with a class token.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.

        **Raises:** `ValueError` where there is no class token, or too few registers follow it.
        """
        if self.num_tokens == 1:
            return class_token_of(tokens)
        if tokens.class_token is None or tokens.num_prefix < self.num_tokens:
            raise ValueError(
                f"tokens must have a class token and {self.num_tokens - 1} registers for this pool, got "
                f"{tokens.num_prefix} tokens before the patches: build the model with "
                f"num_registers={self.num_tokens - 1}"
            )
        return tokens.sequence[: self.num_tokens].reshape(-1)


@final
class MaxPool(AbstractPool):
    r"""The largest value of each channel over the patches, $z = \max_i x_i$. The prefix tokens do not count.

    Pick it where one patch decides: a small object, a rare texture. Its gradient reaches one patch for each channel. It
    needs no class token, has no parameters and does not depend on the order of the patches.

    ??? cite

        Boureau, Ponce and LeCun, *A Theoretical Analysis of Feature Pooling in Visual Recognition*, ICML 2010.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim)
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        return masked_max(tokens)


@final
class SumPool(AbstractPool):
    r"""The sum of the patch tokens, $z = \sum_i x_i$. The prefix tokens do not count.

    Pick it where the number of patches means something, as in counting: with a mask it grows with the patches that are
    kept, where the mean does not. On images of one size it is the mean times $N$. It needs no class token, has no
    parameters and does not depend on the order of the patches.

    ??? cite

        Zaheer et al., *Deep Sets*, NeurIPS 2017, arXiv:1703.06114; Xu et al., *How Powerful are Graph Neural
        Networks?*, ICLR 2019, arXiv:1810.00826.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim)
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        patches, _ = kept_patches(tokens)
        return jnp.sum(patches, axis=0)


@final
class MeanMaxPool(AbstractPool):
    r"""Half the sum of mean and maximum, $z = \frac{1}{2} (\frac{1}{N} \sum_i x_i + \max_i x_i)$: timm's `avgmax`.

    Pick it where both the whole and one patch may decide. It needs no class token, has no parameters and does not
    depend on the order of the patches.

    ??? cite

        Lee, Gallagher and Tu, *Generalizing Pooling Functions in CNNs: Mixed, Gated, and Tree*, AISTATS 2016,
        arXiv:1509.08985, with their mixing proportion at one half.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim)
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        return 0.5 * (masked_mean(tokens) + masked_max(tokens))


@final
class ClassMeanPool(AbstractPool):
    r"""Class token and mean of the patches, one after the other: $z = [x_\mathrm{cls}; \frac{1}{N} \sum_i x_i]$.

    Twice as wide as a token. Pick it for a linear classifier on a frozen backbone that has both, as DINOv2 is
    evaluated. It needs the class token, has no parameters and does not depend on the order of the patches.

    ??? cite

        Oquab et al., *DINOv2: Learning Robust Visual Features without Supervision*, 2023, arXiv:2304.07193.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = True
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim)
        self.out_dim = 2 * dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder, with a class token.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.

        **Raises:** `ValueError` where there is no class token.
        """
        return jnp.concatenate([class_token_of(tokens), masked_mean(tokens)])


@final
class NoPool(AbstractPool):
    """All tokens, prefix first: for dense tasks. The head then acts on each token.

    Pick it for segmentation, detection, or to pool elsewhere. It needs no class token and has no parameters; its rows
    follow the order of the patches.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = False

    def __init__(self, dim: int, *, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim)
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, "tokens {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        `(prefix + patches, dim)`; zeros for a patch that does not count.
        """
        patches, _ = kept_patches(tokens)
        return dataclasses.replace(tokens, patches=patches).sequence
