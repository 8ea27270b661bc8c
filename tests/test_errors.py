"""Errors of calls: one sentence that names the function, the argument, what was expected and what to do; never long."""

import ast
import copy
import dataclasses
import enum
import functools
import importlib
import inspect
import json
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import PIL.Image
import pytest
import wrong_parts
import wrong_pools
from helpers import make_row, small_config, small_model
from jaxtyping import Array, Float

import vitrail
from vitrail._extras import require
from vitrail._typecheck import check
from vitrail.images import Dataset, Examples, Preprocess

KEY = jax.random.key(0)
ROOMS = ("images", "train", "weights", "lab", "show", "testing")
MOST_LINES = 11
MOST_CHARACTERS = 400
"""Of one line: a jaxtyping message about a small model has thousands."""


def make_tensor() -> Any:
    """What only looks like a tensor of PyTorch, which need not be installed."""

    class Tensor:
        shape = (3, 8, 12)

    Tensor.__module__ = "torch"
    return Tensor()


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(TypeError) as caught:
        call()
    assert isinstance(caught.value, vitrail.CallError)
    return str(caught.value)


def assert_short(message: str) -> None:
    assert len(message.splitlines()) <= MOST_LINES
    assert max(map(len, message.splitlines())) <= MOST_CHARACTERS
    assert "{self" not in message
    assert "jaxlib" not in message


