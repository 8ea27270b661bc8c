"""The assembled model and its configuration."""

import dataclasses
import functools
import io
import json
from pathlib import Path
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_trees_close,
    final_norm,
    image_for,
    parameters,
    prefix_of,
    random_array,
    randomise,
    run,
    small_config,
    small_model,
)
from jaxtyping import Array, Float, PRNGKeyArray
from reference import float64, np_layer_norm

import vitrail
from vitrail import (
    HEADS,
    PATCHES,
    POOLS,
    POSITIONS,
    PRESETS,
    Dropout,
    EncoderOptions,
    EncoderSize,
    Execution,
    ViTConfig,
)

KEY = jax.random.key(0)


def shapes_of(name: str, **options: Any) -> Any:
    """A model as shapes: no memory, no weights."""
    return eqx.filter_eval_shape(lambda: vitrail.vit(name, key=KEY, **options))


def count(model: Any) -> int:
    """How many parameters there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(model))


# Sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published"),
    [("Ti/16", 5_717_416), ("S/16", 22_050_664), ("B/16", 86_567_656), ("L/16", 304_326_632), ("H/14", 632_045_800)],
)
def test_presets_have_the_published_number_of_parameters(name: str, published: int) -> None:
    """Of the classifier of 1,000 classes with a class token at 224 pixels."""
    assert count(shapes_of(name, pool="cls", num_classes=1000)) == published


@pytest.mark.parametrize(("name", "options", "millions"), [
    ("g/14", {"pool": "cls", "num_classes": 1000}, 1012.61),  # timm's vit_giant_patch14_224
    ("So400m/14", {"pool": "mean", "head": "none"}, 412.44),  # timm's vit_so400m_patch14_siglip_gap_224
])  # fmt: skip
def test_large_presets_have_the_published_millions_of_parameters(
    name: str, options: dict[str, Any], millions: float
) -> None:
    assert round(count(shapes_of(name, **options)) / 1e6, 2) == millions


def test_presets_are_those_of_the_literature() -> None:
    table = {
        "Ti": (192, 12, 3, 768),
        "S": (384, 12, 6, 1536),
        "B": (768, 12, 12, 3072),
        "L": (1024, 24, 16, 4096),
        "H": (1280, 32, 16, 5120),
        "g": (1408, 40, 16, 6144),
        "So400m": (1152, 27, 16, 4304),
    }
    assert {name: dataclasses.astuple(size) for name, size in PRESETS.items()} == table
    with pytest.raises(TypeError):
        PRESETS["S"] = PRESETS["B"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "image_size", "channels", "grid"),
    [
        ("Ti/16", 224, 3, (14, 14)),
        ("Ti/7", (14, 21), 1, (2, 3)),
        ("Ti/16x8", (32, 64), 4, (2, 8)),
        ("Ti/1x5", (3, 10), 13, (3, 2)),
    ],
)
def test_any_patch_any_image_any_channels(name: str, image_size: Any, channels: int, grid: tuple[int, int]) -> None:
    model = shapes_of(name, image_size=image_size, channels=channels, num_classes=3)
    patch = model.config.patch_size
    assert model.config.grid == grid
    assert model.backbone.patch.weight.shape == (192, channels, *patch)
    assert model.backbone.position.patches.shape == (*grid, 192)
    image = jax.ShapeDtypeStruct((*model.config.image_size, channels), jnp.float32)
    assert eqx.filter_eval_shape(model, image).shape == (3,)
    assert eqx.filter_eval_shape(model.backbone, image).patches.shape == (grid[0] * grid[1], 192)


@pytest.mark.parametrize(
    "name", ["S", "S/", "S/0", "S/-4", "S/16x", "S/16x0", "X/16", "s/16", "ViT-S/16", "S/16.5", ""]
)
def test_name_that_is_no_size_and_patch_is_an_error_that_says_which_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=r"'S/16'.*'S/16x8'.*'Ti', 'S', 'B', 'L', 'H', 'g', 'So400m'.*ViTConfig"):
        vitrail.vit(name, num_classes=2, key=KEY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_size": (9, 12)}, "image_size .*patch_size.*9 x 12.*4 x 4.*VALID.*last partial patch.*resize"),
        ({"image_size": (0, 12)}, "image_size must be positive"),
        ({"patch_size": (0, 4)}, "patch_size must be positive"),
        ({"channels": 0}, "channels must be positive"),
        ({"num_registers": -1}, "num_registers must be at least 0"),
        ({"num_classes": 0}, "num_classes must be a positive"),
        ({"num_classes": None}, "num_classes must be a positive.*head='none'"),
        ({"size": EncoderSize(dim=16, depth=1, num_heads=3, mlp_dim=4)}, "dim=16 and num_heads=3"),
        ({"class_token": False, "pool": "cls"}, "the pool 'cls' reads the class token, got class_token=False"),
        ({"head": "none"}, "num_classes must be None for the head 'none'"),
        ({"position": "rope", "size": EncoderSize(dim=12, depth=1, num_heads=2, mlp_dim=4)}, "head_dim must be"),
        ({"position": "sincos2d", "size": EncoderSize(dim=6, depth=1, num_heads=2, mlp_dim=4)}, "dim must be"),
        ({"patch": "conv_stem", "patch_size": (4, 6)}, "powers of two"),
    ],
)
def test_sizes_that_do_not_fit_are_errors_that_name_them(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 224},
        {"image_size": "224"},
        {"patch_size": (4.0, 4.0)},
        {"channels": "3"},
        {"num_classes": 2.5},
        {"norm_order": "pool-norm"},
        {"init": "xavier"},
        {"encoder": {"qk_norm": True}},
        {"size": (16, 2, 2, 24)},
        {"pool": 3},
        {"class_token": "yes"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_values_of_wrong_types_are_errors_that_name_the_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=rf"^{next(iter(wrong))} of .* must be .*, got "):
        small_config(**wrong)


def test_unknown_option_of_vit_is_an_error() -> None:
    with pytest.raises(TypeError, match="pooling"):
        vitrail.vit("Ti/16", num_classes=2, pooling="mean", key=KEY)  # type: ignore[call-arg]


# Configurations and JSON -----------------------------------------------------------------------------------------


CONFIGS = {
    "default": small_config(),
    "everything": small_config(
        channels=1,
        patch=PATCHES.configure("conv_stem"),
        position=POSITIONS.configure("rope", rule="dinov3", base=50.0),
        pool="max",
        head=HEADS.configure("mlp", hidden_dim=7, activation="gelu_tanh", zero=True),
        norm_order="pool_norm",
        class_token=False,
        encoder=EncoderOptions(
            qkv_bias=False,
            qk_norm=True,
            activation="swiglu",
            norm_eps=1e-5,
            pre_norm=True,
            layer_scale=1e-5,
            bias=False,
            norm="rms",
            post_norm=True,
            attention_norm=True,
            mlp_norm=True,
        ),
        windows=vitrail.WindowOptions(size=3, global_blocks=(1,)),
        neck_dim=8,
        init="big_vision",
        classes=tuple("abcde"),
        preprocess=vitrail.Preprocess("cover", "lanczos", (0.1,), (0.4,), 0.875, "down"),
    ),
    "relative positions": small_config(windows=vitrail.WindowOptions(size=3, global_blocks=(1,), relative_grid=(4, 5))),
    "registers": small_config(num_registers=2),
    "no head": small_config(
        head="none", num_classes=None, position=POSITIONS.configure("learned", covers_prefix=False)
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_json_gives_an_equal_configuration_back(name: str) -> None:
    config = CONFIGS[name]
    again = ViTConfig.from_json(config.to_json())
    assert again == config
    assert hash(again) == hash(config)
    assert again.to_json() == config.to_json()
    json.loads(config.to_json())


def test_everything_above_differs_from_the_default_and_survives() -> None:
    """So that the round trip above tests every field."""
    default, *others = CONFIGS.values()
    required = {"image_size", "patch_size", "size"}
    names = {f.name for f in dataclasses.fields(default)}
    assert {n for n in names if all(getattr(other, n) == getattr(default, n) for other in others)} <= required
    encoders = [config.encoder for config in CONFIGS.values()]
    options = [f.name for f in dataclasses.fields(EncoderOptions)]
    assert not [n for n in options if all(getattr(e, n) == getattr(default.encoder, n) for e in encoders)]


def test_classes_have_one_name_for_each_logit() -> None:
    model = vitrail.vit("Ti/16", num_classes=2, classes=("cat", "dog"), image_size=32, key=KEY)
    assert model.config.classes == ("cat", "dog")
    for num_classes, classes in ((3, ("cat", "dog")), (1, ()), (None, ("cat",))):
        message = f"a name for each of the num_classes={num_classes} classes, got {len(classes)} names"
        with pytest.raises(ValueError, match=message):
            small_config(num_classes=num_classes, classes=classes)
    for _ in range(9):  # beartype looks at one of them
        with pytest.raises(TypeError, match=r"classes .*3"):
            small_config(num_classes=100, classes=("a",) * 99 + (3,))


def test_json_builds_the_same_weights_from_the_same_key() -> None:
    config = small_config(pool="cls", position=POSITIONS.configure("learned", covers_prefix=False))
    build = eqx.filter_jit(lambda config, key: config.build(key=key))
    first, again = build(config, KEY), build(ViTConfig.from_json(config.to_json()), KEY)
    assert eqx.tree_equal(first, again)
    assert not eqx.tree_equal(first, build(config, jax.random.key(1)))


def changed_json(**changes: Any) -> str:
    """The JSON of the default configuration with fields changed; `...` takes one away."""
    fields = json.loads(CONFIGS["default"].to_json()) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ValueError, "must be JSON"),
        ("[1, 2]", ValueError, "ViTConfig must be a JSON object"),
        (changed_json(imagesize=3), ValueError, "ViTConfig has no field 'imagesize'.*'image_size'"),
        ('{"channels": 1, "channels": 3}', ValueError, "each name once, got 'channels' twice"),
        (changed_json(image_size=...), ValueError, "ViTConfig is missing 'image_size'"),
        (changed_json(size={"dim": 8, "depth": 1}), ValueError, "size is missing 'mlp_dim', 'num_heads'"),
        (changed_json(size=7), ValueError, "size must be a JSON object"),
        (changed_json(encoder={"dropuot": 0.1}), ValueError, "encoder has no field 'dropuot'"),
        (changed_json(pool={"name": "mean", "option": {}}), ValueError, "pool has no field 'option'"),
        (changed_json(pool={"options": {}}), ValueError, "pool is missing 'name'"),
        (changed_json(pool={"name": "mean", "options": 3}), ValueError, "options of pool must be a JSON object"),
        (changed_json(channels="3"), TypeError, "^channels of "),
        (changed_json(image_size=[8]), TypeError, "^image_size of "),
        (changed_json(image_size=[8, 12, 3]), TypeError, "^image_size of "),
        (changed_json(image_size=[8.0, 12.0]), TypeError, "^image_size of "),
        (changed_json(pool=3), TypeError, "^pool of "),
        (changed_json(pool={"name": 3}), TypeError, "^name of "),
        (changed_json(encoder={"norm_eps": "0.1"}), TypeError, "^norm_eps of "),
        (changed_json(encoder={"pre_norm": 1}), TypeError, "^pre_norm of "),
        (changed_json(init="xavier"), TypeError, "^init of "),
        (changed_json(image_size=[9, 12]), ValueError, "VALID"),
    ],
)
def test_json_that_does_not_fit_is_an_error_that_names_the_field(text: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ViTConfig.from_json(text)


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        ("meen", vitrail.UnknownPartError, "did you mean 'mean'"),
        ({"name": "mean", "options": {"temperature": 1}}, vitrail.OptionError, "no option 'temperature'"),
    ],
)
def test_json_that_names_a_part_or_an_option_that_there_is_not(part: Any, error: type, message: str) -> None:
    """Where it is built at the latest."""
    with pytest.raises(error, match=message):
        ViTConfig.from_json(changed_json(pool=part)).build(key=KEY)


@pytest.mark.parametrize("part", [vitrail.MeanPool, functools.partial(vitrail.MeanPool)])
def test_json_refuses_code(part: Any) -> None:
    with pytest.raises(ValueError, match=r"pool must be a registered name to be written as JSON.*entry point"):
        small_config(pool=part).to_json()


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIGS["default"].channels = 4  # type: ignore[misc]


# Parts -----------------------------------------------------------------------------------------------------------


@final
class SumPool(vitrail.AbstractPool):
    """A stranger's pool, twice as wide as its tokens."""

    scale: Float[Array, ""]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, factor: float = 1.0, key: PRNGKeyArray):
        self.scale = jnp.asarray(factor)
        self.out_dim = 2 * dim

    def __call__(self, tokens: vitrail.Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        total = tokens.patches.sum(axis=0)
        return jnp.concatenate([total, total]) * self.scale


def make_mean_pool(dim: int, *, key: PRNGKeyArray) -> vitrail.AbstractPool:
    """A factory that is a function."""
    return vitrail.MeanPool(dim)


def test_a_part_is_given_as_name_spec_class_function_or_partial() -> None:
    choices: list[Any] = ["mean", vitrail.PartSpec("mean"), POOLS.configure("mean"), POOLS["mean"], vitrail.MeanPool]
    choices += [make_mean_pool, functools.partial(vitrail.MeanPool), functools.partial(make_mean_pool)]
    image = image_for(small_model())
    logits = [run(small_model(pool=choice), image) for choice in choices]
    assert all(np.array_equal(logits[0], other) for other in logits)


@pytest.mark.parametrize("norm_order", ["norm_pool", "pool_norm"])
def test_a_strangers_pool_tells_the_head_and_the_norm_its_width(norm_order: Any) -> None:
    model: Any = small_model(pool=functools.partial(SumPool, factor=2.0), norm_order=norm_order)
    assert model.readout.head.linear.weight.shape == (5, 32)
    assert final_norm(model).weight.shape == ((16,) if norm_order == "norm_pool" else (32,))
    assert run(model, image_for(model)).shape == (5,)
    built: Any = eqx.filter_jit(small_config(pool=functools.partial(SumPool, factor=2.0)).build)(key=KEY)
    assert float(built.readout.pool.scale) == 2.0


@pytest.mark.parametrize(
    ("field", "part"),
    [
        ("patch", vitrail.ConvPatchEmbed(16, patch_size=(4, 4), channels=3, key=KEY)),
        ("position", vitrail.NoPosition()),
        ("pool", vitrail.MeanPool(16)),
        ("head", vitrail.LinearHead(16, num_classes=5, key=KEY)),
    ],
)
def test_an_instance_instead_of_a_class_is_an_error_that_says_so(field: str, part: Any) -> None:
    with pytest.raises(TypeError, match=rf"instance of {type(part).__name__}: pass the class.*functools.partial"):
        small_config(**{field: part}).build(key=KEY)


@pytest.mark.parametrize("field", ["patch", "position", "pool", "head"])
def test_a_class_of_another_kind_is_an_error_that_names_the_contract(field: str) -> None:
    wrong = vitrail.MeanPool if field != "pool" else vitrail.LinearHead
    contract = {"patch": "PatchEmbed", "position": "Position", "pool": "Pool", "head": "Head"}[field]
    with pytest.raises(TypeError, match=rf"extends vitrail.Abstract{contract}"):
        small_config(**{field: wrong}).build(key=KEY)


def test_a_factory_that_makes_something_else_is_an_error_that_says_what() -> None:
    def wrong(dim: int) -> Any:
        return eqx.nn.Identity()

    with pytest.raises(TypeError, match=r"vitrail.AbstractPool, got Identity"):
        small_config(pool=wrong).build(key=KEY)


def test_a_factory_of_another_signature_is_an_error_that_says_which() -> None:
    def wrong(width: int) -> vitrail.AbstractPool:
        return vitrail.MeanPool(width)

    with pytest.raises(TypeError, match=r"width"):
        small_config(pool=wrong).build(key=KEY)


def test_a_partial_with_an_unknown_option_is_an_error_that_names_it() -> None:
    with pytest.raises(TypeError, match=r"temperature|partial object"):
        small_config(pool=functools.partial(vitrail.MeanPool, temperature=1.0)).build(key=KEY)


@final
class TransposedPatches(vitrail.AbstractPatchEmbed):
    """A wrong patch embedding: as many tokens as there should be, but columns first."""

    inner: vitrail.ConvPatchEmbed
    patch_size: tuple[int, int] = eqx.field(static=True)
    extra: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        patch_size: tuple[int, int],
        channels: int,
        init: vitrail.Init,
        key: PRNGKeyArray,
        extra: int = 0,
        transpose: bool = True,
    ):
        self.inner = vitrail.ConvPatchEmbed(dim + extra, patch_size=patch_size, channels=channels, key=key)
        self.patch_size = patch_size
        self.extra = extra

    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, "cols rows dim"]:
        grid = self.inner(image)
        return grid if self.extra else grid.transpose(1, 0, 2)

    def resized(self, patch_size: tuple[int, int]) -> vitrail.AbstractPatchEmbed:
        raise NotImplementedError

    def with_channels(self, mix: Float[Array, "new_channels channels"]) -> vitrail.AbstractPatchEmbed:
        raise NotImplementedError


