"""The text tower: from token ids to an embedding."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._check import check_heads, check_positive
from ..encoder import Encoder, EncoderOptions, EncoderSize
from ..nn import INITS, Dropout, Execution, InitName, Linear, Norm, ParameterKinds, make_norm, split_key, to_dtype

TextPooling = Literal["end_of_text", "largest_id", "last", "first"]
"""The names of the rules in `TEXT_POOLINGS`."""

Find = Callable[[Int[Array, " context"], int | None], Int[Array, ""] | int]
"""Finds the place of the token whose vector stands for the text, given the ids and the id that ends a text."""


def _find_end(tokens: Int[Array, " context"], end_of_text: int | None) -> Int[Array, ""]:
    return jnp.argmax(tokens == end_of_text)


def _find_largest(tokens: Int[Array, " context"], end_of_text: int | None) -> Int[Array, ""]:
    return jnp.argmax(tokens)


def _find_last(tokens: Int[Array, " context"], end_of_text: int | None) -> int:
    return -1


def _find_first(tokens: Int[Array, " context"], end_of_text: int | None) -> int:
    return 0


TEXT_POOLINGS: Final[Mapping[TextPooling, Find]] = MappingProxyType(
    {"end_of_text": _find_end, "largest_id": _find_largest, "last": _find_last, "first": _find_first}
)
"""Which token becomes the embedding of a text:

- `"end_of_text"`: the first token with the id `TextConfig.end_of_text`, or the first token if none has it. Hugging
  Face's CLIP.
- `"largest_id"`: the first token with the largest id. In the vocabulary of CLIP this is the end of the text. OpenAI,
  open_clip and older files of Hugging Face.
- `"last"`: the last token, padding included. SigLIP.
- `"first"`: the first token.
"""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Describes a text tower by names and plain values. Equal ones build the same tower from the same key."""

    vocabulary: int
    """The number of token ids."""
    context: int
    """The largest number of tokens of a text."""
    size: EncoderSize
    """Width, depth, heads and the MLP's width."""
    embed_dim: int | None = None
    """The width of the embedding, to which a linear layer projects; `None` for the width of a token and no layer."""
    projection_bias: bool = False
    """Whether that layer has a bias, as in SigLIP."""
    causal: bool = True
    """Whether a token looks only at those before it and at itself, as in CLIP."""
    pooling: TextPooling = "end_of_text"
    """Which token becomes the embedding: a name of `TEXT_POOLINGS`."""
    end_of_text: int | None = None
    """The id that ends a text, for the pooling `"end_of_text"`; `None` for the others."""
    encoder: EncoderOptions = EncoderOptions()
    """The options of the encoder."""
    init: InitName = "trunc_normal"
    """How fresh weights are drawn."""

    def __post_init__(self) -> None:
        check_positive(vocabulary=self.vocabulary, context=self.context)
        check_heads("dim", self.size.dim, self.size.num_heads)
        if self.embed_dim is not None:
            check_positive(embed_dim=self.embed_dim)
        elif self.projection_bias:
            raise ValueError("projection_bias needs a projection, got embed_dim=None: pass the width of the embedding")
        if (self.pooling == "end_of_text") != (self.end_of_text is not None):
            raise ValueError(
                "end_of_text must be the id that ends a text for pooling='end_of_text', and None for the others, got "
                f"end_of_text={self.end_of_text} and pooling={self.pooling!r}"
            )
        if self.end_of_text is not None and not 0 <= self.end_of_text < self.vocabulary:
            raise ValueError(
                f"end_of_text must be an id in [0, {self.vocabulary}), the vocabulary, got {self.end_of_text}"
            )