# Images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "got", "advice"),
    [
        (np.zeros((224, 224, 3)).tolist(), "a nested list of 224 x 224 x 3 items", "preprocess"),
        (PIL.Image.new("RGB", (12, 8)), "a Pillow picture of 12 x 8 pixels", "preprocess(image)"),
        (
            make_tensor(),
            "a PyTorch tensor of shape (3, 8, 12)",
            "image.movedim(-3, -1).numpy()), or a picture: convert it with vitrail.model_card(model).preprocess(image)",
        ),
        ("cat.jpg", "the string 'cat.jpg'", "PIL.Image.open"),
        (Path("cat.jpg"), "a PosixPath", "PIL.Image.open"),
        (small_model(), "a vitrail.ViT", "pass an image"),
        (
            vitrail.Tokens(jnp.zeros((6, 16)), (2, 3)),
            "vitrail.Tokens with patches float32 (6, 16)",
            "model.readout(tokens)",
        ),
        (None, "None", ""),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("method", ["__call__", "embed", "activations"])
def test_what_is_no_image_is_described_in_one_sentence(method: str, image: Any, got: str, advice: str) -> None:
    model = small_model()
    function = model if method == "__call__" else getattr(model.backbone, method)
    owner = "ViT" if method == "__call__" else "Backbone"
    message = message_of(lambda: function(image))
    assert_short(message)
    sentence = message.splitlines()[0]
    expected = f"image of vitrail.{owner}.{method}() must be one image, an array of shape (8, 12, 3), got {got}"
    assert sentence.startswith(expected)
    assert advice in sentence


@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (2, 3, 8, 12)])
def test_a_batch_where_one_image_belongs_names_vmap(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one image \(height, width, channels\), got shape .*jax.vmap\(model\)"):
        small_model()(jnp.zeros(shape))


def test_a_batch_where_one_example_belongs_names_vmap() -> None:
    block = small_model().blocks[0]
    message = message_of(lambda: block.attention(jnp.zeros((2, 6, 16))))
    assert message.splitlines()[0].endswith(
        "must have shape (queries, dim), got (2, 6, 16): pass one at a time, with jax.vmap over the first axis"
    )


# Keys ------------------------------------------------------------------------------------------------------------


def build(**options: Any) -> Any:
    return vitrail.vit("S/16", num_classes=3, **options)


@pytest.mark.parametrize(
    ("key", "got"),
    [(0, "the int 0: pass key=jax.random.key(0)"), (7, "the int 7: pass key=jax.random.key(7)"),
     (None, "None: pass key=jax.random.key(0)"), (0.5, "the float 0.5: pass key=jax.random.key(0)"),
     (np.int64(3), "the int64 3: pass key=jax.random.key(3)"),
     (jax.random.split(KEY, 3), "an array of PRNG keys of shape (3,): pass one key of them")],
    ids=str,
)  # fmt: skip
def test_what_is_no_key_is_an_error_that_shows_one(key: Any, got: str) -> None:
    message = message_of(lambda: build(key=key))
    assert message.startswith(f"key of vitrail.vit() must be a PRNG key, got {got}")
    assert_short(message)


def test_keys_of_both_kinds_are_taken() -> None:
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        assert len(small_config().build(key=key).blocks) == 2


def test_a_missing_key_names_the_function_and_what_it_is_for() -> None:
    for call, name in ((build, "vit"), (lambda: small_config().build(), "ViTConfig.build")):  # type: ignore[call-arg]
        needs = f"vitrail.{name}() needs key (a PRNG key, the random key of the weights)"
        assert message_of(call) == f"{needs}: pass key=jax.random.key(0)"
    with pytest.raises(
        ValueError, match=r"^vitrail\.load\(\) and vitrail\.replace\(\) need a key for new weights, got"
    ):
        vitrail.replace(small_model(), pool="cls")
    message = message_of(lambda: vitrail.AttentionPool(16))  # type: ignore[call-arg]
    assert message.startswith("vitrail.AttentionPool() needs key (a PRNG key, the random key of the weights)")


# Unknown arguments, and where they go -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(drop_path=0.1, key=KEY),
         "vitrail.vit() has no argument drop_path: pass dropout=vitrail.Dropout(drop_path=0.1)"),
        (lambda: build(drop_path_rate=0.1, key=KEY),
         "vitrail.vit() has no argument drop_path_rate: pass dropout=vitrail.Dropout(drop_path=0.1)"),
        (lambda: build(qkv_bias=False, key=KEY),
         "vitrail.vit() has no argument qkv_bias: pass encoder=vitrail.EncoderOptions(qkv_bias=False)"),
        (lambda: build(scan=False, key=KEY),
         "vitrail.vit() has no argument scan: pass execution=vitrail.Execution(scan=False)"),
        (lambda: build(img_size=224, key=KEY), "vitrail.vit() has no argument img_size: vitrail calls it image_size"),
        (lambda: build(registers=4, key=KEY), "vitrail.vit() has no argument registers: did you mean num_registers?"),
        (lambda: build(rng=KEY), "vitrail.vit() has no argument rng: vitrail calls it key"),
        (lambda: vitrail.load("x.safetensors", drop_path=0.2),  # type: ignore[call-arg]
         "vitrail.load() has no argument drop_path: pass dropout=vitrail.Dropout(drop_path=0.2)"),
        (lambda: vitrail.replace(small_model(), drop_path=0.1, key=KEY),  # type: ignore[call-arg]
         "vitrail.replace() has no argument drop_path: use model.with_dropout(vitrail.Dropout(drop_path=0.1))"),
        (lambda: vitrail.replace(small_model(), execution=vitrail.Execution(), key=KEY),  # type: ignore[call-arg]
         "vitrail.replace() has no argument execution: use model.with_execution(vitrail.Execution(...))"),
        (lambda: vitrail.replace(small_model(), image_size=32, key=KEY),  # type: ignore[call-arg]
         "vitrail.replace() has no argument image_size: use model.resized(image_size)"),
        (lambda: small_model().with_dropout(drop_path=0.1),  # type: ignore[call-arg]
         "vitrail.ViT.with_dropout() has no argument drop_path: pass dropout=vitrail.Dropout(drop_path=0.1)"),
        (lambda: small_model().with_execution(compute_dtype="bfloat16"),  # type: ignore[call-arg]
         "vitrail.ViT.with_execution() has no argument compute_dtype: "
         "pass execution=vitrail.Execution(compute_dtype='bfloat16')"),
        (lambda: vitrail.MeanPool(8, foo=4),  # type: ignore[call-arg]
         "vitrail.MeanPool() has no argument foo: its arguments are dim, include_prefix"),
        (lambda: vitrail.vit("S/16", 10, key=KEY),  # type: ignore[misc]
         "vitrail.vit() takes 1 without a name (name), got 2: pass the others by name (num_classes=, "),
        (lambda: vitrail.vit("S/16", name="B/16", key=KEY),  # type: ignore[misc]
         "vitrail.vit() got name twice: pass it by its place or by its name, not both"),
    ],
)  # fmt: skip
def test_an_argument_that_a_function_does_not_have_says_where_it_goes(call: Callable[[], object], message: str) -> None:
    found = message_of(call)
    assert found.startswith(message)
    assert_short(found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(dropout=0.1, key=KEY),
         "dropout of vitrail.vit() must be a vitrail.Dropout, got the float 0.1: "
         "pass dropout=vitrail.Dropout(rate=0.1) or dropout=vitrail.Dropout(drop_path=0.1)"),
        (lambda: small_model().with_dropout(0.1),  # type: ignore[arg-type]
         "dropout of vitrail.ViT.with_dropout() must be a vitrail.Dropout, got the float 0.1: pass dropout=vitrail."),
        (lambda: small_model().with_execution("bfloat16"),  # type: ignore[arg-type]
         "execution of vitrail.ViT.with_execution() must be a vitrail.Execution, got the string 'bfloat16': "
         "pass execution=vitrail.Execution(compute_dtype='bfloat16')"),
        (lambda: build(encoder={"qk_norm": True}, key=KEY),
         "encoder of vitrail.vit() must be a vitrail.EncoderOptions, got a dict with the keys 'qk_norm': "
         "pass encoder=vitrail.EncoderOptions(qk_norm=True)"),
        (lambda: vitrail.Execution(scan="yes"),  # type: ignore[arg-type]
         "scan of vitrail.Execution() must be a bool, got the string 'yes': pass True or False"),
        (lambda: vitrail.Execution(remat="block"),  # type: ignore[arg-type]
         "remat of vitrail.Execution() must be 'products', 'attention' or 'blocks', got the string 'block': "
         "did you mean 'blocks'?"),
        (lambda: build(norm_order="pool-norm", key=KEY),
         "norm_order of vitrail.vit() must be 'norm_pool', 'pool_norm' or 'none', got the string 'pool-norm': "
         "did you mean 'pool_norm'?"),
        (lambda: vitrail.vit("S/16", num_classes=np.int64(3), key=KEY),  # type: ignore[arg-type]
         "num_classes of vitrail.vit() must be an int or None, got the int64 3: pass int(num_classes)"),
        (lambda: vitrail.vit("S/16", num_classes="3", key=KEY),  # type: ignore[arg-type]
         "num_classes of vitrail.vit() must be an int or None, got the string '3': pass 3 without quotes"),
        (lambda: build(image_size=[224, 224], key=KEY),
         "image_size of vitrail.vit() must be an int or a tuple of 2 ints, got the list [224, 224]: "
         "pass (224, 224), a tuple"),
        (lambda: small_model().backbone.activations(jnp.zeros((8, 12, 3)), layers=3),  # type: ignore[arg-type]
         "layers of vitrail.Backbone.activations() must be a sequence of int or None, got the int 3: pass (3,)"),
        (lambda: small_model().resized(16.0),  # type: ignore[arg-type]
         "image_size of vitrail.ViT.resized() must be an int or a tuple of 2 ints, got the float 16.0: pass 16"),
        (lambda: vitrail.EncoderOptions(activation="swishglu"),  # type: ignore[arg-type]
         "activation of vitrail.EncoderOptions() must be 'gelu', 'gelu_tanh', 'quick_gelu', 'relu', 'silu', 'tanh' or "
         "'swiglu', got the string 'swishglu': did you mean 'swiglu'?"),
        (lambda: vitrail.replace("S/16", pool="max", key=KEY),  # type: ignore[arg-type]
         "model must be a ViT or a Dense, got the string 'S/16': pass one that was built or loaded, as the image model "
         "of a system, model.image"),
        (lambda: vitrail.save("x.safetensors", small_model()),  # type: ignore[arg-type]
         "model of vitrail.save() must be a vitrail.weights.Configured, got the string 'x.safetensors': "
         "model and path are in each other's place"),
        (lambda: small_model().readout(jnp.zeros((6, 16))),  # type: ignore[arg-type]
         "tokens of vitrail.Readout.__call__() must be a vitrail.Tokens, got a float32 array of shape (6, 16): "
         "pass model.backbone(image)"),
        (lambda: small_model().backbone.activations(jnp.zeros((8, 12, 3)), at=(3,)),  # type: ignore[list-item]
         "at of vitrail.Backbone.activations() must be a sequence of str, got the int 3 as item 0"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_an_error_that_says_what_to_pass(call: Callable[[], object], message: str) -> None:
    found = message_of(call)
    assert found.startswith(message)
    assert_short(found)


def test_an_unknown_pool_suggests_the_one_that_was_meant() -> None:
    with pytest.raises(vitrail.UnknownPartError, match="there is no pool 'men': did you mean 'mean'"):
        build(pool="men", key=KEY)


def make_config(part: Any) -> vitrail.ViTConfig:
    return dataclasses.replace(small_config(), pool=part)


BOUND = functools.partial(vitrail.MeanPool, nonsense=jnp.zeros((50, 50)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_config(small_model()).build(key=KEY), "got an instance of ViT: pass the class"),
        (lambda: make_config(BOUND).build(key=KEY),
         "got a functools.partial of the class vitrail.MeanPool: it has no argument 'nonsense'"),
        (lambda: make_config(BOUND).to_json(),
         "got a functools.partial of the class vitrail.MeanPool: register the part"),
        (lambda: make_config(vitrail.Linear).build(key=KEY), "got the class vitrail.Linear"),
        (lambda: vitrail.ViTConfig.from_json(f'{{"image_size": [8, 8], "patch_size": [4, 4], "size": {[0] * 5000}}}'),
         "size must be a JSON object with 'dim', 'depth', 'num_heads', 'mlp_dim', got a list of 5000 items"),
    ],
)  # fmt: skip
def test_a_part_that_is_none_is_described_and_not_printed(call: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)) as caught:
        call()
    assert_short(str(caught.value))


