"""The registry: a read-only mapping, options, choices, and plugins of really installed distributions."""

import dataclasses
import functools
import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import wheels
from helpers import tokens_of
from jaxtyping import Array, Float, PRNGKeyArray

import vitrail
from vitrail import (
    HEADS,
    PATCHES,
    POOLS,
    POSITIONS,
    READOUTS,
    MeanPool,
    OptionError,
    PartSpec,
    PluginError,
    PoolContext,
    Registry,
    Tokens,
    UnknownPartError,
)

KEY = jax.random.key(0)
REGISTRIES = {"patches": PATCHES, "positions": POSITIONS, "pools": POOLS, "heads": HEADS, "readouts": READOUTS}
BUILTINS = {"mean": MeanPool, "cls": vitrail.ClassTokenPool, "max": vitrail.MaxPool}
CONTEXT = PoolContext(dim=8, grid=(3, 4), init=vitrail.TRUNC_NORMAL)


def fresh(**changes: Any) -> Registry[vitrail.AbstractPool, PoolContext]:
    """A registry of pools that has not read the installed packages yet."""
    arguments: dict[str, Any] = {
        "group": "vitrail.pools",
        "part": vitrail.AbstractPool,
        "context": PoolContext,
        "builtins": BUILTINS,
        "aliases": {"gap": "mean", "tok": "cls"},
    }
    return Registry("pool", **(arguments | changes))


def build(choice: Any) -> Any:
    """A pool of a fresh registry."""
    return fresh().build(choice, CONTEXT, key=KEY)


@pytest.fixture(autouse=True)
def _plugins_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRAIL_NO_PLUGINS", raising=False)


# The mapping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("patches", ["conv", "conv_stem"]),
        ("positions", ["learned", "sincos2d", "factorized", "rope", "none"]),
        ("pools", ["mean", "cls", "attention", "none"]),
        ("heads", ["linear", "mlp", "projection", "distilled", "cosine", "none"]),
        ("readouts", ["linear", "dpt"]),
    ],
)
def test_the_built_in_names_are_there(kind: str, names: list[str]) -> None:
    registry = REGISTRIES[kind]
    assert set(names) <= set(registry)
    assert registry.group == f"vitrail.{kind}"
    for name in names:
        assert registry.get_entry(name).origins == ("vitrail",)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_the_file_of_a_part_has_its_name(kind: str) -> None:
    registry: Any = REGISTRIES[kind]
    for name in registry:
        if registry.get_entry(name).origins == ("vitrail",):
            assert registry[name].__module__.endswith(f"._{name}")


def test_it_is_a_mapping() -> None:
    registry = fresh()
    assert isinstance(registry, Mapping)
    assert list(registry)[:3] == ["mean", "cls", "max"]
    assert len(registry) == len(list(registry)) == len(set(registry))
    assert "mean" in registry
    assert "meen" not in registry
    assert 3 not in registry
    assert registry["mean"] is MeanPool
    assert registry.get("meen") is None
    assert dict(registry.items())["cls"] is vitrail.ClassTokenPool
    assert "mean" in repr(registry)
    assert "vitrail.pools" in repr(registry)


def test_nobody_can_write_into_it() -> None:
    builtins = dict(BUILTINS)
    registry: Any = fresh(builtins=builtins, aliases={})
    with pytest.raises(TypeError):
        registry["mine"] = MeanPool
    with pytest.raises(TypeError):
        del registry["mean"]
    builtins["mine"] = MeanPool
    assert "mine" not in registry


@pytest.mark.parametrize(("name", "near"), [("meen", "'mean'"), ("maxx", "'max'"), ("CLS", None), ("", None)])
def test_an_unknown_name_says_what_is_near_and_what_is_known(name: str, near: str | None) -> None:
    registry = fresh()
    for lookup in (
        registry.__getitem__,
        registry.get_entry,
        registry.configure,
        registry.list_options,
        registry.describe,
    ):
        with pytest.raises(UnknownPartError) as caught:
            lookup(name)
        message = str(caught.value)
        assert f"there is no pool {name!r}" in message
        assert "known are 'mean', 'cls', 'max'" in message
        assert (f"did you mean {near}" in message) == (near is not None)
    assert issubclass(UnknownPartError, KeyError)