@final
class TextTower(eqx.Module):
    """Turns the token ids of a text into its embedding: token embeddings and learned positions, an `Encoder`, the final
    norm, the vector of one token, and a projection.

    ??? cite

        Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, ICML 2021,
        arXiv:2103.00020, section 2.4. Without the causal mask: Zhai et al., *Sigmoid Loss for Language Image
        Pre-Training*, ICCV 2023, arXiv:2303.15343.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"embedding": "token", "positions": "position"}

    embedding: Float[Array, "vocabulary dim"]
    positions: Float[Array, "context dim"]
    encoder: Encoder
    norm: Norm
    projection: Linear | None
    config: TextConfig = eqx.field(static=True)

    def __init__(self, config: TextConfig, *, key: PRNGKeyArray):
        """**Arguments:**

        - `config`: the configuration of the tower.
        - `key`: the random key of the weights.
        """
        embedding_key, positions_key, encoder_key, projection_key = split_key(key, 4)
        size, init, dtype = config.size, INITS[config.init], jnp.dtype(jnp.float32)
        self.embedding = init.position(embedding_key, (config.vocabulary, size.dim), dtype)
        self.positions = init.position(positions_key, (config.context, size.dim), dtype)
        self.encoder = Encoder(size, options=config.encoder, init=init, key=encoder_key)
        self.norm = make_norm(config.encoder.norm, size.dim, eps=config.encoder.norm_eps)
        self.projection = (
            None
            if config.embed_dim is None
            else Linear(
                size.dim,
                config.embed_dim,
                weight_init=init.head,
                bias_init=jax.nn.initializers.zeros if config.projection_bias else None,
                key=projection_key,
            )
        )
        self.config = config

    @property
    def embed_dim(self) -> int:
        """The width of the embedding."""
        return self.norm.weight.shape[0] if self.projection is None else self.projection.weight.shape[0]

    def __call__(
        self,
        tokens: Int[Array | np.ndarray, " context"],
        *,
        mask: Bool[Array | np.ndarray, " context"] | None = None,
        execution: Execution = Execution(),
        dropout: Dropout = Dropout(),
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " embed"]:
        """Computes the embedding of a text.

        **Arguments:**

        - `tokens`: the ids of one text, at most `config.context` of them.
        - `mask`: true for each token that counts, false for padding; `None` if all count. The published models are
            trained and used without a mask.
        - `execution`: how the tower is computed.
        - `dropout`: what is dropped in training.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The embedding in the compute dtype. It is not scaled to unit length.

        **Raises:** `ValueError` if there are no tokens or more than the context, or if an id is not in the vocabulary.
        Inside `jax.jit` such an id gives NaN instead of an error.
        """
        tokens = self._check_tokens(tokens)
        dtype = jnp.dtype(execution.compute_dtype)
        embedding, positions = jnp.asarray(self.embedding), jnp.asarray(self.positions)
        embedded = embedding.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        x = embedded.astype(dtype) + positions[: len(tokens)].astype(dtype)
        mask = self._make_mask(len(tokens), mask)
        x = self.norm(self.encoder(x, mask=mask, execution=execution, dropout=dropout, key=key))
        pooled = x[TEXT_POOLINGS[self.config.pooling](tokens, self.config.end_of_text)]
        return pooled if self.projection is None else to_dtype(self.projection, dtype)(pooled)

    def _check_tokens(self, tokens: Int[Array | np.ndarray, " context"]) -> Int[Array, " context"]:
        context, vocabulary = self.positions.shape[0], self.embedding.shape[0]
        if not 1 <= len(tokens) <= context:
            raise ValueError(
                f"tokens must be 1 to {context} ids, the context of the text tower, got {len(tokens)}: cut the text"
            )
        if not isinstance(tokens, Tracer) and not (tokens.min() >= 0 and tokens.max() < vocabulary):
            raise ValueError(
                f"tokens must be ids in [0, {vocabulary}), the vocabulary of the text tower, got {tokens.min()} to "
                f"{tokens.max()}: use the tokenizer that belongs to the model"
            )
        return jnp.asarray(tokens)

    def _make_mask(
        self, length: int, mask: Bool[Array | np.ndarray, " context"] | None
    ) -> Bool[Array, " context"] | Bool[Array, "context context"] | None:
        """Which tokens each token looks at; `None` for all."""
        counts = None if mask is None else jnp.asarray(mask)
        if not self.config.causal:
            return counts
        earlier = jnp.tril(jnp.ones((length, length), bool))
        if counts is None:
            return earlier
        return (earlier & counts[None]) | jnp.eye(length, dtype=bool)  # softmax over no token is NaN, which spreads
