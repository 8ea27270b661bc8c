"""The design, as far as a program can check it: final parts, one-way imports, documented names, no heavy imports."""

import ast
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import pytest
from hatchling.build import build_wheel
from helpers import builtins

import vitrail
from vitrail.cli import main

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "vitrail"
DOCS = ROOT / "docs"
FILES = sorted(SOURCE.rglob("*.py"))
REGISTRIES: dict[str, Any] = {
    "patch": vitrail.PATCHES,
    "position": vitrail.POSITIONS,
    "pool": vitrail.POOLS,
    "head": vitrail.HEADS,
    "readout": vitrail.READOUTS,
}
EXTRAS = (
    "optax",
    "grain",
    "rich",
    "tyro",
    "matplotlib",
    "PIL",
    "mlxtend",
    "safetensors",
    "einops",
    "torch",
    "tokenizers",
    "orbax",
    "tensorboardX",
)

LAYERS = (
    {"_check", "_explain", "_extras", "_factory", "_files", "_hook", "_keep", "_later", "_plugins", "_typecheck"},
    {"nn"},
    {"_patched", "_registry", "_spec", "_tokens"},
    {"images"},
    {"exported"},
    {"patch", "position", "pool", "head", "encoder", "dense"},
    {"model"},
    {"systems"},
    {"weights"},
    {"deploy"},
    {"train"},
    {"show"},
    {"lab", "testing"},
    {"cli"},
    {"__main__"},
)
"""A file knows only what is in an earlier set; rooms in the same set do not know each other."""
TREES = {path: ast.parse(path.read_text()) for path in FILES}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))


def modules() -> Iterator[Any]:
    """Every module of the package, imported."""
    yield vitrail
    for info in pkgutil.walk_packages(vitrail.__path__, "vitrail."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def module_classes() -> list[type]:
    """Every Equinox module that the package defines, private ones too."""
    found = {
        value
        for module in modules()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, eqx.Module) and value.__module__.startswith("vitrail")
    }
    return sorted(found, key=lambda cls: cls.__qualname__)


def is_abstract(cls: type) -> bool:
    """Whether it has methods or fields that a subclass must define."""
    return inspect.isabstract(cls) or bool(getattr(cls, "__abstractvars__", ())) or cls.__name__.startswith("Abstract")


def test_the_check_sees_the_modules_that_there_are() -> None:
    names = {cls.__name__ for cls in module_classes()}
    assert {"ViT", "Tokens", "Block", "MeanPool", "AbstractPool", "RotaryPosition"} <= names


@pytest.mark.parametrize("cls", module_classes(), ids=lambda cls: cls.__name__)
def test_a_module_is_abstract_by_its_name_or_final(cls: Any) -> None:
    if inspect.isabstract(cls):
        assert cls.__name__.startswith("Abstract")
    if cls.__name__.startswith("Abstract"):
        assert not getattr(cls, "__final__", False)
        with pytest.raises(TypeError, match=r"[Cc]an't instantiate abstract class"):
            cls()
    else:
        assert getattr(cls, "__final__", False), f"{cls.__name__} must be decorated with @final"
        assert not cls.__subclasses__() or all(sub.__module__.startswith("equinox") for sub in cls.__subclasses__())
        for base in cls.__mro__[1:]:
            assert base.__name__.startswith("Abstract") or not base.__module__.startswith("vitrail"), base


@pytest.mark.parametrize("cls", [c for c in module_classes() if not is_abstract(c)], ids=lambda cls: cls.__name__)
def test_a_final_module_sets_all_its_fields_in_its_own_init(cls: Any) -> None:
    assert "__init__" in vars(cls)
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls)))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in ("super", "hasattr")]


@each_file
def test_no_file_has_what_the_style_forbids(path: Path) -> None:
    tree, text = TREES[path], path.read_text()
    assert not re.search(r"^# (type: ignore|pyright:|mypy:|ruff: noqa)", text, re.MULTILINE), "no file-level ignores"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.module != "__future__", "jaxtyping needs real annotations"
            assert not any(alias.name == "*" for alias in node.names)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defaults = [d for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None]
            assert not any(isinstance(d, ast.List | ast.Dict | ast.Set) for d in defaults), node.name
            if node.name == "__init__":
                assert node.args.kwarg is None, "no **kwargs in constructors"
    assert ast.get_docstring(tree), "every file says what it is"