# Options ---------------------------------------------------------------------------------------------------------


def test_options_are_the_parameters_that_are_not_in_the_context() -> None:
    assert list(POSITIONS.list_options("rope")) == ["rule", "base", "offset", "reference"]
    assert list(POSITIONS.list_options("learned")) == ["covers_prefix", "resize", "keep_aspect"]
    assert list(HEADS.list_options("mlp")) == ["hidden_dim", "activation", "zero"]
    assert not POOLS.list_options("max")
    assert list(POOLS.list_options("weighted")) == []
    assert list(POOLS.list_options("top_k")) == ["k", "criterion"]
    base = POSITIONS.list_options("rope")["base"]
    assert isinstance(base, inspect.Parameter)
    assert base.default == 100.0


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_option_of_a_built_in_is_keyword_only_and_has_a_default(kind: str) -> None:
    registry: Any = REGISTRIES[kind]
    for name in registry:
        for option in registry.list_options(name).values():
            assert option.kind is inspect.Parameter.KEYWORD_ONLY, (name, option)
            assert option.default is not inspect.Parameter.empty, (name, option)


def test_configure_holds_a_name_and_sorted_options() -> None:
    spec = HEADS.configure("mlp", zero=True, hidden_dim=7)
    assert spec == PartSpec("mlp", (("hidden_dim", 7), ("zero", True)))
    assert hash(spec) == hash(HEADS.configure("mlp", hidden_dim=7, zero=True))
    assert POOLS.configure("mean") == PartSpec("mean")
    context = vitrail.HeadContext(dim=12, num_classes=3, token_dim=12, init=vitrail.TRUNC_NORMAL)
    head: Any = HEADS.build(spec, context, key=KEY)
    assert head.hidden.weight.shape == (7, 12)
    assert not np.asarray(head.linear.weight).any()


def test_a_spec_prints_itself() -> None:
    assert str(HEADS.configure("mlp", zero=True, hidden_dim=7)) == "mlp(hidden_dim=7, zero=True)"
    assert str(POSITIONS.configure("rope", rule="dinov3")) == "rope(rule='dinov3')"
    assert str(PartSpec("mean")) == "mean"


def test_an_unknown_option_says_what_is_near_and_which_there_are() -> None:
    with pytest.raises(OptionError, match=r"no option 'hiden_dim'.*did you mean 'hidden_dim'.*'activation', 'zero'"):
        HEADS.configure("mlp", hiden_dim=3)
    with pytest.raises(OptionError, match=r"the pool 'max' has no option 'temperature'.*no options"):
        POOLS.configure("max", temperature=1.0)
    assert issubclass(OptionError, TypeError)


@pytest.mark.parametrize("option", ["num_classes", "init", "key", "dim"])
def test_an_option_that_the_model_passes_is_refused(option: str) -> None:
    with pytest.raises(OptionError, match=rf"no option '{option}' \(the model passes it\)"):
        HEADS.configure("mlp", **{option: 3})
    with pytest.raises(OptionError, match=r"no option 'grid' \(the model passes it\)"):
        POOLS.configure("weighted", grid=(2, 2))


@pytest.mark.parametrize(
    "value", [jnp.ones(2), np.float32(1), MeanPool, object(), {"a": 1}, {1, 2}, (1, (2, object()))]
)
def test_an_option_that_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match=r"option 'base' must be plain.*functools.partial"):
        POSITIONS.configure("rope", base=value)


def test_lists_become_tuples_and_numbers_stay() -> None:
    spec = POSITIONS.configure("rope", base=[1, [2.5, None], "a", True])
    assert spec.options == (("base", (1, (2.5, None), "a", True)),)
    hash(spec)


def test_a_spec_by_hand_is_checked_like_one_of_configure() -> None:
    with pytest.raises(OptionError, match="no option 'temperature'"):
        build(PartSpec("mean", (("temperature", 1.0),)))
    with pytest.raises(UnknownPartError, match="did you mean 'mean'"):
        build(PartSpec("meen"))


