"""The pools without parameters."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._tokens import Tokens
from ._base import AbstractPool


@final
class MeanPool(AbstractPool):
    r"""The mean of the patch tokens, $\frac{1}{N} \sum_i x_i$. The prefix tokens do not count.

    Pick it first: it needs no class token, no parameter, and treats all patches alike.

    ??? cite

        Beyer et al., *Better plain ViT baselines for ImageNet-1k*, 2022, arXiv:2205.01580; Zhai et al., *Scaling Vision
        Transformers*, CVPR 2022, arXiv:2106.04560.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: bool = eqx.field(static=True)

    def __init__(self, dim: int, *, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim)
        self.out_dim = dim
        self.needs_class_token = False

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        return jnp.mean(tokens.patches, axis=0)


@final
class ClassTokenPool(AbstractPool):
    """The class token as it leaves the encoder. The patches do not count.

    Pick it for checkpoints that were trained with it: the first ViT, DeiT, CLIP, DINO.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, equation 4.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: bool = eqx.field(static=True)

    def __init__(self, dim: int, *, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim)
        self.out_dim = dim
        self.needs_class_token = True

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder, with a class token.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        return tokens.class_token


@final
class MaxPool(AbstractPool):
    r"""The largest value of each channel over the patch tokens, $\max_i x_i$. The prefix tokens do not count.

    Pick it where one patch decides: a small object, a rare texture. Its gradient reaches one patch for each channel.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: bool = eqx.field(static=True)

    def __init__(self, dim: int, *, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim)
        self.out_dim = dim
        self.needs_class_token = False

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        return jnp.max(tokens.patches, axis=0)


@final
class NoPool(AbstractPool):
    """All tokens, prefix first: for dense tasks. The head then acts on each token."""

    out_dim: int = eqx.field(static=True)
    needs_class_token: bool = eqx.field(static=True)

    def __init__(self, dim: int, *, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim)
        self.out_dim = dim
        self.needs_class_token = False

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, "tokens {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        `(prefix + patches, dim)`.
        """
        return tokens.sequence
