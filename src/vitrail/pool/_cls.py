"""The pool `cls`."""

from typing import ClassVar, final

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._tokens import Tokens
from ._base import AbstractPool
from ._read import read_class_token


@final
class ClassTokenPool(AbstractPool):
    r"""The class token as it leaves the encoder, $z = x_\mathrm{cls}$. The patches do not count.

    Use it for checkpoints that were trained with it: the first ViT, DeiT, CLIP, DINO. It needs the class token and has
    no parameters. DeiT's distilled models read a second prefix token, too.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, equation 4.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = True
    order_invariant: ClassVar[bool] = True
    num_tokens: int = eqx.field(static=True)

    def __init__(self, dim: int, *, num_tokens: int = 1):
        """**Arguments:**

        - `dim`: the width of a token.
        - `num_tokens`: how many prefix tokens are read, as one vector: `2` for the class token and the distillation
            token (the first register) of DeiT.

        **Raises:** `ValueError` if `num_tokens` is not positive.
        """
        check_positive(num_tokens=num_tokens)
        self.num_tokens = num_tokens
        self.out_dim = num_tokens * dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        if self.num_tokens == 1:
            return read_class_token(tokens)
        if tokens.class_token is None or tokens.num_prefix < self.num_tokens:
            raise ValueError(
                f"tokens must have a class token and {self.num_tokens - 1} registers for this pool, got "
                f"{tokens.num_prefix} prefix tokens: build the model with num_registers={self.num_tokens - 1}"
            )
        return tokens.sequence[: self.num_tokens].reshape(-1)