def test_an_option_of_a_wrong_value_is_an_error_that_names_it() -> None:
    spec = POSITIONS.configure("rope", rule="axail")
    context = vitrail.PositionContext(
        dim=8,
        grid=(2, 2),
        class_token=False,
        num_registers=0,
        head_dim=4,
        num_heads=2,
        depth=2,
        init=vitrail.TRUNC_NORMAL,
    )
    named = (
        r"^the position embedding rope\(rule='axail'\) has a wrong option: rule of vitrail.RotaryPosition.* must be .*"
    )
    with pytest.raises(OptionError, match=rf"{named}, got the string 'axail': did you mean 'axial'"):
        POSITIONS.build(spec, context, key=KEY)


# Building --------------------------------------------------------------------------------------------------------


def make_gridded(dim: int, *, grid: tuple[int, int] = (1, 1)) -> vitrail.AbstractPool:
    return vitrail.WeightedPool(dim, grid=grid)


@final
class WidthPool(vitrail.AbstractPool):
    """It requires a `width`, which no context has."""

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, width: int):
        self.out_dim = width

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " dim"]:
        return tokens.patches[0]


def test_a_factory_gets_what_its_signature_names_unless_it_is_bound() -> None:
    assert build("mean") == build(PartSpec("mean")) == build(lambda dim: MeanPool(dim)) == MeanPool(8)
    assert build(lambda: MeanPool(3)) == MeanPool(3)
    for choice in (make_gridded, functools.partial(make_gridded), vitrail.WeightedPool):
        assert build(choice).scores.shape == (3, 4)
    for choice in (functools.partial(vitrail.WeightedPool, grid=(2, 2)), functools.partial(make_gridded, grid=(2, 2))):
        assert build(choice).scores.shape == (2, 2)
    assert build(functools.partial(vitrail.WeightedPool, 5)).out_dim == 5
    attention = build(functools.partial(vitrail.AttentionPool, num_heads=2))
    assert attention.attention.num_heads == 2
    assert float(jnp.abs(attention.queries).max()) < 0.1  # drawn by the context's init, of deviation 0.02
    assert eqx.tree_equal(attention, vitrail.AttentionPool(8, num_heads=2, init=vitrail.TRUNC_NORMAL, key=KEY))
    bound = build(functools.partial(vitrail.AttentionPool, num_heads=2, key=jax.random.key(1)))
    assert not eqx.tree_equal(bound, attention)