@each_file
def test_files_are_short(path: Path) -> None:
    # DESIGN: seldom over 300 lines. Docstrings are most of the longest.
    assert len(path.read_text().splitlines()) <= 400


def layer_of(module: str) -> int | None:
    """The layer of the first name after `vitrail.`; `None` for the package itself."""
    parts = module.split(".")
    if len(parts) == 1:
        return None
    (layer,) = [i for i, names in enumerate(LAYERS) if parts[1] in names] or [None]
    assert layer is not None, f"{parts[1]} stands in no layer: add it to LAYERS"
    return layer


def module_name(path: Path) -> str:
    """`vitrail.pool._base` of its path."""
    parts = list(path.relative_to(SOURCE.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> Iterator[str]:
    """The modules of vitrail that a file imports, at the top or in a function."""
    name = module_name(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "vitrail")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = [*base, *(node.module.split(".") if node.module else [])]
            if target[0] == "vitrail":
                # `from . import x` may import the module x; `from .pool import MeanPool` imports vitrail.pool.
                submodules = {alias.name for alias in node.names} & set().union(*LAYERS)
                yield from (f"vitrail.{name}" for name in submodules if len(target) == 1)
                if len(target) > 1 or len(submodules) < len(node.names):
                    yield ".".join(target)


def wrong_import(importer: str, imported: str) -> bool:
    """Whether an import points the wrong way."""
    from_layer, to_layer = layer_of(importer), layer_of(imported)
    if from_layer is None:  # the package's own table of contents
        return False
    if to_layer is None:  # train and cli use the package from outside; a part would import what stands to its right
        return importer.split(".")[1] not in ("deploy", "train", "lab", "cli", "testing")
    same_part = importer.split(".")[1] == imported.split(".")[1]
    siblings_know_each_other = imported.split(".")[1].startswith("_")
    if to_layer > from_layer or (to_layer == from_layer and not same_part and not siblings_know_each_other):
        return True
    is_private = any(name.startswith("_") for name in imported.split(".")[2:])
    return is_private and not same_part  # a room is entered through its __init__


@each_file
def test_imports_point_one_way(path: Path) -> None:
    importer = module_name(path)
    for imported in imported_modules(path):
        assert not wrong_import(importer, imported), f"{importer} must not import {imported}"


@pytest.mark.parametrize(
    ("importer", "imported", "wrong"),
    [
        ("vitrail.pool._base", "vitrail._tokens", False),
        ("vitrail.pool._base", "vitrail.pool._mean", False),
        ("vitrail.pool._base", "vitrail.head", True),
        ("vitrail.pool._base", "vitrail.model", True),
        ("vitrail._tokens", "vitrail.pool", True),
        ("vitrail._registry", "vitrail._check", False),
        ("vitrail.pool._base", "vitrail.nn", False),
        ("vitrail.pool._base", "vitrail.nn._linear", True),
        ("vitrail.nn._linear", "vitrail._tokens", True),
        ("vitrail.model._vit", "vitrail.head", False),
        ("vitrail.model._vit", "vitrail.train", True),
        ("vitrail.model._vit", "vitrail", True),
        ("vitrail.train._loop", "vitrail.model", False),
        ("vitrail.train._loop", "vitrail", False),
        ("vitrail.train._loop", "vitrail.cli", True),
    ],
)
def test_the_check_of_imports_catches_wrong_ones(importer: str, imported: str, wrong: bool) -> None:
    assert wrong_import(importer, imported) == wrong


@each_file
def test_only_train_and_cli_import_the_extras_at_the_top(path: Path) -> None:
    if module_name(path).split(".")[1:2] in (["train"], ["cli"]):
        return
    for node in TREES[path].body:  # not what stands in a function, or under `if TYPE_CHECKING`
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        assert not [name for name in names if name.split(".")[0] in EXTRAS]


def test_importing_the_package_imports_none_of_the_extras() -> None:
    program = f"import sys, vitrail; print([n for n in {EXTRAS!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


ALONE = """
    import importlib, importlib.metadata, sys

    find = importlib.metadata.distribution

    def find_others(name):
        if name == "vitrail":
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    importlib.metadata.distribution = find_others
    sys.path.insert(0, sys.argv[1])
    vitrail = importlib.import_module(sys.argv[2])
    for room in ("lab", "show", "train", "weights", "testing", "cli"):
        importlib.import_module(f"{vitrail.__name__}.{room}")
    import jax, jax.numpy as jnp
    def classify(image):  # one program for all, built and run
        return vitrail.vit("Ti/16", pool="gem", num_classes=3, image_size=32, key=jax.random.key(0))(image)
    try:
        vitrail.MeanPool("wide")
    except TypeError as error:
        print(type(error).__name__)
    print(vitrail.__file__, vitrail.__version__, jax.jit(classify)(jnp.zeros((32, 32, 3))).shape)
"""


@pytest.mark.parametrize("name", ["vitrail", "app.vendor.vitrail", "vitrail.zip"])
def test_a_copy_that_is_not_installed_works(name: str, tmp_path: Path) -> None:
    """Without metadata, as in a frozen program, a vendored copy or an archive."""
    module = name.removesuffix(".zip")
    place, inside = tmp_path / "copy", Path(*module.split("."))
    shutil.copytree(SOURCE, place / inside, ignore=shutil.ignore_patterns("__pycache__"))
    if name.endswith(".zip"):
        place = Path(shutil.make_archive(str(tmp_path / module), "zip", place))
    command = [sys.executable, "-c", textwrap.dedent(ALONE), str(place), module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    checked = "" if name.endswith(".zip") else "CallError\n"  # the hook leaves archives alone
    assert done.stdout == f"{checked}{place / inside}/__init__.py {vitrail.__version__} (3,)\n"


def test_the_version_is_that_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert build_wheel(str(tmp_path)) == f"vitrail-{vitrail.__version__}-py3-none-any.whl"


# Names and docs --------------------------------------------------------------------------------------------------


def public_names(module: Any) -> set[str]:
    """What a module exports as `X as X`, which pyright takes for public."""
    tree = ast.parse(inspect.getsource(module))
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module  # not the rooms
        for alias in node.names
        if alias.asname == alias.name
    }


def documented_names() -> dict[str, list[str]]:
    """The names after `:::` on all pages, with the pages they stand on."""
    found: dict[str, list[str]] = {}
    for page in sorted(DOCS.rglob("*.md")):
        names = re.findall(r"^:::\s+(vitrail[\w.]*)\s*$", page.read_text(), re.MULTILINE)
        for registry in re.findall(r"^print\(document_parts\(vitrail\.(\w+)\)\)$", page.read_text(), re.MULTILINE):
            parts = getattr(vitrail, registry)
            names += [f"vitrail.{parts[name].__name__}" for name in builtins(parts)]
        for name in names:
            found.setdefault(name, []).append(str(page.relative_to(DOCS)))
    return found


def test_public_names_are_those_without_underscore() -> None:
    names = public_names(vitrail)
    assert {"vit", "ViT", "Tokens", "POOLS"} <= names
    visible = {
        name for name in dir(vitrail) if not name.startswith("_") and not inspect.ismodule(getattr(vitrail, name))
    }
    assert visible == names
    assert not [name for name in names if name.startswith("_")]


def test_every_public_name_is_in_the_docs_once_and_no_other_is() -> None:
    documented = documented_names()
    expected = {f"vitrail.{name}" for name in public_names(vitrail)}
    of_the_package = {name for name in documented if name.count(".") == 1}
    of_the_registries = {f"vitrail.{cls.__name__}" for registry in REGISTRIES.values() for cls in registry.values()}
    assert expected - documented.keys() == set(), "public names that no page of docs/ has as `::: vitrail.X`"
    assert of_the_package - expected - of_the_registries == set(), "pages of docs/ name what is not public"
    twice = {name: pages for name, pages in documented.items() if len(pages) > 1}
    assert not twice
    for name in documented.keys() - of_the_package:  # `::: vitrail.train.fit`, and so on: what can be imported
        module, attribute = name.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), attribute), name