@pytest.mark.parametrize("extra", [0, 4])
def test_a_patch_embedding_of_another_grid_or_width_is_an_error_that_names_it(extra: int) -> None:
    model = small_model(patch=functools.partial(TransposedPatches, extra=extra))
    with pytest.raises((ValueError, TypeError), match=r"(?i)patch.*\b(grid|dim|width|shape)"):
        run(model, image_for(model))


# Class token, registers, order of norm and pool ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({}, 0),
        ({"pool": "cls"}, 1),
        ({"class_token": True}, 1),
        ({"num_registers": 3}, 3),
        ({"pool": "cls", "num_registers": 2}, 3),
        ({"pool": "none", "class_token": True}, 1),
    ],
)
def test_prefix_tokens_are_as_many_as_the_options_say(options: dict[str, Any], prefix: int) -> None:
    model: Any = small_model(**options)
    assert prefix_of(model.backbone).shape == (prefix, 16)
    assert prefix_of(model.backbone.position).shape == (prefix, 16)
    tokens = run(model.backbone, image_for(model))
    assert tokens.prefix.shape == (prefix, 16)
    assert tokens.patches.shape == (6, 16)
    assert tokens.grid == (2, 3)
    expected = (prefix + 6, 5) if options.get("pool") == "none" else (5,)
    assert run(model, image_for(model)).shape == expected