# Shapes ----------------------------------------------------------------------------------------------------------


def test_shapes_are_compared_in_numbers() -> None:
    head = vitrail.LinearHead(16, num_classes=2, key=KEY)
    message = message_of(lambda: head(jnp.zeros(5)))
    assert message.startswith("x of vitrail.LinearHead.__call__() must have shape (*tokens, 16), got (5,)")
    assert 'Float[Array, "*tokens 16"]' in message
    attention = vitrail.Attention(16, 2, init=vitrail.TRUNC_NORMAL, key=KEY)
    message = message_of(lambda: attention(jnp.zeros((3, 16)), jnp.zeros((5, 8))))
    assert message.startswith("context of vitrail.Attention.__call__() must have shape (tokens, 16), got (5, 8)")


@pytest.mark.parametrize("pool", [vitrail.AttentionPool(8, num_heads=2, key=KEY), vitrail.MeanPool(8)], ids=str)
def test_a_pool_of_the_wrong_width_is_named_with_both_widths(pool: Any) -> None:
    model = small_model()
    tokens = model.backbone(jnp.zeros((8, 12, 3)))
    wrong = vitrail.Readout(pool, None, vitrail.LinearHead(8, num_classes=2, key=KEY))
    for function in (pool, wrong, jax.jit(lambda tokens: pool(tokens))):
        message = message_of(lambda function=function: function(tokens))
        sentence = message.splitlines()[0]
        assert sentence.startswith(f"the pool vitrail.{type(pool).__name__} ")
        assert " 8 channels" in sentence
        assert "tokens of 16: build it with dim=16" in sentence
        assert_short(message)