def test_a_factory_that_requires_what_is_neither_in_the_context_nor_bound_is_an_error() -> None:
    message = r"the pool WidthPool requires 'width', got only 'dim', 'grid', 'init', 'key': pass it as an option"
    with pytest.raises(OptionError, match=message):
        build(WidthPool)
    assert build(functools.partial(WidthPool, width=3)).out_dim == 3
    registry = fresh(builtins={"width": WidthPool}, aliases={})
    assert registry.build(registry.configure("width", width=4), CONTEXT, key=KEY).out_dim == 4
    with pytest.raises(OptionError, match="the pool 'width' requires 'width'"):
        registry.build("width", CONTEXT, key=KEY)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (MeanPool(8), "given as a name, a class or a functools.partial, got an instance of MeanPool: pass the class"),
        (vitrail.LinearHead, "must be a class that extends vitrail.AbstractPool.*got the class vitrail.LinearHead"),
        (int, "must be a class that extends vitrail.AbstractPool"),
        (len, "'obj' cannot be passed by name"),
        (lambda dim, key, extra: MeanPool(8), "requires 'extra', got only 'dim', 'grid', 'init', 'key'"),
        (
            functools.partial(MeanPool, nonsense=1),
            "a signature that fits, got a functools.partial of the class vitrail.MeanPool: .*nonsense",
        ),
        (lambda dim: "the mean", r"the pool <lambda> must return an instance of vitrail.AbstractPool, got str: fix"),
        (None, "choice|pool"),
        (3, "choice|pool"),
    ],
)
def test_a_choice_that_is_not_a_factory_is_an_error_that_says_what_to_do(choice: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        build(choice)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("mean", "the pool 'mean'"),
        ("gap", "the pool 'gap'"),
        (PartSpec("mean", (("include_prefix", True),)), "the pool mean(include_prefix=True)"),
        (MeanPool, "the pool MeanPool"),
        (functools.partial(MeanPool, include_prefix=True), "the pool MeanPool"),
    ],
)
def test_a_choice_is_described_in_words(choice: Any, words: str) -> None:
    assert fresh().describe(choice) == words


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"grid": (0, 3)}])
def test_a_context_refuses_sizes_that_are_not_positive(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be positive"):
        dataclasses.replace(CONTEXT, **wrong)


# Aliases -----------------------------------------------------------------------------------------------------------


def test_the_aliases_are_those_of_other_libraries() -> None:
    assert dict(POOLS.aliases) == {
        "gap": "mean",
        "avg": "mean",
        "token": "cls",
        "tok": "cls",
        "map": "attention",
        "avgmax": "mean_max",
    }
    for alias, name in POOLS.aliases.items():
        assert POOLS[alias] is POOLS[name]
    assert not PATCHES.aliases
    with pytest.raises(TypeError):
        POOLS.aliases["a"] = "mean"  # type: ignore[index]


def test_an_alias_is_looked_up_like_a_name_and_listed_as_an_alias() -> None:
    registry = fresh()
    assert "gap" in registry
    assert "gap" not in list(registry)
    assert len(registry) == 3
    assert registry["gap"] is MeanPool
    assert build("gap") == MeanPool(8)
    assert registry.get_entry("gap") == vitrail.Entry("gap", ("vitrail",), alias_of="mean")
    assert registry.get_entry("mean").alias_of is None
    assert registry.configure("gap", include_prefix=True) == PartSpec("gap", (("include_prefix", True),))
    assert registry.list_options("gap") == registry.list_options("mean")
    with pytest.raises(UnknownPartError, match=r"did you mean 'gap'"):
        registry["gapp"]


def test_an_alias_in_a_configuration_builds_the_part_and_stays_as_it_was_written() -> None:
    model = vitrail.vit("Ti/16", image_size=32, pool="map", num_classes=2, key=KEY)
    assert isinstance(model.readout.pool, vitrail.AttentionPool)
    assert vitrail.ViTConfig.from_json(model.config.to_json()).pool == "map"


# Plugins ---------------------------------------------------------------------------------------------------------


Installer = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """Installs a distribution for one test; each gets its own folder on `sys.path`."""
    count = iter(range(100))

    def do(name: str, **options: Any) -> None:
        site = wheels.install(tmp_path / str(next(count)), name, **options)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return do


def test_a_plugin_is_listed_without_import_and_imported_on_first_use(install: Installer) -> None:
    install("strangers_pools", parts={"strange": "Pool"})
    registry = fresh()
    assert list(registry) == ["mean", "cls", "max", "strange"]
    assert len(registry) == 4
    assert "strange" in registry
    assert registry.get_entry("strange") == vitrail.Entry(
        "strange", ("strangers_pools 1.2",), ("strangers_pools:Pool",)
    )
    assert "strange" in repr(registry)
    with pytest.raises(UnknownPartError, match=r"did you mean 'strange'.*known are 'mean', 'cls', 'max', 'strange'"):
        registry["strang"]
    assert registry["mean"] is MeanPool
    assert "strangers_pools" not in sys.modules  # none of the above imports it

    assert registry["strange"] is sys.modules["strangers_pools"].Pool
    assert registry["strange"] is registry["strange"]
    assert list(registry.list_options("strange")) == ["factor"]
    assert registry.describe("strange") == "the pool 'strange' of strangers_pools 1.2 (strangers_pools:Pool)"
    pool = registry.build(registry.configure("strange", factor=3.0), CONTEXT, key=KEY)
    tokens = tokens_of(jnp.zeros((0, 8)), jnp.ones((4, 8)), (2, 2))
    assert np.array_equal(pool(tokens), np.full(8, 3.0))
    with pytest.raises(OptionError, match=r"no option 'facter'.*did you mean 'factor'"):
        registry.configure("strange", facter=1.0)


def test_registries_read_their_own_group(install: Installer) -> None:
    install("head_plugin", parts={"strange": "Pool"}, kind="heads")
    assert "strange" not in fresh()


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import a_missing_module", "ModuleNotFoundError: No module named 'a_missing_module'"),
        ("raise RuntimeError('out of order')", "RuntimeError: out of order"),
        ("x = 1", "AttributeError"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit(1)", "SystemExit"),
    ],
)
def test_a_plugin_that_does_not_load_names_its_package_and_leaves_the_others_alone(
    install: Installer, source: str, cause: str
) -> None:
    install("broken_plugin", source=source, version="0.7", parts={"broken": "Pool"})
    install("strangers_pools", parts={"strange": "Pool"})
    registry = fresh()
    assert list(registry) == ["mean", "cls", "max", "broken", "strange"]
    with pytest.raises(PluginError) as caught:
        registry["broken"]
    message = str(caught.value)
    assert "the pool 'broken' of broken_plugin 0.7 (broken_plugin:Pool) does not load" in message
    assert cause in message
    assert "VITRAIL_NO_PLUGINS=1" in message
    assert caught.value.__cause__ is not None
    assert registry["mean"] is MeanPool
    assert registry.build("strange", CONTEXT, key=KEY).out_dim == 8
    assert registry.get_entry("broken").origins == ("broken_plugin 0.7",)
    with pytest.raises(PluginError, match=r"broken_plugin 0.7"):
        registry["broken"]  # again: the failure is not remembered as a success


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("Pool = 3", r"must be a class that extends vitrail.AbstractPool.*wrong_plugin 1.2.*is the int 3"),
        ("class Pool: pass", "must be a class that extends vitrail.AbstractPool"),
        ("from vitrail import LinearHead as Pool", "must be a class that extends vitrail.AbstractPool"),
        ("from vitrail import MeanPool\nPool = MeanPool(8)", "wrong_plugin 1.2.*is an instance of MeanPool"),
    ],
)
def test_a_plugin_of_a_wrong_type_names_its_package_and_the_contract(
    install: Installer, source: str, message: str
) -> None:
    install("wrong_plugin", source=source, parts={"wrong": "Pool"})
    registry = fresh()
    with pytest.raises(PluginError, match=message) as caught:
        registry["wrong"]
    assert "wrong_plugin 1.2 (wrong_plugin:Pool)" in str(caught.value)
    assert registry["mean"] is MeanPool


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def Pool(width): ...", r"'wrong' of wrong_plugin 1.2 \(wrong_plugin:Pool\) requires 'width', got only 'dim'"),
        (wheels.POOL.replace("factor=2.0", "factor"), "'wrong' of wrong_plugin 1.2 .* requires 'factor', got only"),
        (
            "def Pool(dim, *, key):\n    return len",
            "'wrong' of wrong_plugin 1.2 .* must return an instance of vitrail.AbstractPool, got builtin_function",
        ),
    ],
)
def test_a_plugin_that_cannot_be_built_is_an_error_that_names_its_package(
    install: Installer, source: str, message: str
) -> None:
    install("wrong_plugin", source=source, parts={"wrong": "Pool"})
    with pytest.raises(TypeError, match=message):
        build("wrong")