def test_the_class_token_is_first_and_registers_follow() -> None:
    config = small_config(pool="cls", num_registers=2, init="big_vision")
    model = eqx.filter_jit(config.build)(key=KEY)
    # big_vision's class token is zero and its registers are not, which tells them apart.
    assert not np.asarray(prefix_of(model.backbone)[0]).any()
    assert np.asarray(prefix_of(model.backbone)[1:]).all()


def test_registers_alone_are_no_class_token() -> None:
    """A pool that reads the class token without declaring it must not get a register instead."""
    model = small_model(num_registers=2, class_token=False)
    tokens = run(model.backbone, image_for(model))
    assert tokens.class_token is None
    with pytest.raises(ValueError, match="reads the class token, got tokens without one"):
        vitrail.ClassTokenPool(16)(tokens)


@pytest.mark.parametrize("pool", ["mean", "max", "cls"])
@pytest.mark.parametrize("norm_order", ["norm_pool", "pool_norm"])
def test_norm_and_pool_act_in_the_order_that_was_asked_for(norm_order: Any, pool: str) -> None:
    # The twin of the same weights whose norm comes last shows the tokens before the norm.
    model, raw = (small_model(pool=pool, norm_order=o, class_token=True) for o in (norm_order, "pool_norm"))
    image = image_for(model)
    before, after = run(raw.backbone, image), run(model.backbone, image)
    last = run(model.backbone.activations, image, layers=(-1,), form="patches")["tokens"]
    assert_close(before.patches, last[0])

    def norm(x: np.ndarray) -> np.ndarray:
        return np_layer_norm(x, float64(final_norm(model).weight), float64(final_norm(model).bias), 1e-6)

    def pooled(prefix: np.ndarray, patches: np.ndarray) -> np.ndarray:
        return {"mean": patches.mean(axis=0), "max": patches.max(axis=0), "cls": prefix[0]}[pool]

    prefix, patches = float64(before.prefix), float64(before.patches)
    if norm_order == "norm_pool":
        assert_close(after.patches, norm(patches), tolerance=2e-5)
        assert_close(after.prefix, norm(prefix), tolerance=2e-5)
        x = pooled(norm(prefix), norm(patches))
    else:
        x = norm(pooled(prefix, patches))
    head: Any = model.readout.head
    expected = float64(head.linear.weight) @ x + float64(head.linear.bias)
    assert_close(run(model, image), expected, tolerance=3e-5)