def test_a_pool_and_a_head_that_do_not_fit_are_both_named() -> None:
    model = small_model(pool="mean")
    wrong = eqx.tree_at(lambda m: m.readout.pool, model, vitrail.MeanPool(8))
    with pytest.raises(
        ValueError, match=r"the head LinearHead reads 16 channels, got the pool MeanPool that returns 8"
    ):
        wrong(jnp.zeros((8, 12, 3)))


PARTS: list[tuple[dict[str, Any], str]] = [
    ({"pool": wrong_pools.pool(lambda pool, tokens, key: 3)},
     "the pool Wrong must return vectors of out_dim=16 channels, got the int 3: fix that class"),
    ({"pool": wrong_pools.pool(lambda pool, tokens, key: None)},
     "the pool Wrong must return vectors of out_dim=16 channels, got None: fix that class"),
    ({"pool": wrong_pools.pool(lambda pool, tokens, key: np.zeros(16, np.float32))},
     "the pool Wrong must return vectors of out_dim=16 channels, got a NumPy float32 array of shape (16,): fix"),
    ({"pool": wrong_pools.pool(lambda pool, tokens, key: jnp.zeros(3))},
     "the pool Wrong must return vectors of out_dim=16 channels, got shape (3,): fix that class"),
    ({"head": wrong_parts.head(lambda inner, x, key: 3)},
     "the head Wrong must return logits of shape (5,), got the int 3: fix that class"),
    ({"head": wrong_parts.head(lambda inner, x, key: x)},
     "the head Wrong must return logits of shape (5,), got shape (16,): fix that class"),
    ({"patch": wrong_parts.patches(lambda inner, image: 3)},
     "the patch embedding Wrong must return (rows, cols, dim) = (2, 3, 16), got the int 3: fix that class"),
    ({"position": wrong_parts.learned(call=lambda inner, tokens: 3)},
     "the position embedding Wrong must return as many tokens as it gets, in their dtype, got the int 3 for"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "message"), PARTS)