def test_a_plugin_that_claims_the_name_of_a_built_in_is_an_error_that_names_both(install: Installer) -> None:
    install("rival", parts={"mean": "Pool", "fine": "Pool"})
    registry = fresh()
    assert list(registry) == ["mean", "cls", "max", "fine"]
    assert len(registry) == 4
    assert registry.get_entry("mean").origins == ("vitrail", "rival 1.2")
    for lookup in (registry.__getitem__, registry.describe, registry.configure):
        with pytest.raises(PluginError, match=r"'mean' is claimed by vitrail and by rival 1.2: uninstall.*NO_PLUGINS"):
            lookup("mean")
    assert registry["max"] is vitrail.MaxPool
    assert registry.build("fine", CONTEXT, key=KEY).out_dim == 8
    assert "rival" in sys.modules


def test_a_plugin_that_claims_an_alias_is_an_error_that_names_both(install: Installer) -> None:
    install("alias_rival", parts={"gap": "Pool", "fine": "Pool"})
    registry = fresh()
    assert list(registry) == ["mean", "cls", "max", "fine"]
    assert len(registry) == 4
    with pytest.raises(PluginError, match=r"'gap' is claimed by vitrail and by alias_rival 1.2"):
        registry["gap"]
    assert registry["mean"] is MeanPool