def test_the_two_orders_differ() -> None:
    first, second = (small_model(norm_order=order) for order in ("norm_pool", "pool_norm"))
    assert np.abs(run(first, image_for(first)) - run(second, image_for(second))).max() > 1e-3


# Execution -------------------------------------------------------------------------------------------------------


def test_execution_changes_in_one_line_and_keeps_the_arrays() -> None:
    model = small_model(pool="cls", dropout=Dropout(0.1))
    image = image_for(model)
    executions = [
        Execution(scan=False),
        Execution(remat="blocks"),
        Execution(attention="plain"),
        Execution(attention=2),
        Execution(compute_dtype="bfloat16"),
    ]
    for execution in executions:
        other = model.with_execution(execution)
        assert other.backbone.execution == execution
        assert other.config == model.config
        for ours, theirs in zip(jax.tree.leaves(model), jax.tree.leaves(other), strict=True):
            assert ours is theirs
        exact = execution.compute_dtype == "float32"
        assert_close(run(other, image), run(model, image), tolerance=2e-5 if exact else 0.1)
        twin = model.config.build(execution=execution, dropout=Dropout(0.1), key=KEY)
        assert jax.tree.structure(twin) == jax.tree.structure(other)
        assert model.resized((16, 20)).with_execution(execution).resized((8, 12)).backbone.execution == execution
        assert vitrail.replace(other, pool="mean", key=KEY).backbone.execution == execution


