"""The layers that the parts share. Each acts on the last axis, in the dtype of what comes in."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, Final, Literal, Protocol, TypeVar, cast, final, runtime_checkable

import equinox as eqx
import jax
import jax.ad_checkpoint
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ._init import Initializer

ActivationName = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh"]
"""The names of the activations in `ACTIVATIONS`."""

PRODUCT: Final = "product"
"""What the results of matrix products, and the tokens between a block's two branches, are named by: a training step may
keep them for its backward pass."""
GATHERED: Final = "gathered"
"""The same of what the attention gathers."""

Activation = Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]


# With jax.nn.gelu, whose derivative is that of its erfc, a training step of Ti/16 at batch 8 takes 1.02 to 1.07 times
# as long (two CPU cores).
@jax.custom_jvp
def _gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    wide = x.astype(at_least_float32(x.dtype))  # in half precision 1 + erf(x) cancels where x is negative
    return (wide * _normal_cdf(wide)).astype(x.dtype)


@_gelu.defjvp
def _gelu_jvp(
    primals: tuple[Float[Array, "*shape"]], tangents: tuple[Float[Array, "*shape"]]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    (x,), (dx,) = primals, tangents
    wide = x.astype(at_least_float32(x.dtype))
    cdf, density = _normal_cdf(wide), jnp.exp(-0.5 * jnp.square(wide)) / math.sqrt(2 * math.pi)
    return (wide * cdf).astype(x.dtype), dx * (cdf + wide * density).astype(x.dtype)


def _normal_cdf(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return 0.5 * (1 + jax.lax.erf(x / math.sqrt(2)))


def _gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jax.nn.gelu(x, approximate=True)


def _quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: Final[Mapping[ActivationName, Activation]] = MappingProxyType(
    {
        "gelu": _gelu,
        "gelu_tanh": _gelu_tanh,
        "quick_gelu": _quick_gelu,
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "tanh": jnp.tanh,
    }
)
"""The activations by name: exact GELU (Hendrycks and Gimpel 2016), its tanh approximation (big_vision, SigLIP), CLIP's
`x * sigmoid(1.702 x)`, ReLU, SiLU (SwiGLU's gate) and tanh (the hidden layer of ViT's pre-training head)."""


@runtime_checkable
class Decayed(Protocol):
    """A module that says which of its own arrays weight decay acts on. All arrays of any other module are spared."""

    @property
    def decayed(self) -> tuple[str, ...]:
        """The names of fields."""
        ...


@final
class Linear(eqx.Module):
    """`y = W x + b` on the last axis, with the weight stored `(out, in)` as in `eqx.nn.Linear` and PyTorch."""

    decayed: ClassVar[tuple[str, ...]] = ("weight",)

    weight: Float[Array, "out_dim in_dim"]
    bias: Float[Array, " out_dim"] | None

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        weight_init: Initializer,
        bias_init: Initializer | None = jax.nn.initializers.zeros,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_dim`, `out_dim`: the widths.
        - `weight_init`: draws the `(out_dim, in_dim)` weight.
        - `bias_init`: draws the bias; `None` leaves it out.
        - `key`: for the two.
        """
        weight_key, bias_key = jax.random.split(key)
        self.weight = weight_init(weight_key, (out_dim, in_dim), jnp.dtype(jnp.float32))
        self.bias = None if bias_init is None else bias_init(bias_key, (out_dim,), jnp.dtype(jnp.float32))

    def __call__(self, x: Float[Array, "*batch {self.weight.shape[-1]}"]) -> Float[Array, "*batch out_dim"]:
        """**Arguments:**

        - `x`: any leading axes, the last of width `in_dim`.

        **Returns:**

        The same with a last axis of width `out_dim`.
        """
        y = x @ self.weight.T
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


