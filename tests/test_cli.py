"""The command `vitrail`: what it prints, and how it fails."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitrail
from vitrail._extras import require
from vitrail.cli import main
from vitrail.train import MissingExtraError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, colour in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = (colour + rng.integers(0, 30, (10, 12, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def test_demo(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vitrail.cli._setup.SIZE", vitrail.EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=16))
    out = tmp_path / "out.png"
    options = ["--image-size", "8", "--epochs", "10", "--batch-size", "8", "--learning-rate", "1e-3", "--pool", "max"]
    assert main(["demo", "--data", str(folder), *options, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "16 images to learn from, 4 held out, 2 classes, 8 x 8, RGB" in printed
    assert "pool max" in printed
    assert "test accuracy: 100.0% (4 of 4 held-out images)" in printed
    assert str(out) in printed
    with Image.open(out) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pool", "maen"], "there is no pool 'maen': did you mean 'mean'"),
        (["--pool", "none"], "one logit for each"),
        (["--head", "none"], "num_classes must be None"),
        (["--patch-size", "5"], "patch_size 5 x 5 came"),
        (["--image-size", "-8"], "image_size must be positive"),
        (["--epochs", "0"], "epochs must be positive"),
        (["--seed", "-1"], "seed must be in"),
        (["--out", "nowhere/out.png"], "out must end in .png, .pdf, .svg and lie in a folder"),
        (["--out", "out.txt"], "out must end in"),
        (["--data", "nowhere"], "nowhere must be a folder"),
    ],
)
def test_an_error_is_one_line(
    folder: Path,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(folder.parent)
    assert main(["demo", "--data", str(folder), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vitrail: error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_command_line_that_does_not_parse(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["list", "pool"])
    assert caught.value.code == 2
    assert "pools" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "registry"),
    [
        ("pools", vitrail.POOLS),
        ("patches", vitrail.PATCHES),
        ("positions", vitrail.POSITIONS),
        ("heads", vitrail.HEADS),
    ],
)
def test_list(kind: str, registry: vitrail.Registry, capsys: pytest.CaptureFixture[str]):
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in registry:
        where = lines.index(f"{name}  (vitrail)")
        assert lines[where + 1].startswith("    ")
        assert lines[where + 1].endswith(".")
        for place, option in enumerate(registry.options(name).values(), start=2):
            assert lines[where + place] == f"    option {option}"


def test_list_shows_options_with_their_defaults(capsys: pytest.CaptureFixture[str]):
    main(["list", "heads"])
    assert "    option zero: bool = False" in capsys.readouterr().out.splitlines()


def test_list_with_plugins(tmp_path: Path):
    """In a process of its own: one plugin works, one does not load, and all else goes on."""
    (tmp_path / "good_pool.py").write_text(
        "from typing import final\nimport equinox as eqx\nimport vitrail\n\n"
        "@final\nclass Good(vitrail.AbstractPool):\n"
        '    """A pool of our own. It is good."""\n'
        "    out_dim: int = eqx.field(static=True)\n    needs_class_token: bool = eqx.field(static=True)\n"
        "    def __init__(self, dim: int, *, power: float = 2.0, key=None):\n"
        "        self.out_dim, self.needs_class_token = dim, False\n"
        "    def __call__(self, tokens, *, key=None):\n        return tokens.patches[0]\n"
    )
    info = tmp_path / "pool_shop-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pool-shop\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[vitrail.pools]\ngood = good_pool:Good\nbroken = no_such_module:Pool\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from vitrail.cli import main; main(['list', 'pools'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    where = lines.index("good  (pool-shop 1.2)")
    assert lines[where + 1 : where + 3] == ["    A pool of our own.", "    option power: float = 2.0"]
    where = lines.index("broken  (pool-shop 1.2)")
    assert lines[where + 1].startswith("    error: the pool 'broken' of pool-shop 1.2")
    assert "no_such_module" in lines[where + 1]
    assert "mean  (vitrail)" in lines


def test_a_missing_extra_is_named():
    with pytest.raises(MissingExtraError, match=r"no_such_library must be installed .* pip install 'vitrail\[train\]'"):
        require("no_such_library", extra="train")


def test_the_core_imports_no_extra():
    """Neither `import vitrail` nor `import vitrail.train` nor the command may import what only an extra installs."""
    code = "import sys, vitrail, vitrail.train, vitrail.cli\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    extras = {"optax", "grain", "rich", "tyro", "matplotlib", "PIL", "mlxtend"}
    assert not extras & set(done.stdout.split())