def test_an_own_part_that_returns_something_else_is_named(part: dict[str, Any], message: str) -> None:
    model = dataclasses.replace(small_config(), **part).build(key=KEY)
    for function in (model, eqx.filter_jit(model)):
        with pytest.raises(ValueError, match=re.escape(message)):
            function(jnp.zeros((8, 12, 3)))


@pytest.mark.parametrize("hint", [str, "str", Float[Array, ""] | str])
def test_a_wrong_result_and_a_wrong_call_are_told_by_beartype_and_by_jaxtyping_alike(hint: Any) -> None:
    def double(x: int, *, key: str = "") -> Any:
        if key == "bad":
            raise TypeError("of the function's own")
        return str(2 * x) if key else (2 * x,)

    double.__annotations__["return"] = hint
    called = check(double)
    assert called(2, key="good") == "4"
    for call, message in (
        (lambda: called(2), r"the result of .*double\(\) must be .*a str, got the tuple \(4,\)"),
        (lambda: called(), r".*double\(\) needs x \(an int\): pass x=\.\.\."),
        (lambda: called("a", kex="good"), r".*double\(\) has no argument kex: did you mean key\?"),
        (lambda: called("a"), r"x of .*double\(\) must be an int, got the string 'a'"),
    ):
        with pytest.raises(vitrail.CallError, match=message):
            call()
    with pytest.raises(TypeError, match=r"^of the function's own$"):
        called(2, key="bad")


# Labels ----------------------------------------------------------------------------------------------------------

PREPROCESS = Preprocess("cover", "bicubic", (0.5,), (0.5,))
IMAGES = np.zeros((4, 8, 8, 1), np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint32])
def test_labels_are_taken_in_every_dtype_of_whole_numbers(dtype: Any) -> None:
    labels = np.array([0, 1, 2, 1], dtype)
    data = Dataset("test", Examples(IMAGES, labels), Examples(IMAGES, labels), ("a", "b", "c"), PREPROCESS)
    model = small_model(image_size=(8, 8), patch_size=(4, 4), channels=1, num_classes=3)
    evaluation = vitrail.train.evaluate(model, data)
    assert evaluation.accuracy == np.mean(np.argmax(evaluation.logits, 1) == [0, 1, 2, 1])
    logits = jnp.asarray(evaluation.logits)
    loss = vitrail.train.cross_entropy(logits, vitrail.train.make_targets(jnp.asarray(labels), 3))
    chances = np.exp(evaluation.logits) / np.exp(evaluation.logits).sum(1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log(chances[np.arange(4), [0, 1, 2, 1]]).mean(), rtol=1e-5)
    assert vitrail.images.hold_out(np.repeat(labels, 5)).sum() == 4