def test_every_member_that_a_page_of_the_api_names_exists() -> None:
    """mkdocstrings leaves out what it does not find."""
    found = 0
    for page in (DOCS / "api").glob("*.md"):
        for name, listed in re.findall(
            r"^::: (vitrail\.\S+)\n    options:\n      members:\n((?:        - \w+\n)+)", page.read_text("utf-8"), re.M
        ):
            module, attribute = name.rsplit(".", 1)
            cls = getattr(importlib.import_module(module), attribute)
            fields = {field for each in cls.__mro__ for field in vars(each).get("__annotations__", ())}
            for member in re.findall(r"\w+", listed):
                assert hasattr(cls, member) or member in fields, f"{page.name}: {name}.{member}"
                found += 1
    assert found > 100


def test_the_page_of_the_command_line_has_each_option_of_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables of the page are made from the same dataclasses, but not by the library that prints `--help`."""
    monkeypatch.syspath_prepend(str(DOCS / "api"))
    monkeypatch.setenv("COLUMNS", "300")
    document_options = importlib.import_module("_options").document_options
    page = (DOCS / "api" / "cli.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"• (\w+) ", capsys.readouterr().out)
    assert len(commands) > 10
    for command in commands:
        assert f"`vitrail {command}`\n" in page
        if command == "demo":  # whose options are those of train
            continue
        assert f'print(document_options("{command}"))' in page
        with pytest.raises(SystemExit):
            main([command, "--help"])
        printed = capsys.readouterr().out
        options = set(re.findall(r"^\W*(--[a-z][\w.-]*)", printed, re.MULTILINE))
        table = dict(re.findall(r"^\| `([^`]+)` \|.*\| (.+) \|$", document_options(command), re.MULTILINE))
        assert {name for name in table if name.startswith("--")} == options != set()
        words = re.sub(r"[\W_]+", "", printed)
        for name, text in table.items():
            assert re.sub(r"[\W_]+", "", text) in words, f"the help of {command} {name}"


@pytest.mark.parametrize("name", sorted(public_names(vitrail)))
def test_every_public_class_and_function_has_a_docstring(name: str) -> None:
    value = getattr(vitrail, name)
    if isinstance(value, type) or inspect.isfunction(value):
        assert inspect.getdoc(value)
        assert not (inspect.getdoc(value) or "").startswith(f"{name}("), "dataclasses write such a docstring themselves"


@pytest.mark.parametrize("name", sorted(public_names(vitrail)))
def test_every_public_method_has_a_docstring_or_inherits_one(name: str) -> None:
    cls = getattr(vitrail, name)
    for attribute, value in vars(cls).items() if isinstance(cls, type) and issubclass(cls, eqx.Module) else ():
        if callable(value) and (attribute == "__call__" or not attribute.startswith("_")):
            assert inspect.getdoc(getattr(cls, attribute)), f"{name}.{attribute}"


def test_every_default_of_the_models_is_registered() -> None:
    """The names in signatures and in the configuration are strings, which no type checker looks up."""
    parameters = inspect.signature(vitrail.vit).parameters
    assert inspect.signature(vitrail.make_dense).parameters["readout"].default in vitrail.READOUTS
    assert vitrail.DenseConfig.__dataclass_fields__["readout"].default in vitrail.READOUTS
    for name in REGISTRIES.keys() - {"readout"}:
        registry = REGISTRIES[name]
        assert parameters[name].default in registry
        assert parameters[name].default == vitrail.ViTConfig.__dataclass_fields__[name].default
    for name in ("norm_order", "class_token", "num_registers", "encoder", "init", "channels"):
        assert parameters[name].default == vitrail.ViTConfig.__dataclass_fields__[name].default, name
