"""Linear layers with adapters of low rank."""

import operator
from collections.abc import Mapping
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._labels import ParameterKinds
from ._linear import Linear


@final
class Adapter(eqx.Module):
    r"""An adapter of rank $r$: it adds $\frac{\alpha}{r} B A$ to rows of a weight. In an encoder its arrays have a
    leading axis over the blocks.

    ??? cite

        Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022, arXiv:2106.09685, equation 3.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"a": "adapter", "b": "adapter"}

    a: Float[Array, "*blocks rank in_dim"]
    b: Float[Array, "*blocks rows rank"]
    start: int = eqx.field(static=True)
    alpha: float = eqx.field(static=True)

    def __init__(
        self, a: Float[Array, "*blocks rank in_dim"], b: Float[Array, "*blocks rows rank"], *, start: int, alpha: float
    ):
        """**Arguments:**

        - `a`, `b`: the matrices $A$ and $B$.
        - `start`: the index of the first row of the weight that the adapter adds to.
        - `alpha`: $\alpha$.
        """
        self.a = a
        self.b = b
        self.start = start
        self.alpha = alpha

    def pad_scaled(self, out_dim: int) -> Float[Array, "*blocks out_dim rank"]:
        """`B` times `alpha / rank`, with zeros in the other rows of a weight.

        **Arguments:**

        - `out_dim`: the number of rows of the weight.
        """
        after = out_dim - self.start - self.b.shape[-2]
        pad = [(0, 0)] * (self.b.ndim - 2) + [(self.start, after), (0, 0)]
        return jnp.pad(self.b * (self.alpha / self.b.shape[-1]), pad)


@final
class AdaptedLinear(eqx.Module):
    """A linear layer with adapters. It computes `y = W x + b` and adds `alpha / rank * B (A x)` of each adapter to its
    rows of `y`. [`vitrail.lora`][vitrail.lora] makes it."""

    base: Linear
    adapters: dict[str, Adapter]

    def __init__(self, base: Linear, adapters: Mapping[str, Adapter]):
        """**Arguments:**

        - `base`: the layer.
        - `adapters`: the adapters, by the name of their target.
        """
        self.base = base
        self.adapters = dict(adapters)

    @property
    def weight(self) -> Float[Array, "*blocks out_dim in_dim"]:
        """The weight with the adapters added, computed at each access."""
        a, b = self._join_adapters()
        return self.base.weight + jnp.matmul(b, a, precision="highest")

    @property
    def bias(self) -> Float[Array, "*blocks out_dim"] | None:
        """The bias of the layer."""
        return self.base.bias

    @property
    def out_dim(self) -> int:
        """The width of the output."""
        return self.base.out_dim

    def __call__(self, x: Float[Array, "*batch {self.base.weight.shape[-1]}"]) -> Float[Array, "*batch out_dim"]:
        """**Arguments:**

        - `x`: an array with a last axis of width `in_dim`.

        **Returns:**

        An array with a last axis of width `out_dim`.
        """
        a, b = self._join_adapters()
        return self.base(x) + (x @ a.T) @ b.T

    def take_rows(self, start: int, stop: int) -> "Linear | AdaptedLinear":
        """**Arguments:**

        - `start`, `stop`: the first of the outputs to keep, and the first after them.

        **Returns:**

        The layer that returns these.
        """
        base, taken = self.base.take_rows(start, stop), dict[str, Adapter]()
        for name, adapter in self.adapters.items():
            b = adapter.b[max(start - adapter.start, 0) : max(stop - adapter.start, 0)]
            if b.size:
                taken[name] = Adapter(adapter.a, b, start=max(adapter.start - start, 0), alpha=adapter.alpha)
        return AdaptedLinear(base, taken) if taken else base

    def merge(self) -> Linear:
        """Adds the adapters to the weight.

        **Returns:**

        A plain linear layer with the same outputs, up to rounding.
        """
        return eqx.tree_at(operator.attrgetter("weight"), self.base, self.weight)

    def _join_adapters(self) -> tuple[Float[Array, "*blocks ranks in_dim"], Float[Array, "*blocks out_dim ranks"]]:
        """The adapters as one, so that the tokens are read once."""
        adapters = self.adapters.values()
        a = jnp.concatenate([adapter.a for adapter in adapters], axis=-2)
        return a, jnp.concatenate([adapter.pad_scaled(self.out_dim) for adapter in adapters], axis=-1)
