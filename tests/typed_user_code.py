"""What a user writes, which pyright must pass in strict mode. `test_typing.py` runs pyright on it; nothing runs it."""

import functools
from typing import Any, ClassVar, assert_type, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import vitrail


@final
class PowerPool(vitrail.AbstractPool):
    """A pool of one's own, with a parameter and an option."""

    power: Float[Array, " dim"]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, start: float = 3.0, key: PRNGKeyArray):
        self.power = start + 0.1 * jax.random.normal(key, (dim,))
        self.out_dim = dim

    def __call__(self, tokens: vitrail.Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " dim"]:
        power = jnp.broadcast_to(self.power, tokens.patches.shape)
        patches, mask = vitrail.read_patches(tokens)
        where = None if mask is None else mask[:, None]
        return jnp.mean(jnp.abs(patches) ** power, axis=0, where=where) ** (1 / self.power)


@final
class CosineHead(vitrail.AbstractHead):
    """A head of one's own."""

    weight: Float[Array, "classes dim"]
    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(self, dim: int, *, num_classes: int | None, init: vitrail.Init, key: PRNGKeyArray):
        self.dim = dim
        self.out_dim = num_classes or 1
        self.weight = init.head(key, (self.out_dim, dim), jnp.dtype(jnp.float32))

    def __call__(
        self, x: Float[Array, "*tokens dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens classes"]:
        return x @ self.weight.T


@final
class ShiftedPosition(vitrail.AbstractPosition):
    """A position of one's own, that wraps one of ours."""

    inner: vitrail.AbstractPosition

    def __init__(self, dim: int, *, grid: tuple[int, int], init: vitrail.Init, key: PRNGKeyArray):
        self.inner = vitrail.LearnedPosition(dim, grid=grid, init=init, covers_prefix=False, key=key)

    def __call__(self, tokens: vitrail.Tokens) -> vitrail.Tokens:
        return self.inner(tokens).map(lambda x: x + 1)

    def in_attention(self, tokens: vitrail.Tokens) -> vitrail.InAttention | None:
        return self.inner.in_attention(tokens)

    def resized(self, grid: tuple[int, int]) -> vitrail.AbstractPosition:
        return self.inner.resized(grid)

    def with_class_token(self, row: Float[Array, " dim"] | None) -> vitrail.AbstractPosition:
        return self.inner.with_class_token(row)

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> vitrail.AbstractPosition:
        return self.inner.with_registers(rows, kept=kept)


def make_pool(dim: int, *, key: PRNGKeyArray) -> vitrail.AbstractPool:
    """A factory of one's own."""
    return PowerPool(dim, start=2.0, key=key)


@final
class MedianPool(vitrail.AbstractPool):
    """The smallest pool: no parameters, no options, no key."""

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int):
        self.out_dim = dim

    def __call__(self, tokens: vitrail.Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        mask = True if tokens.mask is None else tokens.mask[:, None]
        return jnp.nanmedian(jnp.where(mask, tokens.patches, jnp.nan), axis=0)


pool_factories: list[vitrail.PoolFactory] = [PowerPool, MedianPool, make_pool, vitrail.MeanPool, vitrail.POOLS["max"]]
head_factory: vitrail.HeadFactory = CosineHead
position_factory: vitrail.PositionFactory = ShiftedPosition


def build(key: PRNGKeyArray) -> list[vitrail.ViT]:
    """Every way to give a part."""
    return [
        vitrail.vit("S/16", num_classes=10, key=key),
        vitrail.vit("S/16x8", pool="cls", num_classes=10, image_size=(224, 160), channels=4, key=key),
        vitrail.vit("Ti/16", pool=vitrail.POOLS.configure("mean"), num_classes=2, key=key),
        vitrail.vit("Ti/16", pool=PowerPool, head=CosineHead, position=ShiftedPosition, num_classes=2, key=key),
        vitrail.vit("Ti/16", pool=functools.partial(PowerPool, start=4.0), num_classes=2, key=key),
        vitrail.vit("Ti/16", pool=MedianPool, num_classes=2, key=key),
        vitrail.vit(
            "Ti/16",
            pool=make_pool,
            patch=functools.partial(vitrail.ConvPatchEmbed, implementation="matmul"),
            num_classes=2,
            key=key,
        ),
        vitrail.vit("Ti/16", position=vitrail.POSITIONS.configure("rope", rule="dinov3"), head="none", key=key),
        vitrail.vit(
            "B/16",
            num_classes=1000,
            norm_order="pool_norm",
            class_token=True,
            num_registers=4,
            encoder=vitrail.EncoderOptions(activation="gelu_tanh", layer_scale=1e-5),
            dropout=vitrail.Dropout(drop_path=0.1),
            init="big_vision",
            execution=vitrail.Execution(compute_dtype="bfloat16", remat="blocks", attention=256),
            key=key,
        ),
    ]


def configure() -> vitrail.ViTConfig:
    """A configuration and its JSON."""
    config = vitrail.ViTConfig(
        image_size=(32, 32),
        patch_size=(4, 4),
        size=vitrail.EncoderSize(dim=64, depth=2, num_heads=4, mlp_dim=128),
        num_classes=10,
        head=vitrail.HEADS.configure("mlp", hidden_dim=64, zero=True),
    )
    text: str = config.to_json()
    return vitrail.ViTConfig.from_json(text)


@eqx.filter_jit
def loss(model: vitrail.ViT, images: Float[Array, "batch height width channels"], key: PRNGKeyArray) -> Array:
    """A batched loss."""

    def forward(image: Float[Array, "height width channels"], key: PRNGKeyArray) -> Float[Array, " classes"]:
        return model(image, key=key)

    logits = jax.vmap(forward)(images, jax.random.split(key, images.shape[0]))
    return jnp.mean(logits**2) + jnp.mean(jax.vmap(model)(images))


def look(model: vitrail.ViT, image: Float[Array, "height width channels"]) -> None:
    """What there is to look at, and its types."""
    assert_type(model.backbone(image), vitrail.Tokens)
    assert_type(model.backbone(image).grid, tuple[int, int])
    assert_type(model.resized(384), vitrail.ViT)
    assert_type(model.resized((384, 256)).config, vitrail.ViTConfig)
    assert_type(model.blocks[0], vitrail.Block)
    assert_type(model.blocks[1:], list[vitrail.Block])
    assert_type(len(model.blocks), int)
    assert_type(model.config.size.dim, int)
    assert_type(model.readout.pool.out_dim, int)
    assert_type(vitrail.POOLS, vitrail.Registry[vitrail.AbstractPool, vitrail.PoolContext])
    context = vitrail.PoolContext(dim=192, grid=(14, 14), init=vitrail.TRUNC_NORMAL)
    assert_type(vitrail.POOLS.build("mean", context, key=jax.random.key(0)), vitrail.AbstractPool)
    assert_type(vitrail.POOLS.build(MedianPool, context, key=jax.random.key(0)).out_dim, int)
    assert_type(vitrail.POOLS["mean"], vitrail.PoolFactory)
    assert_type(list(vitrail.HEADS), list[str])
    assert_type(vitrail.HEADS.get_entry("linear").origins, tuple[str, ...])
    assert_type(vitrail.PRESETS["S"], vitrail.EncoderSize)
    found = model.backbone.activations(image, at=("tokens", "attention_weights"), layers=[0, -1])
    assert_type(found, dict[vitrail.Intermediate, Array])
    assert_type(model.with_execution(vitrail.Execution(scan=False)), vitrail.ViT)

    def ablate(heads: Float[Array, "..."], layer: Int[Array, ""]) -> Float[Array, "..."]:
        return jnp.where(layer == 3, heads.at[0].set(0), heads)

    assert_type(model.backbone(image, edit={"attention_heads": ablate}), vitrail.Tokens)
    logits = vitrail.vit_forward(0, image, 16, 64, 4, 128, 2, 10)
    print(logits.shape, found["tokens"].shape, eqx.filter_jit(model)(image).shape)


def operate(model: vitrail.ViT, data: vitrail.images.Dataset, key: PRNGKeyArray) -> None:
    """Surgery, files, the lab, and the checks of parts."""
    assert_type(vitrail.replace(model, pool="attention", num_classes=None, head="none", key=key), vitrail.ViT)
    dense = vitrail.make_dense(model, "linear", num_classes=2, key=key)
    assert_type(vitrail.replace(dense, readout=vitrail.READOUTS.configure("dpt"), key=key), vitrail.Dense)
    assert_type(
        vitrail.replace(model, pool=PowerPool, position=ShiftedPosition, class_token=True, key=key), vitrail.ViT
    )
    preprocess = vitrail.images.measure_preprocess(data.train)
    assert_type(preprocess(data.test.images[0], (8, 8)), np.ndarray)
    assert_type(vitrail.model_card(model).preprocess(data.test.images[0]), np.ndarray)
    assert_type(preprocess.normalise(data.test.images[:8]), np.ndarray)
    assert_type(preprocess.normalise(jnp.zeros((8, 8, 3))), Array)
    vitrail.save(model, "model.safetensors")
    assert_type(vitrail.load("model.safetensors"), Any)
    assert_type(vitrail.load("model.safetensors", part="image"), vitrail.ViT)
    clip: vitrail.ImageText = vitrail.load("clip")
    embeddings = jax.vmap(clip.embed_text)(jnp.zeros((3, clip.config.text.context), int))
    assert_type(clip.similarity(clip.embed_image(jnp.zeros((8, 8, 3))), embeddings), Array)
    assert_type(vitrail.load("model.safetensors", num_classes=10, key=key), vitrail.ViT)
    comparison = vitrail.compare(
        {"own": model}, data, pools=["mean", vitrail.POOLS.configure("gem", power=2.0), PowerPool], resolutions=[8]
    )
    assert_type(comparison, vitrail.lab.Comparison)
    assert_type([row.accuracy for row in comparison.rows], list[float])
    assert_type(comparison.rows[0].p_value, float | None)
    vitrail.testing.check_pool(PowerPool)
    vitrail.testing.check_head(functools.partial(CosineHead))
    if isinstance(model.readout.pool, vitrail.AbstractWeighingPool):
        print(model.readout.pool.weights(model.backbone(jnp.zeros((8, 8, 3)))).shape)


def read_texts(clip: vitrail.ImageText) -> None:
    """Texts, and classes that are only named."""
    tokens = clip.tokenize(["a photo of a cat", "a red car"])
    assert_type(jax.vmap(clip.embed_text)(jnp.asarray(tokens)).shape, tuple[int, ...])
    assert_type(vitrail.zero_shot(clip, ["cat", "dog"], templates="imagenet"), vitrail.ViT)
    assert_type(vitrail.zero_shot(clip, ("cat",), templates=["a {}."]), vitrail.ViT)
    assert_type(vitrail.TEMPLATES["photo"], tuple[str, ...])
    if clip.config.tokenizer is not None:
        assert_type(clip.config.tokenizer.build(), vitrail.Tokenizer)


test_power_pool = vitrail.testing.pool_checks(PowerPool)