def test_training_and_comparing_do_not_depend_on_the_dtype_of_labels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1)).astype(np.uint8)
    recipe = vitrail.train.Recipe(epochs=1, batch_size=10, augmentation=vitrail.images.Augmentation())
    model = small_model(image_size=(8, 8), patch_size=(4, 4), channels=1, num_classes=3)
    options = vitrail.lab.ProbeOptions(seeds=1, steps=2, shots=(1,), draws=1, learning_rates=(1e-3, 1e-2))
    results = []
    for dtype in (np.int32, np.uint8, np.int64):
        labels = (np.arange(30) % 3).astype(dtype)
        train, test = Examples(images[:20], labels[:20]), Examples(images[20:], labels[20:])
        data = Dataset("noise", train, test, ("a", "b", "c"), PREPROCESS)
        trained = vitrail.train.fit(model, data, recipe, key=KEY)
        row = vitrail.compare(model, data, pools=["mean"], options=options).rows[0]
        results.append((vitrail.train.evaluate(trained, data).logits.tolist(), row.correct.tolist(), row.knn_accuracy))
    assert results[0] == results[1] == results[2]


def test_one_name_where_several_belong_says_how_to_write_it() -> None:
    labels = np.array([0, 1, 2, 1], np.int32)
    data = Dataset("zeros", Examples(IMAGES, labels), Examples(IMAGES, labels), ("a", "b", "c"), PREPROCESS)
    model = small_model(image_size=(8, 8), patch_size=(4, 4), channels=1, num_classes=3)
    with pytest.raises(ValueError, match=re.escape("pools must be a sequence of names, got 'gem': pass ('gem',)")):
        vitrail.compare(model, data, pools="gem")


@pytest.mark.parametrize("labels", [np.zeros(4, np.float32), np.eye(4, dtype=np.float32), np.eye(4, dtype=np.int32)])
def test_labels_that_are_no_numbers_of_classes_say_what_to_pass(labels: Any) -> None:
    advice = ": pass the numbers of classes: labels.astype('int32'), or labels.argmax(-1) of one-hot rows"
    for message in (
        message_of(lambda: Examples(IMAGES, labels)),
        message_of(lambda: vitrail.train.make_targets(jnp.asarray(labels), 4)),
    ):
        assert message.startswith("labels of vitrail.")
        assert advice in message.splitlines()[0]
        assert_short(message)


# All functions ---------------------------------------------------------------------------------------------------


def public_functions() -> dict[str, Callable[..., object]]:
    """The functions and classes of vitrail and its rooms, with their names."""
    found: dict[str, Callable[..., object]] = {}
    for room in ("vitrail", *(f"vitrail.{room}" for room in ROOMS)):
        module = importlib.import_module(room)
        for name in dir(module):
            value = getattr(module, name)
            is_ours = getattr(value, "__module__", "").startswith("vitrail")
            is_class = inspect.isclass(value) and not issubclass(value, BaseException | enum.Enum)
            if (
                not name.startswith("_")
                and is_ours
                and (is_class or inspect.isfunction(value))
                and not inspect.isabstract(value)
            ):
                found.setdefault(f"{value.__module__}.{value.__qualname__}", value)
    return found


def list_required(function: Callable[..., object]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in several]


FUNCTIONS = {
    name: function
    for name, function in public_functions().items()
    if not issubclass(type(function), type(eqx.Module)) or not function.__name__.startswith("Abstract")
    if list_required(function) and not getattr(function, "_is_protocol", False)
}


def test_the_matrix_sees_the_functions_that_there_are() -> None:
    names = {name.rpartition(".")[2] for name in FUNCTIONS}
    assert {"vit", "load", "replace", "MeanPool", "fit", "Dataset", "compare", "draw_predictions"} <= names


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_names_itself_where_arguments_are_missing(name: str) -> None:
    function, required = FUNCTIONS[name], list_required(FUNCTIONS[name])
    message = message_of(function)
    assert f"{name.rpartition('.')[2]}() needs {required[0]}" in message
    assert_short(message)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_is_brief_about_values_that_are_long(name: str) -> None:
    wrong = np.zeros((50, 50, 3)).tolist()
    function = FUNCTIONS[name]
    try:
        function(**dict.fromkeys(list_required(function), wrong))
    except Exception as error:
        assert_short(str(error))
    else:
        pytest.skip("any value will do")