@final
class LayerNorm(eqx.Module):
    """Layer normalisation of the last axis, computed in float32 at least whatever the dtype of the input.

    ??? cite

        Ba, Kiros and Hinton, *Layer Normalization*, 2016, arXiv:1607.06450.
    """

    weight: Float[Array, " dim"]
    bias: Float[Array, " dim"]
    eps: float = eqx.field(static=True)

    def __init__(self, dim: int, *, eps: float):
        """**Arguments:**

        - `dim`: the width of the last axis.
        - `eps`: what is added to the variance.
        """
        self.weight = jnp.ones(dim, jnp.float32)
        self.bias = jnp.zeros(dim, jnp.float32)
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch {self.weight.shape[-1]}"]) -> Float[Array, "*batch dim"]:
        """**Arguments:**

        - `x`: any leading axes, the last of width `dim`.

        **Returns:**

        The same shape and dtype, the last axis at mean `bias` and deviation `weight`.
        """
        wide = x.astype(at_least_float32(x.dtype))
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.eps)
        weight, bias = (jnp.broadcast_to(p.astype(wide.dtype), x.shape) for p in (self.weight, self.bias))
        return (normal * weight + bias).astype(x.dtype)


_T = TypeVar("_T")


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to compute in where half precision would not do."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def is_norm(part: object) -> bool:
    """Whether this is a norm, ours or Equinox's, which stays in float32."""
    return isinstance(part, LayerNorm | eqx.nn.LayerNorm | eqx.nn.RMSNorm)


def to_dtype(part: _T, dtype: jnp.dtype) -> _T:
    """The part with its floating-point arrays in the dtype to compute in. Norms keep theirs."""

    def convert(leaf: object) -> object:
        return leaf.astype(dtype) if isinstance(leaf, jax.Array) and eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(convert, part, is_leaf=is_norm)


def attention_weights(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    mask: Bool[Array, " tokens"] | None = None,
    bias: Float[Array, "heads queries tokens"] | None = None,
) -> Float[Array, "heads queries tokens"]:
    """How much each query takes from each token, in float32 at least: the softmax of their scaled products.

    A token that is false in `mask` gets nothing; `bias` is added to the scaled products.
    """
    scores = jnp.einsum("hqd,hkd->hqk", q / q.shape[-1] ** 0.5, k, preferred_element_type=at_least_float32(q.dtype))
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    return masked_softmax(scores, mask)


def masked_softmax(
    scores: Float[Array, "*batch tokens"], mask: Bool[Array, " tokens"] | None
) -> Float[Array, "*batch tokens"]:
    """The softmax over the tokens that are true in the mask, over all without one; the others get zero."""
    if mask is not None:
        scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


def dropout(x: Float[Array, "*shape"], rate: float, *, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Zeroes elements with probability `rate` and scales up the others; nothing without a key.

    Source: Srivastava et al. 2014.
    """
    return eqx.nn.Dropout(rate)(x, key=key, inference=key is None)


def drop_path(
    branch: Float[Array, "*shape"], rate: Float[Array, ""], *, key: PRNGKeyArray | None
) -> Float[Array, "*shape"]:
    """Drops one example's whole residual branch with probability `rate` and scales it up otherwise; nothing without
    a key.

    Source: Huang et al., *Deep Networks with Stochastic Depth*, 2016, arXiv:1603.09382.
    """
    if key is None:
        return branch
    kept = jax.random.bernoulli(key, 1 - rate)
    return jnp.where(kept, branch / (1 - rate).astype(branch.dtype), jnp.zeros_like(branch))


def keep(x: Float[Array, "*shape"], name: str) -> Float[Array, "*shape"]:
    """The same, named, so that a training step may keep it for its backward pass."""
    return cast(Array, jax.ad_checkpoint.checkpoint_name(x, name))


def unfused(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The same, computed before what uses it.

    XLA's CPU backend fuses the norm of many tokens into the product that follows, which is then a third slower: without
    this a forward pass of S/16 at batch 32 takes 1.11 times as long, a training step 1.04 times (two CPU cores); at
    batch 8 and below it changes nothing.
    """
    return cast(Array, jax.lax.optimization_barrier(x))


def split_key(key: PRNGKeyArray | None, num: int) -> tuple[PRNGKeyArray | None, ...]:
    """`num` keys out of one, or as many times `None`."""
    return (None,) * num if key is None else tuple(jax.random.split(key, num))