def test_two_plugins_that_claim_one_name_are_an_error_that_names_both(install: Installer) -> None:
    install("first_plugin", version="1.0", parts={"same": "Pool", "own": "Pool"})
    install("second_plugin", version="2.0", parts={"same": "Pool"})
    registry = fresh()
    assert list(registry) == ["mean", "cls", "max", "own", "same"]
    with pytest.raises(PluginError) as caught:
        registry["same"]
    assert "first_plugin 1.0" in str(caught.value)
    assert "second_plugin 2.0" in str(caught.value)
    assert set(registry.get_entry("same").origins) == {"first_plugin 1.0", "second_plugin 2.0"}
    assert "first_plugin" not in sys.modules  # a clash is known without importing either
    assert registry.build("own", CONTEXT, key=KEY).out_dim == 8


def test_the_environment_variable_turns_plugins_off(install: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    install("strangers_pools", parts={"strange": "Pool", "mean": "Pool"})
    monkeypatch.setenv("VITRAIL_NO_PLUGINS", "1")
    registry = fresh()
    assert list(registry) == ["mean", "cls", "max"]
    assert registry["mean"] is MeanPool
    with pytest.raises(UnknownPartError, match="plugins are off: VITRAIL_NO_PLUGINS is set"):
        registry["strange"]
    for off in ("", "0"):
        monkeypatch.setenv("VITRAIL_NO_PLUGINS", off)
        assert "strange" in fresh()


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registry_takes_plugins(install: Installer, kind: str) -> None:
    install(f"plugin_of_{kind}", parts={"strange": "Pool"}, kind=kind)
    ours: Any = REGISTRIES[kind]
    registry = fresh(group=ours.group, builtins={}, aliases={})
    assert list(registry) == ["strange"]


END_TO_END = """
import sys, warnings
import jax, vitrail
assert "strange" in vitrail.POOLS and "strangers_pools" not in sys.modules
sizes = dict(image_size=(16, 8), num_classes=3, key=jax.random.key(0))
spec = vitrail.POOLS.configure("strange", factor=3.0)
for pool in ("strange", spec):
    model = vitrail.vit("Ti/8", pool=pool, **sizes)
    assert type(model.readout.pool) is sys.modules["strangers_pools"].Pool
assert model.readout.pool.factor == 3.0
assert jax.eval_shape(model, jax.ShapeDtypeStruct((16, 8, 3), "float32")).shape == (3,)
assert vitrail.ViTConfig.from_json(model.config.to_json()) == model.config
try:
    vitrail.vit("Ti/8", pool="broken", **sizes)
except vitrail.PluginError as error:
    print(error)
vitrail.vit("Ti/8", pool="mean", **sizes)
print("done")
"""


def test_end_to_end_in_a_new_process(tmp_path: Path) -> None:
    good = wheels.install(tmp_path / "good", "strangers_pools", parts={"strange": "Pool"})
    broken = wheels.install(tmp_path / "broken", "broken_plugin", source="import nothing_at_all", parts={"broken": "P"})
    path = os.pathsep.join([str(good), str(broken), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", END_TO_END], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the pool 'broken' of broken_plugin 1.2 (broken_plugin:P) does not load: ModuleNotFoundError" in done.stdout
    assert done.stdout.strip().endswith("done")


# Groups ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "right"),
    [
        ("vitrail.pool", "vitrail.pools"),
        ("vitrail.Pools", "vitrail.pools"),
        ("vitrail.pooling", "vitrail.pools"),
        ("vitrail_pools", "vitrail.pools"),
        ("Vitrail-pools", "vitrail.pools"),
        ("vitrial.pools", "vitrail.pools"),
        ("vitrail.head", "vitrail.heads"),
        ("vitrail.patch", "vitrail.patches"),
        ("vitrail.position", "vitrail.positions"),
        ("vitrail.postions", "vitrail.positions"),
    ],
)
def test_a_group_that_is_none_of_vitrails_is_a_warning_and_its_name_an_error(
    install: Installer, group: str, right: str
) -> None:
    install("misplaced", parts={"mine": "Pool"}, group=group)
    registry = fresh(group=right)
    words = rf"misplaced 1.2 declares 'mine' \(misplaced:Pool\) in the .* '{group}', .* the group must be '{right}'"
    with pytest.warns(UserWarning, match=words):
        assert list(registry) == ["mean", "cls", "max"]
    for lookup in (registry.__getitem__, registry.get_entry, registry.configure):
        with pytest.raises(PluginError, match=words):
            lookup("mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry["mean"] is MeanPool  # all other names work, and the warning is not repeated
        others = [other for kind, other in REGISTRIES.items() if other.group != right]
        assert [list(fresh(group=other.group)) for other in others] == [["mean", "cls", "max"]] * len(others)
    assert "misplaced" not in sys.modules


@pytest.mark.parametrize(
    "read",
    [
        list,
        dict,
        len,
        lambda registry: "mine" in registry,
        lambda registry: [*registry.items()],
        lambda registry: eqx.filter_jit(lambda x: x * len(registry))(jnp.zeros(())),
    ],
    ids=["list", "dict", "len", "in", "items", "jit"],
)
def test_a_warning_points_at_the_line_that_called(install: Installer, read: Callable[[Any], object]) -> None:
    """Not into vitrail, nor into the wrapper that checks types."""
    install("misplaced", parts={"mine": "Pool"}, group="vitrail.pool")
    with pytest.warns(UserWarning, match="misplaced 1.2 declares 'mine'") as caught:
        read(fresh())
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("group", ["vitrail.encoders", "vitrail.a.pools", "vitrail."])
def test_no_group_that_begins_with_vitrail_is_ignored(install: Installer, group: str) -> None:
    install("misplaced", parts={"mine": "Pool"}, group=group)
    with pytest.warns(UserWarning, match="misplaced 1.2 declares 'mine'") as caught:
        assert [list(fresh(group=registry.group)) for registry in REGISTRIES.values()]
    assert len(caught) == 1


@pytest.mark.parametrize(
    "group",
    ["trail.pools", "vitrail_more.plugins", "pools", "vitrails.pools", "vitrail.objectives", "vitrail.transforms"],
)
def test_groups_of_other_packages_are_their_own(install: Installer, group: str) -> None:
    install("other", parts={"mine": "Pool"}, group=group)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for registry in REGISTRIES.values():
            assert list(fresh(group=registry.group)) == ["mean", "cls", "max"]
    with pytest.raises(UnknownPartError):
        fresh()["mine"]


def test_a_misplaced_plugin_is_ignored_if_plugins_are_off(install: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    install("misplaced", parts={"mine": "Pool"}, group="vitrail.pool")
    monkeypatch.setenv("VITRAIL_NO_PLUGINS", "1")
    with pytest.raises(UnknownPartError, match="plugins are off"):
        fresh()["mine"]


# A saved model whose plugin is gone ----------------------------------------------------------------------------------


SAVE_AND_LOAD = """
import sys, jax, vitrail
path = sys.argv[1]
sizes = dict(image_size=(16, 8), num_classes=3, key=jax.random.key(0))
if sys.argv[2] == "save":
    pool = vitrail.POOLS.configure("strange", factor=3.0)
    vitrail.save(vitrail.vit("Ti/8", pool=pool, **sizes), path)
for read in (vitrail.load, vitrail.model_card):
    try:
        read(path)
        print("read")
    except (vitrail.UnknownPartError, vitrail.PluginError) as error:
        print(type(error).__name__, error)
"""


def test_a_saved_model_whose_plugin_is_gone_names_the_file_the_part_and_the_package(tmp_path: Path) -> None:
    good = wheels.install(tmp_path / "good", "strangers_pools", parts={"strange": "Pool"})
    broken = wheels.install(tmp_path / "broken", "strangers_pools", source="import gone", parts={"strange": "Pool"})
    path = tmp_path / "model.safetensors"

    def run(*folders: Path, what: str) -> list[str]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", SAVE_AND_LOAD, str(path), what],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert run(good, what="save") == ["read", "read"]
    gone = run(what="load")
    assert len(gone) == 2
    for line in gone:
        assert line.startswith(f"UnknownPartError {path} needs a part that is missing: there is no pool 'strange'")
        assert (
            "the pool 'strange' was from strangers_pools 1.2 (strangers_pools:Pool) when the file was written" in line
        )
        assert line.endswith("install that package")
    for line in run(broken, what="load"):
        assert line.startswith(
            f"PluginError {path} needs a part that is missing: the pool 'strange' of strangers_pools"
        )