class Hostile:
    """Every look at it fails."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("do not look")


def test_a_value_that_cannot_be_described_is_still_an_error_of_the_call() -> None:
    for message in (message_of(lambda: build(key=Hostile())), message_of(lambda: small_model()(Hostile()))):  # type: ignore[arg-type]
        assert "() got a value of a wrong type" in message or "must be" in message
        assert_short(message)


def test_signatures_can_be_copied_and_bound() -> None:
    signature = inspect.signature(vitrail.vit)
    again = copy.deepcopy(signature)
    assert again.parameters.keys() == signature.parameters.keys()
    for one in (signature, again):
        assert one.bind("S/16", key=KEY).arguments == {"name": "S/16", "key": KEY}
        with pytest.raises(TypeError, match="key"):
            one.bind("S/16")
    with pytest.raises(TypeError, match=r"MeanPool\(\) needs dim"):
        inspect.signature(vitrail.MeanPool).bind()


def test_an_error_is_a_type_check_error_and_can_be_pickled() -> None:
    with pytest.raises(jaxtyping.TypeCheckError) as caught:
        vitrail.MeanPool("8")  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (vitrail.CallError, str(caught.value))


# Extras ----------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
NOT_THEIR_IMPORT = {"orbax": "orbax-checkpoint", "PIL": "pillow"}


def list_requirements(extra: str, table: dict[str, list[str]]) -> set[str]:
    """The distributions of an extra and of those that it includes."""
    found: set[str] = set()
    for line in table[extra]:
        name, _, inner = re.match(r"([\w-]+)(\[([\w,]+)\])?", line).groups()  # type: ignore[union-attr]
        found |= (
            {name.replace("_", "-")}
            if name != "vitrail"
            else set().union(*(list_requirements(e, table) for e in inner.split(",")))
        )
    return found


def list_lazy_imports() -> list[tuple[str, str]]:
    """The library and the extra of every call of `require`."""
    calls = [
        node
        for path in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require"
    ]
    return sorted(
        {(ast.literal_eval(call.args[0]), keyword.value.value)  # type: ignore[attr-defined]
         for call in calls for keyword in call.keywords if isinstance(keyword.value, ast.Constant)}
    )  # fmt: skip


@pytest.mark.parametrize(("library", "extra"), list_lazy_imports())
def test_a_hint_names_an_extra_that_has_the_library(library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    top = library.partition(".")[0]
    name = NOT_THEIR_IMPORT.get(top, top.replace("_", "-"))
    assert name in list_requirements(extra, table)
    monkeypatch.setattr("vitrail._extras.find_spec", lambda name: None)
    with pytest.raises(vitrail.MissingExtraError) as caught:
        require(library, extra=extra)  # type: ignore[arg-type]
    said = re.fullmatch(
        rf"{top} is not installed, .* '{extra}': run pip install (-e )?'(.*)\[{extra}\]'", str(caught.value)
    )
    assert said is not None
    assert (Path(said[2]) / "pyproject.toml").is_file()


def test_a_hint_without_a_clone_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vitrail._extras.__file__", str(tmp_path / "a" / "vitrail" / "_extras.py"))
    for url in ('{"url": "https://x.org/a.whl", "archive_info": {}}', '{"url": "file:///gone", "dir_info": {}}', None):
        told = SimpleNamespace(read_text=lambda name, url=url: url)
        monkeypatch.setattr("vitrail._extras.distribution", lambda name, told=told: told)
        with pytest.raises(vitrail.MissingExtraError, match=r"run pip install 'vitrail\[hub\]'"):
            require("no_such_library", extra="hub")
    told = SimpleNamespace(read_text=lambda name: json.dumps({"url": ROOT.as_uri(), "dir_info": {}}))
    monkeypatch.setattr("vitrail._extras.distribution", lambda name: told)
    with pytest.raises(vitrail.MissingExtraError, match=re.escape(f"run pip install '{ROOT}[hub]'")):
        require("no_such_library", extra="hub")


# The first lines of the README -----------------------------------------------------------------------------------


def test_the_code_of_the_readme_runs_without_a_warning() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    first, from_file, own_pool = blocks
    assert "vitrail.load(" in from_file
    page: dict[str, Any] = {"__name__": "readme"}
    for block in (first, own_pool):  # pytest turns warnings into errors
        exec(compile(block, "README.md", "exec"), page)
    assert page["logits"].shape == (2, 10)


def test_the_command_prints_its_version_and_runs_as_a_module() -> None:
    def run(*args: str) -> str:
        return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=120, check=True).stdout

    entry_point = "from vitrail.cli import main; raise SystemExit(main())"
    assert run("-c", entry_point, "--version") == f"vitrail {version('vitrail')}\n"
    assert "gem" in run("-m", "vitrail", "list", "pools")


def test_every_room_is_an_attribute_of_the_package() -> None:
    rooms = sorted(path.parent.name for path in (ROOT / "src" / "vitrail").glob("[a-z]*/__init__.py"))
    program = f"import vitrail; print([type(getattr(vitrail, room)).__name__ for room in {rooms}]); print(dir(vitrail))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    types, names = (ast.literal_eval(line) for line in done.stdout.splitlines())
    assert {"train", "weights", "show", "cli"} <= set(rooms) <= set(names)
    assert set(types) == {"module"}


# What is printed for a value -------------------------------------------------------------------------------------


def make_dataset() -> Dataset:
    labels = np.array([0, 1, 2, 1, 2, 0, 1], np.int32)
    images = np.zeros((7, 8, 8, 1), np.uint8)
    return Dataset("zeros", Examples(images, labels), Examples(images[:4], labels[:4]), ("a", "b", "c"), PREPROCESS)


def evaluate_nothing() -> vitrail.train.Evaluation:
    return vitrail.train.Evaluation(np.eye(3, dtype=np.float32), np.array([0, 1, 1], np.int32))


@pytest.mark.parametrize(
    ("make", "printed"),
    [
        (lambda: small_model().blocks, "<Blocks: 2 of 16 channels>"),
        (lambda: make_dataset(),
         "<Dataset zeros: 7 images to learn from and 4 held out of 8 x 8 x 1, 3 classes (a, b, c)>"),
        (lambda: make_dataset().train, "<Examples: 7 images of 8 x 8 x 1>"),
        (lambda: vitrail.model_card(small_model()),
         "<ModelCard of a vitrail model: 4,917 parameters, 2 blocks of 16 channels, images of 8 x 12 x 3, 5 classes, "
         "licence unknown>"),
        (lambda: evaluate_nothing(), "<Evaluation: 2 of 3 images right, 66.7%>"),
        (lambda: make_row("gem"), "<Row of m last 8 gem: accuracy 0.750, 1.1 ms>"),
        (lambda: vitrail.lab.Comparison((make_row("gem"), make_row("max")), (), (0,)),
         "<Comparison of 2 readouts: m last 8 gem is the best with 0.750, 0 skipped>"),
        (lambda: vitrail.lab.Comparison((), (), ()), "<Comparison of 0 readouts: 0 skipped>"),
        (lambda: vitrail.compile(small_model()), "<CompiledViT: batches of images of 8 x 12 x 3>"),
        (lambda: vitrail.BIG_VISION, "<Init big_vision>"),
        (lambda: dataclasses.replace(vitrail.BIG_VISION), "<Init with initializers of its own>"),
        (lambda: vitrail.weights.LAYOUTS["torchvision"], "<Layout torchvision>"),
    ],
)  # fmt: skip
def test_a_value_prints_what_it_is_in_one_line(make: Callable[[], object], printed: str) -> None:
    assert repr(make()) == printed


def test_no_public_value_prints_an_address_or_more_than_a_screen() -> None:
    for room in ("vitrail", *(f"vitrail.{room}" for room in ROOMS)):
        module = importlib.import_module(room)
        for name in dir(module):
            value = getattr(module, name)
            if name.startswith("_") or inspect.ismodule(value) or isinstance(value, type) or inspect.isfunction(value):
                continue
            if name != "ACTIVATIONS":  # functions of JAX
                assert " at 0x" not in repr(value), (room, name)
            if name != "TEMPLATES":  # whose eighty texts are what there is to see
                assert len(repr(value)) < 2000, (room, name)  # a screen of 25 lines


def test_a_name_that_the_package_does_not_have_suggests_the_one_that_was_meant() -> None:
    program = "import vitrail; vitrail.MeenPool"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    said = done.stderr.splitlines()[-1]
    assert said == "AttributeError: module 'vitrail' has no attribute 'MeenPool'. Did you mean: 'MeanPool'?"
