"""Images of any shape in one batch: each gives what it gives to a model of its size, and one program takes them all."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, builtins, random_array, run, small_model

import vitrail
from vitrail import POOLS, POSITIONS, PatchedImage
from vitrail.nn import ResizeRule

PATCH, MOST = 4, 20
SHAPES = ((12, 16), (8, 12), (4, 80), (52, 4), (4, 4))
"""Some more, some as many, some fewer patches than the 2 x 3 that the model is made for; two are as long as can be."""
POSITION_CHOICES: dict[str, Any] = {
    **{name: name for name in builtins(POSITIONS) if name != "relative_bias"},
    "dinov3": POSITIONS.configure("rope", rule="dinov3"),
    "mae": POSITIONS.configure("sincos2d", rule="mae"),
    **{f"learned {rule}": POSITIONS.configure("learned", resize=rule) for rule in ResizeRule.__args__},
    "learned, aspect kept": POSITIONS.configure("learned", keep_aspect=True),
    "factorized, aspect kept": POSITIONS.configure("factorized", resize="bilinear", keep_aspect=True),
}
SHALLOW = vitrail.EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=24)
IMAGES = [random_array(*shape, 3, seed=number) for number, shape in enumerate(SHAPES)]
BATCH = vitrail.pack(IMAGES, PATCH, MOST)


def test_a_table_of_distances_refuses_images_of_their_own_grid() -> None:
    with pytest.raises(ValueError, match="'relative_bias' has one grid, got tokens of an image with its own grid"):
        run(jax.vmap(small_model(class_token=True, position="relative_bias").backbone), BATCH)


def one(batch: Any, number: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[number], batch)


@pytest.fixture(scope="module")
def model() -> vitrail.ViT:
    return small_model(class_token=True, num_registers=1)


@pytest.mark.parametrize("position", POSITION_CHOICES)
def test_an_image_gives_what_it_gives_alone_to_a_model_of_its_size(position: str) -> None:
    model = small_model(class_token=True, num_registers=1, position=POSITION_CHOICES[position], size=SHALLOW)
    resized = [model.resized(image.shape[:2]).backbone for image in IMAGES]
    found = run(jax.vmap(model.backbone), BATCH)
    alone = run(lambda: [backbone(image) for backbone, image in zip(resized, IMAGES, strict=True)])
    for number, expected in enumerate(alone):
        tokens = one(found, number)
        count = len(expected.patches)
        assert int(tokens.mask.sum()) == count
        assert_close(tokens.patches[:count], expected.patches, tolerance=2e-5)
        assert_close(tokens.prefix, expected.prefix, tolerance=2e-5)


@pytest.mark.parametrize("pool", [name for name in builtins(POOLS) if name != "none"])
def test_a_pool_reads_no_padding(pool: str) -> None:
    model = small_model(class_token=True, num_registers=1, pool=pool, size=SHALLOW)
    chosen = [0, 2, 3]  # top_k wants more patches than one
    resized = [model.resized(IMAGES[number].shape[:2]) for number in chosen]
    found = run(jax.vmap(model), one(BATCH, jnp.asarray(chosen)))
    alone = run(lambda: [whole(IMAGES[number]) for number, whole in zip(chosen, resized, strict=True)])
    assert_close(found, jnp.stack(alone), tolerance=2e-5)


def test_patches_are_flattened_by_height_width_and_channels() -> None:
    rows, cols = BATCH.grid[0].tolist()
    patches = np.asarray(BATCH.patches[0, : rows * cols]).reshape(rows, cols, PATCH, PATCH, 3)
    for row in range(rows):
        for col in range(cols):
            pixels = IMAGES[0][PATCH * row : PATCH * (row + 1), PATCH * col : PATCH * (col + 1)]
            assert np.array_equal(patches[row, col], pixels)
    assert BATCH.grid.tolist() == [[height // PATCH, width // PATCH] for height, width in SHAPES]
    assert BATCH.mask.sum(axis=1).tolist() == [height * width // PATCH**2 for height, width in SHAPES]
    assert not np.any(np.where(BATCH.mask[..., None], 0, BATCH.patches))


def test_one_program_takes_images_of_every_shape(model: vitrail.ViT) -> None:
    traced: list[int] = []

    @jax.jit
    def classify(image: PatchedImage) -> jax.Array:
        traced.append(1)
        return model(image)

    for number in range(len(IMAGES)):
        classify(one(BATCH, number))
    assert len(traced) == 1
    assert classify._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]


def test_padding_changes_nothing_and_has_no_gradient(model: vitrail.ViT) -> None:
    """Not even NaN does, in the output or in the gradient of the parameters."""
    padding = ~BATCH.mask[..., None]
    other = dataclasses.replace(BATCH, patches=jnp.where(padding, jnp.nan, BATCH.patches))

    @eqx.filter_jit
    def differentiate(model: vitrail.ViT, batch: PatchedImage) -> Any:
        def loss(both: tuple[vitrail.ViT, Any]) -> jax.Array:
            images = dataclasses.replace(batch, patches=both[1])
            return jnp.sum(jax.vmap(both[0])(images) ** 2)

        return eqx.filter_value_and_grad(loss)((model, batch.patches))

    value, (of_model, of_patches) = differentiate(model, BATCH)
    again, (of_model_again, of_patches_again) = differentiate(model, other)
    assert value == again
    assert np.array_equal(of_patches, of_patches_again)
    jax.tree.map(np.testing.assert_array_equal, of_model, of_model_again)
    assert not np.any(np.where(padding, of_patches, 0))
    assert np.all(np.abs(of_patches).sum(axis=-1)[BATCH.mask] > 0)


def test_more_padding_changes_nothing(model: vitrail.ViT) -> None:
    assert_close(run(jax.vmap(model), vitrail.pack(IMAGES, PATCH, 31)), run(jax.vmap(model), BATCH), tolerance=2e-5)


@pytest.mark.parametrize("position", ["learned", "rope", "factorized", "sincos2d"])
def test_dropped_patches_keep_their_places_in_their_own_grid(position: str) -> None:
    model = small_model(position=position)
    image, kept = IMAGES[0], jnp.asarray([11, 0, 6])
    native = model.backbone.embed(one(BATCH, 0)).take(kept)
    whole = model.resized(image.shape[:2]).backbone
    expected = run(whole.encode, whole.embed(image).take(kept))
    assert_close(run(model.backbone.encode, native).patches, expected.patches, tolerance=2e-5)


def test_intermediates_leave_padding_out(model: vitrail.ViT) -> None:
    found = run(model.backbone.activations, one(BATCH, 1), at=("attention_weights", "tokens"))
    expected = run(model.backbone.activations, IMAGES[1], at=("attention_weights", "tokens"))
    assert_close(found["tokens"][:, :8], expected["tokens"], tolerance=2e-5)
    weights = found["attention_weights"]
    assert_close(weights[:, :, :8, :8], expected["attention_weights"], tolerance=2e-5)
    assert not np.any(weights[..., 8:])


def test_compile_takes_them(model: vitrail.ViT) -> None:
    assert_close(vitrail.compile(model)(BATCH), run(jax.vmap(model), BATCH))


def test_half_precision_is_close(model: vitrail.ViT) -> None:
    half = model.with_execution(vitrail.Execution(compute_dtype="bfloat16"))
    assert_close(run(jax.vmap(half), BATCH), run(jax.vmap(model), BATCH), tolerance=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": "conv_stem"}, "ConvStemPatchEmbed reads pixels around each patch, got a PatchedImage"),
        ({"patch_size": (2, 4), "image_size": (8, 12)}, r"image must have patches of 2 x 4 pixels and 3 channels"),
        ({"windows": vitrail.WindowOptions(size=2, global_blocks=())}, "windows "),
    ],
)
def test_a_model_that_cannot_take_them_says_so(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(**changes)(one(BATCH, 1))


def test_wrong_images_are_refused(model: vitrail.ViT) -> None:
    with pytest.raises(ValueError, match=r"image must be one PatchedImage, got a batch .*jax\.vmap"):
        model(BATCH)
    image = one(BATCH, 0)
    for grid in ([3, 7], [0, 4]):
        with pytest.raises(ValueError, match="image must have a grid of 1 to 20 cells"):
            model(dataclasses.replace(image, grid=jnp.asarray(grid)))
    with pytest.raises(ValueError, match="for a PatchedImage, whose grid is data"):
        model.backbone.activations(image, form="grid")
    tokens = model.backbone.embed(image)
    with pytest.raises(ValueError, match="patch_grid needs a grid that is the same for all images"):
        _ = tokens.patch_grid
    with pytest.raises(ValueError, match=r"at_places needs tokens on the grid of the table.*tokens\.coordinates"):
        tokens.at_places(jnp.zeros((6, 16)))


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        ([], {}, ValueError, "images must have at least one image, got none"),
        ([IMAGES[0], IMAGES[2]], {"max_patches": 15}, ValueError, "got 1 x 20 = 20 in image 1: resize it first"),
        ([IMAGES[0][:11]], {}, ValueError, "multiples of patch_size, got 11 x 16"),
        ([IMAGES[0], IMAGES[1][..., :1]], {}, ValueError, "image must have 3 channels"),
        ([IMAGES[0][None]], {}, ValueError, "image must be one image"),
        ([np.zeros((4, 4, 3), np.uint8)], {}, TypeError, "image must be floating point"),
        ([IMAGES[0]], {"patch_size": (4, 0)}, ValueError, "patch_size must be positive"),
        ([IMAGES[0]], {"max_patches": 0}, ValueError, "max_patches must be positive"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    images: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        vitrail.pack(images, **{"patch_size": PATCH, "max_patches": MOST, **options})
