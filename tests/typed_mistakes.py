"""Mistakes that pyright must each report: `test_typing.py` compares its reports with the marks. Nothing runs it."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import vitrail

key = jax.random.key(0)
image = jnp.ones((224, 224, 3))
model = vitrail.vit("S/16", num_classes=10, key=key)

# Arguments of vit
vitrail.vit(16, num_classes=10, key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10)  # expect: reportCallIssue
vitrail.vit("S/16", 10, key=key)  # expect: reportCallIssue
vitrail.vit("S/16", num_classes="10", key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10, image_size="224", key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10, image_size=(224, 224, 3), key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10, image_size=224.0, key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10, pooling="mean", key=key)  # expect: reportCallIssue
vitrail.vit("S/16", num_classes=10, norm_order="pool-norm", key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10, init="xavier", key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10, execution="bfloat16", key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10, encoder={"qk_norm": True}, key=key)  # expect: reportArgumentType

# Parts that do not fit
vitrail.vit("S/16", num_classes=10, pool=3, key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10, pool=vitrail.LinearHead, key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10, head=vitrail.MeanPool, key=key)  # expect: reportArgumentType
vitrail.vit("S/16", num_classes=10, pool=vitrail.MeanPool(384), key=key)  # expect: reportArgumentType


@final
class ArrayPool(vitrail.AbstractPool):
    """It takes an array where the contract says tokens."""

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: PRNGKeyArray):
        self.out_dim = dim

    def __call__(  # expect: reportIncompatibleMethodOverride
        self,
        tokens: Float[Array, "patches dim"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " dim"]:
        return tokens[0]


@final
class UnfinishedPool(vitrail.AbstractPool):  # expect: reportGeneralTypeIssues
    """It has no `__call__`."""

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: PRNGKeyArray):
        self.out_dim = dim


def make_head(dim: int, *, key: PRNGKeyArray) -> vitrail.AbstractPool:
    """A pool, and no head."""
    return vitrail.MeanPool(dim)


vitrail.vit("S/16", num_classes=10, head=make_head, key=key)  # expect: reportArgumentType
UnfinishedPool(3, key=key)  # expect: reportAbstractUsage
vitrail.AbstractPool()  # expect: reportAbstractUsage, reportCallIssue
factory: vitrail.PoolFactory = vitrail.LinearHead  # expect: reportAssignmentType
context = vitrail.PoolContext(dim=192, grid=(14, 14), init=vitrail.TRUNC_NORMAL)
vitrail.PoolContext(dim=192, grid=(14, 14))  # expect: reportCallIssue
vitrail.PoolContext(dim="192", grid=(14, 14), init=vitrail.TRUNC_NORMAL)  # expect: reportArgumentType
vitrail.POOLS.build("mean", context)  # expect: reportCallIssue
vitrail.POOLS.build(vitrail.LinearHead, context, key=key)  # expect: reportArgumentType
vitrail.HEADS.build("linear", context, key=key)  # expect: reportArgumentType


class MyMeanPool(vitrail.MeanPool):  # expect: reportGeneralTypeIssues
    """A subclass of a final part."""


class MyViT(vitrail.ViT):  # expect: reportGeneralTypeIssues
    """A subclass of the model."""


# The registries
vitrail.POOLS["mine"] = vitrail.MeanPool  # expect: reportIndexIssue
del vitrail.POOLS["mean"]  # expect: reportIndexIssue
vitrail.POOLS.configure(vitrail.MeanPool)  # expect: reportArgumentType
vitrail.PRESETS["S"] = vitrail.PRESETS["B"]  # expect: reportIndexIssue
head: vitrail.HeadFactory = vitrail.POOLS["mean"]  # expect: reportAssignmentType

# The configuration
vitrail.EncoderOptions(activation="gelo")  # expect: reportArgumentType
vitrail.EncoderOptions(dropuot=0.1)  # expect: reportCallIssue
vitrail.Execution(scan="yes")  # expect: reportArgumentType
vitrail.Execution(attention="flash")  # expect: reportArgumentType
vitrail.Execution(compute_dtype="float16")  # expect: reportArgumentType
vitrail.EncoderSize(dim=64, depth=2, num_heads=4)  # expect: reportCallIssue
vitrail.EncoderSize(dim=64.0, depth=2, num_heads=4, mlp_dim=128)  # expect: reportArgumentType
vitrail.ViTConfig((32, 32), (4, 4), vitrail.PRESETS["S"])  # expect: reportCallIssue
model.config.channels = 4  # expect: reportAttributeAccessIssue

# The model
model(image, key)  # expect: reportCallIssue
model(image, key=0)  # expect: reportArgumentType
model.backbone.activations(image, at=("logits",))  # expect: reportArgumentType
model.backbone.activations(image, layers=2)  # expect: reportArgumentType
wrong: vitrail.Intermediate = "heads"  # expect: reportAssignmentType
model.with_execution(scan=False)  # expect: reportCallIssue
model.resized("384")  # expect: reportArgumentType
model.blocks["first"]  # expect: reportArgumentType, reportCallIssue
model.attentions(image)  # expect: reportAttributeAccessIssue
vitrail.Tokens(image, image)  # expect: reportArgumentType
vitrail.vit_forward("0", image, 16, 64, 4, 128, 2, 10)  # expect: reportArgumentType
vitrail.vit_forward(0, image, 16.0, 64, 4, 128, 2, 10)  # expect: reportArgumentType
vitrail.vit_forward(0, image, 16, 64, 4, 128, 2)  # expect: reportCallIssue

# Surgery
model = vitrail.vit("S/16", num_classes=10, key=key)
vitrail.replace(model, classes="cat")  # expect: reportArgumentType, reportCallIssue
vitrail.replace(model, patch="conv", key=key)  # expect: reportCallIssue
vitrail.replace(model, pool=vitrail.LinearHead, key=key)  # expect: reportArgumentType
vitrail.replace(model, num_classes="all", key=key)  # expect: reportArgumentType, reportCallIssue
vitrail.replace(model, pool=None, key=key)  # expect: reportArgumentType
vitrail.compare_all()  # expect: reportAttributeAccessIssue