def test_execution_and_dropout_are_in_no_file(tmp_path: Path) -> None:
    half, dropout = Execution(compute_dtype="bfloat16", scan=False), Dropout(0.1, 0.2)
    model = small_model(execution=half, dropout=dropout)
    vitrail.save(model, tmp_path / "model.safetensors")
    plain = vitrail.load(tmp_path / "model.safetensors").backbone
    assert (plain.execution, plain.dropout) == (Execution(), Dropout())
    assert eqx.tree_equal(vitrail.load(tmp_path / "model.safetensors", execution=half, dropout=dropout), model)
    assert not any(field in model.config.to_json() for field in ("scan", "remat", "compute_dtype", "drop"))


@pytest.mark.parametrize("options", [
    {"pool": "mean", "class_token": False},
    {"pool": "cls", "num_registers": 1, "head": "mlp", "norm_order": "pool_norm", "patch": "conv_stem"},
])  # fmt: skip
def test_gradient_reaches_every_parameter(options: dict[str, Any]) -> None:
    model = small_model(**options)
    gradient = run(eqx.filter_grad(lambda m, x: jax.nn.logsumexp(m(x)) - m(x)[0]), model, image_for(model))
    assert parameters(gradient).keys() == parameters(model).keys()
    for path, array in parameters(gradient).items():
        assert jnp.isfinite(array).all(), path
        assert jnp.any(array != 0), path


