"""The command `vitrail`: what it prints, and how it fails."""

import csv
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from helpers import assert_trees_close, make_row, small_model, write_pictures
from PIL import Image

import vitrail
from vitrail._extras import require
from vitrail.cli import main
from vitrail.cli._compare import Compare, _name_files
from vitrail.cli._compare_results import suggest_commands
from vitrail.cli._options import LoadOptions
from vitrail.cli._parser import parse
from vitrail.images import TRANSFORMS
from vitrail.train import OBJECTIVES, Recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "images")


@pytest.mark.versions
def test_demo(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vitrail.cli._setup.SIZE", vitrail.EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=16))
    out = tmp_path / "out.png"
    options = ["--image-size", "8", "--epochs", "10", "--batch-size", "8", "--learning-rate", "1e-3", "--pool", "max"]
    saved = tmp_path / "out.safetensors"
    assert main(["demo", "--data", str(folder), *options, "--picture", str(out), "--save", str(saved)]) == 0
    printed = capsys.readouterr().out
    assert "16 images to learn from, 4 held out, 2 classes, 8 x 8, RGB" in printed
    assert "pool max" in printed
    assert "test accuracy: 100.0% (4 of 4 held-out images)" in printed
    assert str(out) in printed
    with Image.open(out) as picture:
        assert picture.format == "PNG"
    for path in sorted(folder.glob("*/*")):
        assert main(["predict", str(saved), str(path), "--top", "1"]) == 0
        assert capsys.readouterr().out.split()[-1] == path.parent.name


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pool", "maen"], "there is no pool 'maen': did you mean 'mean'"),
        (["--pool", "none"], "model must return logits of shape (2,)"),
        (["--head", "none"], "num_classes must be None"),
        (["--patch-size", "5"], "patch_size"),
        (["--image-size", "-8"], "image_size must be positive"),
        (["--epochs", "0"], "epochs must be positive"),
        (["--seed", "-1"], "seed must be in"),
        (["--picture", "nowhere/out.png"], "picture must end in .png, .pdf, .svg and be in a folder that exists"),
        (["--picture", "out.txt"], "picture must end in"),
        (["--save", "out.npz"], "save must end in .safetensors"),
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


def test_a_part_that_is_written_in_another_way(capsys: pytest.CaptureFixture[str]):
    for text in ("classify(1", "classify(0.1)", "a.b(c=1)", "classify(smoothing=x)"):
        with pytest.raises(SystemExit, match="2"):
            main(["train", "--objective", text])
        assert "as mlp(hidden_dim=64)" in " ".join(capsys.readouterr().err.replace("│", "").split())


@pytest.mark.parametrize(
    ("kind", "registry"),
    [
        ("pools", vitrail.POOLS),
        ("patches", vitrail.PATCHES),
        ("positions", vitrail.POSITIONS),
        ("heads", vitrail.HEADS),
        ("objectives", OBJECTIVES),
        ("transforms", TRANSFORMS),
    ],
)
def test_list(kind: str, registry: vitrail.Registry, capsys: pytest.CaptureFixture[str]):
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in registry:
        aliases = [alias for alias, meant in registry.aliases.items() if meant == name]
        where = lines.index(f"{name}  (vitrail)" + (f", also {', '.join(aliases)}" if aliases else ""))
        assert lines[where + 1].startswith("    ")
        assert lines[where + 1].endswith(".")
        for place, option in enumerate(registry.list_options(name).values(), start=2):
            default = "" if option.default is option.empty else f" = {option.default!r}"
            assert re.fullmatch(rf"    option {option.name}: [^=]+{re.escape(default)}", lines[where + place])


def test_list_shows_aliases(capsys: pytest.CaptureFixture[str]):
    main(["list", "pools"])
    assert "mean  (vitrail), also gap, avg" in capsys.readouterr().out.splitlines()


def test_list_shows_options_with_their_defaults(capsys: pytest.CaptureFixture[str]):
    for kind in ("heads", "positions", "objectives"):
        main(["list", kind])
    assert {
        "    option zero: bool = False",
        "    option covers_prefix: bool | 'class' = True",
        "    option rule: 'axial' | 'eva' | 'dinov3' = 'axial'",
        "    option small_size: tuple[int, int] | None = None",
    } <= set(capsys.readouterr().out.splitlines())


def test_a_reader_of_the_output_that_stops_is_no_error() -> None:
    """As in `vitrail list pools | head -1`."""
    command = [sys.executable, "-m", "vitrail", "list", "pools"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 141


def test_list_with_plugins(tmp_path: Path):
    """In a process of its own: they are listed from their metadata, and none is imported."""
    (tmp_path / "good_pool.py").write_text("raise SystemExit('imported')\n")
    for package, points in (("pool_shop-1.2", "good = good_pool:Good\nmax = good_pool:Max\n"), ("b-3", "gap = b:C\n")):
        info = tmp_path / f"{package}.dist-info"
        info.mkdir()
        name, version = package.split("-")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[vitrail.pools]\n{points}")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from vitrail.cli import main; main(['list', 'pools'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    where = lines.index("good  (pool_shop 1.2)")
    assert lines[where + 1] == "    good_pool:Good"
    where = lines.index("max  (vitrail, pool_shop 1.2)")
    assert lines[where + 1].startswith("    claimed by several packages: to use it, uninstall all but one")
    assert "gap  (vitrail, b 3)" in lines
    assert "mean  (vitrail), also gap, avg" in lines


def test_a_missing_extra_is_named():
    with pytest.raises(
        vitrail.MissingExtraError,
        match=r"no_such_library is not installed, .* extra 'train': run pip install .*\[train\]'",
    ):
        require("no_such_library", extra="train")


def test_the_core_imports_no_extra():
    """Neither `import vitrail` nor `import vitrail.train` nor the command may import what only an extra installs."""
    code = "import sys, vitrail, vitrail.train, vitrail.lab, vitrail.testing, vitrail.cli\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    extras = {"optax", "grain", "rich", "tyro", "matplotlib", "PIL", "mlxtend", "safetensors", "pytest"}
    assert not extras & set(done.stdout.split())


# Comparing -------------------------------------------------------------------------------------------------------

QUICK = [
    "--steps",
    "4",
    "--batch-size",
    "8",
    "--learning-rates",
    "0.01",
    "--shots",
    "1",
    "--draws",
    "1",
    "--seeds",
    "2",
]


@pytest.fixture
def quick_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small backbone, trained for a few steps."""
    monkeypatch.setattr("vitrail.cli._setup.SIZE", vitrail.EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=16))
    monkeypatch.setattr("vitrail.cli._compare.Recipe", lambda: Recipe(epochs=2, batch_size=8))


def rows_of(printed: str) -> list[list[str]]:
    """The lines of the table."""
    lines = [line.split() for line in printed.splitlines()]
    start = next(i for i, line in enumerate(lines) if "parameters" in line and "accuracy" in line)
    table = lines[start + 2 : lines.index([], start)]
    assert [row[0] for row in table] == [str(place) for place in range(1, len(table) + 1)]
    return [row[1:] for row in table]


def test_compare_trains_a_backbone_and_goes_on_after_an_interruption(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    quick_backbone: None,
):
    """Anywhere: while the backbone is trained, and while a readout is."""
    out = tmp_path / "out"
    command = [
        "compare",
        "--data",
        str(folder),
        "--image-size",
        "8",
        *QUICK,
        "--pools",
        "mean, cls,max",
        "--out",
        str(out),
    ]

    @contextmanager
    def kill() -> Iterator[Any]:
        yield lambda progress: progress.step == 1 and os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr("vitrail.cli._compare.show_progress", kill)
        assert main(command) == 130
    assert "finished readouts: 0. Run the same command again to continue" in capsys.readouterr().out
    assert list((out / "backbone" / "checkpoints").iterdir()), "the steps of the backbone are kept"

    evaluate_cell = vitrail.lab._bench.evaluate_cell  # type: ignore[attr-defined]

    def interrupted(*arguments: Any) -> Any:
        if "max" in arguments:
            raise KeyboardInterrupt
        return evaluate_cell(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("vitrail.lab._bench.evaluate_cell", interrupted)
        assert main(command) == 130
    printed = capsys.readouterr().out
    assert "finished readouts: 2. Run the same command again to continue" in printed
    assert "step 4 of 4" in printed
    assert "step 1 of 4" not in printed, "the backbone goes on"
    monkeypatch.setattr("vitrail.cli._compare.load_data_for", lambda *_: pytest.fail("the images are loaded again"))
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "step " not in printed, "the backbone is not trained again"
    assert "16 images to learn from, 4 held out, 2 classes, 8 x 8, RGB" in printed
    assert "backbone: trained with the pool cls_mean" in printed
    assert "No difference is certain" in printed
    table = rows_of(printed)
    assert sorted(row[0] for row in table) == ["cls", "max", "mean"]
    with (out / "results.csv").open() as file:
        assert [row["pool"] for row in csv.DictReader(file)] == [row[0] for row in table]
    assert len(json.loads((out / "results.json").read_text())["rows"]) == 3
    with Image.open(out / "figure.png") as picture:
        assert picture.format == "PNG"
        assert picture.width < picture.height
    assert table[0][0] in (out / "report.html").read_text()
    data = vitrail.images.load_images(folder, image_size=(8, 8))
    backbone = vitrail.load(out / "backbone" / "last.safetensors")
    assert isinstance(backbone.readout.pool, vitrail.ClassMeanPool)
    assert backbone.config.preprocess == data.preprocess  # so that `vitrail predict` prepares pictures as in training

    assert main([*command, "--seed", "1"]) == 1
    assert "backbone has the results of another run, which differs in seed and model: pass" in capsys.readouterr().err


def test_compare_prepares_images_for_each_model_and_resolution(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """By the preprocessing in each file and in the channels of the model, whatever the images have."""
    monkeypatch.chdir(tmp_path)
    grey, colour = (vitrail.Preprocess("squash", "bilinear", (0.25,) * n, (0.5,) * n) for n in (1, 3))
    colour = dataclasses.replace(colour, fit="cover")
    vitrail.save(small_model(channels=1, image_size=(8, 8), preprocess=grey), "grey.safetensors")
    vitrail.save(small_model(image_size=(8, 8), preprocess=colour, pool="cls"), "colour.safetensors")
    seen: list[Any] = []
    load = vitrail.cli._compare.load_data_for  # type: ignore[attr-defined]

    def spy(model: Any, folder: Any) -> Any:
        seen.append((model, load(model, folder)))
        return seen[-1][1]

    monkeypatch.setattr("vitrail.cli._compare.load_data_for", spy)
    command = ["compare", "--data", str(folder), "--models", "grey.safetensors", "colour.safetensors", *QUICK]
    options = ["--layers", "last,0", "--resolutions", "8,12", "--pools", "mean,cls,top_k(k=2)"]
    assert main([*command, *options]) == 0
    printed = capsys.readouterr().out
    assert "left out: grey, pool cls (it reads the class token, and the backbone has none)" in printed
    table = rows_of(printed)
    assert len(table) == 2 * 2 * (2 + 3)
    assert {tuple(row[:3]) for row in table} == {
        (name, layer, size) for name in ("grey", "colour") for layer in ("last", "0") for size in ("8", "12")
    }
    with Image.open(folder / "dark" / "2.png") as image:
        for (model, data), (preprocess, size) in zip(
            seen, [(grey, 8), (grey, 12), (colour, 8), (colour, 12)], strict=True
        ):
            assert model.config.image_size == (size, size)
            expected = preprocess(image, (size, size))
            np.testing.assert_allclose(data.preprocess.normalise(data.test.images[:1])[0], expected, atol=1e-6)
    # What it says to type next is a command that works: of the layer that `vitrail train` reads.
    best = next(row for row in table if row[1] == "last")
    assert ("next:" in printed) == ("vitrail train" in printed)
    assert main([*command, "--layers", "last", *options[2:]]) == 0
    printed = capsys.readouterr().out
    assert rows_of(printed)[0][0] == best[0]
    (suggested,) = [line for line in printed.splitlines() if line.startswith("vitrail train")][:1]
    assert f"--model {best[0]}.safetensors --recipe probe" in suggested
    assert main([*shlex.split(suggested)[1:], "--epochs", "1", "--pool", "mean"]) == 0
    capsys.readouterr()
    assert main([*command, *options, "--pools", "mean", "--steps", "5"]) == 1
    assert (
        "has the results of another run, which differs in options (steps: 4 there, 5 here): pass"
        in capsys.readouterr().err
    )


def test_what_to_type_next_has_the_options_by_which_models_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As `vitrail train` itself reads them."""
    monkeypatch.chdir(tmp_path)
    Path("run-1").mkdir()
    row = dataclasses.replace(make_row("top_k(k=2)"), learning_rate=0.003)
    comparison = vitrail.lab.Comparison((row,), (), ())
    data = ["--data", "my photos"]
    read = ["--layout", "timm", "--config", '{"num_heads": 6}', "--prefix", "teacher.", "--convert"]
    for options, expected in (
        (
            ["--models", "my model.safetensors", *read],
            {"model": "my model.safetensors", "layout": "timm", "config": '{"num_heads": 6}', "prefix": "teacher."}
            | {"convert": True, "recipe": "probe", "learning_rate": 0.003},
        ),
        (["--patch-size", "4", "--seed", "3"], {"model": "small", "patch_size": 4, "seed": 3, "recipe": "demo"}),
    ):
        command = parse(["compare", *data, *options])
        assert isinstance(command, Compare)
        files = {"m": command.models[0] if command.models else None}
        (line,) = suggest_commands(comparison, files, command.data, command.list_given())
        name, *words = shlex.split(line)
        assert name == "vitrail"
        train = parse(words)
        common = {"data": Path("my photos"), "pool": "top_k(k=2)", "image_size": 8, "out": Path("run-2")}
        assert {field: getattr(train, field) for field in (expected | common)} == expected | common


def test_sigterm_ends_a_comparison_without_leaving_tokens(folder: Path, tmp_path: Path):
    out, weights = tmp_path / "out", tmp_path / "model.safetensors"
    vitrail.save(small_model(image_size=(8, 8)), weights)
    options = ["--models", str(weights), "--pools", "gem,lse", "--steps", "100000"]
    arguments = ["--data", str(folder), *options, "--token-budget", "0", "--out", str(out)]
    program = "import sys; from vitrail.cli import main; sys.exit(main())"
    with subprocess.Popen([sys.executable, "-c", program, "compare", *arguments], stdout=subprocess.PIPE) as run:
        try:
            for _ in range(1200):
                if run.poll() is not None or len(list(out.rglob("*.npy"))) == 2:
                    break
                time.sleep(0.1)
            assert len(list(out.rglob("*.npy"))) == 2, "no tokens to leave"
            run.terminate()
            assert run.wait(60) == 128 + signal.SIGTERM
        finally:
            run.kill()
    assert sorted(path.name for path in out.iterdir()) == ["cells", "run.json"]


def test_a_run_goes_on_and_its_model_is_fine_tuned(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vitrail.cli._setup.SIZE", vitrail.EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=16))
    monkeypatch.chdir(tmp_path)
    run = ["train", "--data", "images", "--image-size", "8", "--batch-size", "8", "--epochs", "8"]
    options = [*run, "--validation", "0.2", "--keep-every", "5", "--out", "run"]

    # Both signals save the state, and tell the shell and a scheduler what they were.
    for number, step in ((signal.SIGINT, 1), (signal.SIGTERM, 3)):

        @contextmanager
        def kill(number: int = number, step: int = step) -> Iterator[Any]:
            yield lambda progress: progress.step == step and os.kill(os.getpid(), number)

        with monkeypatch.context() as patched:
            patched.setattr("vitrail.cli._train.show_progress", kill)
            if number == signal.SIGINT:
                assert main(options) == 130
            else:
                with pytest.raises(SystemExit, match="143"):
                    main(options)
        assert sorted(int(path.name) for path in Path("run/checkpoints").iterdir())[-1] == step + 1
        with Image.open("run/curves.png") as picture:
            assert picture.format == "PNG"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    printed = [""] * 2
    for i in range(2):  # the second finds that all is done
        assert main(["train", "--resume", "../run"]) == 0
        printed[i] = capsys.readouterr().out
        assert "12 images to learn from, 4 held out, 2 classes" in printed[i]
    assert "step 12 of 12" in printed[0]
    assert "step " not in printed[1]
    assert "run: ../run (best.safetensors, curves.png, last.safetensors, metrics.jsonl, run.json)" in printed[1]
    accuracy = printed[1].split("test accuracy: ")[1].splitlines()[0]
    assert main(["evaluate", "../run", "--which", "last"]) == 0
    assert f"test accuracy of ../run/last.safetensors: {accuracy}" in capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    recipe = dataclasses.replace(vitrail.train.RECIPES["finetune"], epochs=2)
    Path("own.json").write_text(recipe.to_json())
    best, small_mae = "run/best.safetensors", "mae(decoder_dim=8, decoder_depth=1, decoder_heads=2)"
    of_lora = ["--recipe", "own.json", "--lora", "2", "--objective", "classify(smoothing=0.2)", "--clip-norm", "none"]
    of_lora += ["--dropout", "dropout(drop_path=0.1)"]
    for out, given in (
        ("lora", of_lora),
        ("mae", ["--epochs", "1", "--mesh", "fsdp=2", "--objective", small_mae, "--held-out", "0.5"]),
    ):
        assert main(["train", "--data", "images", "--model", best, "--batch-size", "8", *given, "--out", out]) == 0
    before, adapted = (vitrail.load(path) for path in (best, "lora/last.safetensors"))
    merged = vitrail.merge(vitrail.load_adapters(before, "lora/adapters.safetensors"))  # whose backbone is that of best
    assert_trees_close(merged, adapted, tolerance=1e-6)
    changed = {"dropout": vitrail.Dropout(drop_path=0.1), "batch_size": 8, "clip_norm": None, "train": ("readout",)}
    objective = vitrail.train.OBJECTIVES.configure("classify", smoothing=0.2)
    expected = dataclasses.replace(recipe, objective=objective, **changed)
    assert json.loads(Path("lora/run.json").read_text())["recipe"] == {
        field.name: repr(getattr(expected, field.name)) for field in dataclasses.fields(expected)
    }

    # The image model of MAE is probed. The head of a classifier of the same classes is kept, unless one is asked for.
    probe = ["train", "--data", "images", "--recipe", "probe", "--epochs", "1", "--learning-rate", "1e-30", "--model"]
    for file, more, keeps in (
        ("mae/last.safetensors", [], True),
        (best, [], True),
        (best, ["--head", "linear"], False),
    ):
        shutil.rmtree("probe", ignore_errors=True)
        assert main([*probe, file, *more, "--out", "probe"]) == 0
        probed, given = (vitrail.load(path) for path in ("probe/last.safetensors", file))
        given = given if isinstance(given, vitrail.ViT) else given.image
        assert_trees_close(probed.backbone, given.backbone, tolerance=0)
        weights = (cast(Any, model.readout.head).linear.weight for model in (probed, given))
        assert np.allclose(*weights, rtol=0, atol=1e-6) == keeps

    facts = json.loads(Path("probe/run.json").read_text())
    facts["settings"]["sorcery"] = 1
    Path("probe/run.json").write_text(json.dumps(facts))
    Path("wrong.json").write_text('{"epochs": "3"}')
    Path("strange.txt").write_text("dark/0.png\na/1.png\n")

    capsys.readouterr()
    shutil.copytree("images", "copy")  # is divided as the run's own images were
    evaluated = []
    for data in ("images", "copy"):
        assert main(["evaluate", "mae", "--data", data]) == 0
        evaluated.append(capsys.readouterr().out.splitlines()[-1])
    assert evaluated[0] == evaluated[1]
    assert "of 10 held-out images" in evaluated[0]
    assert main(["compare", "--runs", "lora", "run"]) == 0
    printed = capsys.readouterr().out
    assert "p-value" in printed
    assert "No difference is certain: 4 test images" in printed
    assert main(["compare", "--runs", "lora", "mae", "run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tested on different images, so that no difference is tested" in lines[-1]
    table = [line.split() for line in lines if ".safetensors" in line]
    assert {row[0] for row in table} == {"lora/last.safetensors", "mae/last.safetensors", best}
    accuracies = [float(row[1][:-1]) for row in table]
    assert accuracies == sorted(accuracies, reverse=True)
    assert table[0][7] == "best"
    for wrong, message in (
        ([*run, "--recipe", "x"], "recipe must be one of demo, finetune"),
        ([*run, "--recipe", "images/dark/0.png"], "0.png must be a recipe as Recipe.to_json writes it"),
        ([*run, "--model", "nope"], "or a size and a patch, as S/16"),
        ([*run, "--objective", "clip"], "the objective 'clip' needs a text with each image, got images and labels"),
        ([*run, "--objective", "nope"], "there is no objective 'nope'"),
        ([*run, "--objective", "classify(nope=1)"], "nope"),
        ([*run, "--objective", "mae", "--picture", "p.png"], "picture has no effect for the objective mae"),
        ([*run, "--model", best, "--position", "rope"], "position has no effect for a file of weights"),
        ([*run, "--mesh", "data=3"], "mesh must have at most 2 devices, got 'data=3', which has 3"),
        ([*run, "--recipe", "mae", "--validation", "0.2"], "validation must be None for the objective 'mae'"),
        ([*run, "--transforms", "horizontal_flip(probability='x')"], "has a wrong option: probability of vitrail"),
        ([*run, "--lora-targets", "q"], "lora-targets has no effect without --lora"),
        ([*run, "--prefix", "a."], "prefix has no effect for the model small"),
        ([*run, "--convert"], "convert has no effect for the model small"),
        ([*run, "--recipe", "wrong.json"], "got the string '3': pass 3 without quotes\n"),
        (["demo", "--keep-every", "5"], "keep-every has no effect without --out"),
        (["train", "--resume", "run", "--out", "other"], "out has no effect with --resume"),
        (
            ["train", "--resume", "probe"],
            "probe must be a run of this version of vitrail, got one of another: Train has",
        ),
        ([*run, "--keep-every", "0"], "keep_every must be positive"),
        (["demo", "--board"], "board has no effect without --out"),
        (["train", "--resume", "images"], "images must be the folder of a run, got one without run.json"),
        (["train", "--resume", "nope"], "nope must be the folder of a run, got no such folder: pass what was passed"),
        (["evaluate", "nope"], "nope must be the folder of a run, got no such folder"),
        (["compare", "--runs", "run", "nope"], "nope must be the folder of a run, got no such folder"),
        ([*run, "--held-out", "nope.txt"], "in each line, got an error: No such file or directory\n"),
        ([*run, "--held-out", "strange.txt"], "got 'a/1.png'\n"),
        (["train", "--resume", "run", "--recipe", "probe"], "recipe has no effect with --resume"),
        (
            ["train", "--resume", "run", "--epochs", "5"],
            "run has the results of another run, which differs in recipe (epochs: ",
        ),
        (["evaluate", "mae", "--which", "best"], "mae must have best.safetensors"),
        (["compare", "--runs", "run", "--seeds", "2"], "seeds has no effect with --runs"),
    ):
        assert main(wrong) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_within_a_callback_of_the_garbage_collector_ends_the_program(number: int, status: int):
    """Python drops what is raised there."""
    program = f"""if True:
        import gc, signal, sys, time
        from vitrail.cli import _main
        def wait(command):
            gc.callbacks.append(lambda *_: gc.callbacks.pop() and signal.raise_signal({number}))
            gc.collect()
            time.sleep(30)
        _main.run_list = wait
        sys.exit(_main.main(["list", "pools"]))"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pools", "maen"], "there is no pool 'maen': did you mean 'mean'"),
        (["--pools", "none"], "pools has none, which fits no model: it returns shape"),
        (["--pools", ","], "pools must have at least one"),
        (["--pools", "top_k(j=1)"], "the pool 'top_k' has no option 'j'"),
        (["--backbone-pool", "maen"], "there is no pool 'maen'"),
        (["--layers", "first"], "layers must be whole numbers, separated by commas, got 'first'"),
        (["--layers", "last,7"], "layers has 7, which fits no model: the model has 1 blocks: use -1 to 0"),
        (["--resolutions", "9"], "resolutions has 9, which fits no model"),
        (["--learning-rates", "0.1,x"], "learning-rates must be numbers, separated by commas, got 'x'"),
        (["--shots", "0"], "shots must be positive"),
        (["--seeds", "0"], "seeds must be positive"),
        (["--minutes", "0"], "minutes must be"),
        (["--seed", "-1"], "seed must be in"),
        (["--models", "nowhere"], "nowhere"),
        (["--models", "model", "model"], "models must have each file once"),
        (["--models", "model", "--patch-size", "2"], "patch-size has no effect with --models: leave it out"),
        (["--models", "model", "--seed", "0"], "seed has no effect with --models: leave it out"),
        (["--models", "model", "--data", "nowhere"], "nowhere"),
        (["--models", "model", "--pools", "attention(num_heads=3)"], "which fits no model"),
        (["--models", "model", "--resolutions", "9"], "resolutions has 9, which fits no model"),
        (["--models", "model", "--out", "file"], "out must be a folder, got the file file: name another one"),
        (["--models", "deep"], "deep must read grey or RGB images to be compared on pictures, got a model of 4"),
        (["--models", "model", "--layers", "5"], "layers has 5, which fits no model: the model has 2 blocks"),
        (["--prefix", "model."], "prefix has no effect without --models: leave it out"),
        (["--token-budget", "-1"], "token_budget must be finite and not negative"),
    ],
)
def test_an_error_of_compare_is_one_line_before_anything_is_trained_or_read(
    folder: Path,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    quick_backbone: None,
):
    monkeypatch.chdir(tmp_path)
    vitrail.save(small_model(image_size=(8, 8)), "model")
    vitrail.save(small_model(image_size=(8, 8), channels=4), "deep")
    Path("file").touch()
    monkeypatch.setattr("vitrail.cli._compare.fit", lambda *_, **__: pytest.fail("the backbone was trained"))
    monkeypatch.setattr(LoadOptions, "load_model", lambda *_, **__: pytest.fail("weights were read"))
    size = [] if "--models" in arguments else ["--image-size", "8"]
    assert main(["compare", "--data", str(folder), *size, *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vitrail: error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_minutes_that_are_over_when_the_models_are_loaded_are_an_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vitrail.save(small_model(image_size=(8, 8)), "model")
    assert main(["compare", "--data", str(folder), "--models", "model", "--minutes", "1e-9"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vitrail: error: minutes must be enough to load the models")
    assert error.count("\n") == 1


def test_models_are_named_by_their_files_and_those_of_runs_by_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "run/last.safetensors",
        "run/best.safetensors",
        "run/run.json",
        "model.safetensors",
        "dino/config.json",
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    run, best, file, folder, hub = map(
        Path, ("run/last.safetensors", "run/best.safetensors", "model.safetensors", "dino", "dinov2-s/14")
    )
    assert list(_name_files([run, file, folder, hub])) == ["run", "model", "dino", "dinov2-s/14"]
    assert list(_name_files([run, best])) == ["run/last.safetensors", "run/best.safetensors"]
    monkeypatch.chdir("dino")
    assert list(_name_files([Path()])) == ["dino"]