# Sizes of images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (jnp.ones((12, 8, 3)), ValueError, r"8 x 12.*got 12 x 8: .*jax.image.resize.*model.resized\(\(12, 8\)\)"),
        (jnp.ones((16, 24, 3)), ValueError, r"model.resized\(\(16, 24\)\)"),
        (jnp.ones((8, 12, 1)), ValueError, r"3 channels.*channels=1"),
        (jnp.ones((3, 8, 12)), ValueError, "channels are last.*moveaxis"),
        (jnp.ones((8, 12)), ValueError, r"three axes.*image\[\.\.\., None\]"),
        (jnp.ones((2, 8, 12, 3)), ValueError, r"jax.vmap\(model\)\(images\)"),
        (jnp.ones((8, 12, 3), jnp.uint8), TypeError, "floating point.*uint8.*/ 255"),
        (
            [[[1.0] * 3] * 12] * 8,
            TypeError,
            r"^image of .* array of shape \(8, 12, 3\), got a nested list of 8 x 12 x 3 items: .*preprocess",
        ),
    ],
)
@pytest.mark.parametrize("method", ["__call__", "embed", "activations"])
def test_images_that_do_not_fit_are_errors_that_say_how_to_mend_them(
    method: str, image: Any, error: type, message: str
) -> None:
    model = small_model()
    call = model if method == "__call__" else getattr(model.backbone, method)
    with pytest.raises(error, match=message):
        call(image)


def test_images_in_numpy_are_taken_whatever_their_floating_dtype() -> None:
    model = small_model()
    image = image_for(model)
    expected = run(model, image)
    assert_close(run(model, np.asarray(image)), expected)
    assert_close(model(np.asarray(image, np.float64)), expected)  # NumPy's default


def test_other_floating_dtypes_of_images_are_taken() -> None:
    model = small_model()
    image = image_for(model).astype(jnp.bfloat16)
    assert_close(run(model, image), run(model, image.astype(jnp.float32)))


@pytest.mark.parametrize("position", ["learned", "factorized", "sincos2d", "rope", "none"])
def test_resized_takes_images_of_the_new_size_and_keeps_the_rest(position: str) -> None:
    model = small_model(position=position, pool="cls")
    larger = model.resized((16, 20))
    assert larger.config == dataclasses.replace(model.config, image_size=(16, 20))
    image = random_array(16, 20, 3)
    assert run(larger, image).shape == (5,)
    assert run(larger.backbone, image).grid == (4, 5)
    assert run(model, image_for(model)).shape == (5,)  # the old one is as it was
    assert eqx.tree_equal(larger.readout, model.readout)
    for field in ("patch", "class_token", "encoder", "norm"):
        assert eqx.tree_equal(getattr(larger.backbone, field), getattr(model.backbone, field)), field
    assert larger.backbone.encoder.stack.mlp.hidden.weight is model.backbone.encoder.stack.mlp.hidden.weight


def test_resized_to_its_own_size_is_the_same_model_and_one_number_is_a_square() -> None:
    model = small_model()
    assert eqx.tree_equal(model.resized((8, 12)), model)
    assert model.resized(8).config.image_size == (8, 8)


@pytest.mark.parametrize("size", [(9, 12), 7, (0, 12), (-8, 12)])
def test_resized_to_a_size_that_does_not_fit_is_an_error(size: Any) -> None:
    with pytest.raises(ValueError, match="image_size must be"):
        small_model().resized(size)


# Precision, PyTree -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {},
    {"pool": "cls", "position": "rope", "norm_order": "pool_norm", "patch": "conv_stem", "head": "mlp"},
    {"pool": "max", "position": "sincos2d", "num_registers": 2,
     "patch": PATCHES.configure("conv", implementation="matmul")},
    {"pool": "none", "position": "factorized", "encoder": EncoderOptions(activation="swiglu", qk_norm=True)},
])  # fmt: skip
def test_bfloat16_keeps_parameters_and_logits_in_float32_and_is_near(options: dict[str, Any]) -> None:
    wide, narrow = small_model(**options), small_model(**options, execution=Execution(compute_dtype="bfloat16"))
    image = image_for(wide)
    assert_trees_close(wide.backbone.encoder, narrow.backbone.encoder, tolerance=0)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(narrow)} == {"float32"}
    expected, logits = run(wide, image), run(narrow, image)
    assert logits.dtype == jnp.float32
    assert not np.array_equal(expected, logits)  # it did compute in bfloat16
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(logits, expected, atol=0.06 * scale)
    assert run(narrow.backbone, image).patches.dtype == jnp.bfloat16


def test_a_model_is_a_pytree_of_float32_arrays() -> None:
    model = small_model(encoder=EncoderOptions(layer_scale=0.1, qk_norm=True), head="mlp", pool="cls")
    leaves, structure = jax.tree.flatten(model)
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in leaves)
    hash(structure)
    assert eqx.tree_equal(jax.tree.unflatten(structure, leaves), model)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, model)
    file.seek(0)
    like = eqx.filter_eval_shape(lambda: model.config.build(key=KEY))
    assert eqx.tree_equal(eqx.tree_deserialise_leaves(file, like), model)


def test_blocks_of_a_model_are_a_view() -> None:
    model = small_model()
    assert len(model.blocks) == 2
    assert np.array_equal(model.blocks[1].mlp.hidden.weight, model.backbone.encoder.stack.mlp.hidden.weight[1])


def test_key_turns_on_what_is_random_and_none_is_inference() -> None:
    model = small_model(dropout=Dropout(0.5, 0.5))
    quiet, image = small_model(), image_for(model)
    assert np.array_equal(run(model, image), run(quiet, image))
    first, again, other = (run(model, image, key=jax.random.key(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    changed = quiet.with_dropout(model.backbone.dropout)
    assert eqx.tree_equal(changed, model)
    assert changed.config == quiet.config


def test_one_compilation_serves_all_weights_and_images_of_a_size() -> None:
    traces = 0

    @eqx.filter_jit
    def forward(model: vitrail.ViT, image: jax.Array, key: jax.Array | None) -> jax.Array:
        nonlocal traces
        traces += 1
        return model(image, key=key)

    for seed in range(3):
        model = randomise(lambda: small_config().build(key=KEY), seed=seed)  # equal configurations, built anew
        forward(model, image_for(model, seed=seed), None)
    assert traces == 1


def test_models_train_data_parallel_over_two_devices() -> None:
    """Batches sharded over the two forced devices give the gradients of one."""
    model, images = small_model(), random_array(4, 8, 12, 3)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(images, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    replicated = eqx.filter_shard(model, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m, xs: jnp.mean(jax.vmap(m)(xs) ** 2)))
    assert len(sharded.devices()) == 2
    assert_trees_close(gradient(replicated, sharded), gradient(model, images), tolerance=5e-5)


@final
class LosesPatches(vitrail.AbstractPosition):
    def __init__(
        self, dim: int, *, grid: Any, class_token: bool, num_registers: int, head_dim: int, init: Any, key: Any
    ):
        pass

    def __call__(self, tokens: vitrail.Tokens) -> vitrail.Tokens:
        return vitrail.Tokens(tokens.patches[:2], (1, 2), class_token=tokens.class_token, registers=tokens.registers)

    def in_attention(self, tokens: vitrail.Tokens) -> None:
        return None

    def resized(self, grid: tuple[int, int]) -> "LosesPatches":
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "LosesPatches":
        return self

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "LosesPatches":
        return self


def test_a_position_that_loses_patches_is_an_error_that_names_it() -> None:
    model = small_model(position=LosesPatches)
    with pytest.raises(ValueError, match="position embedding LosesPatches must return as many tokens as it gets"):
        run(model, image_for(model))
