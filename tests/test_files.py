"""Files are written whole, whatever happens, and each is read as it was when it was opened."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import flax_vit
import jax
import numpy as np
import pytest
from checkpoint_cases import Case, load_cases, published, tensors_of
from helpers import make_row, small_model
from safetensors.numpy import save_file

import vitrail
from vitrail import CheckpointError, images, show, train

TIMM = load_cases()["timm vit_tiny_patch16_224"]


@pytest.fixture(scope="module")
def data() -> images.Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 12, 3)).astype(np.uint8)
    examples = images.Examples(pixels, np.arange(20, dtype=np.int32) % 5)
    return images.Dataset("noise", examples, examples, tuple("abcde"), images.measure_preprocess(examples))


Write = Callable[[Path], object]


@pytest.fixture(params=["model", "picture", "comparison", "report"])
def write(request: pytest.FixtureRequest, data: images.Dataset) -> tuple[Write, str]:
    """What writes a file, and the ending of its name."""
    if request.param == "picture":
        evaluation = train.Evaluation(np.eye(5, dtype=np.float32)[data.test.labels], data.test.labels)
        return lambda path: show.draw_predictions(small_model(), data, evaluation, path), ".svg"
    if request.param == "comparison":
        comparison = vitrail.lab.Comparison((make_row(),), (), ())
        return lambda path: show.draw_comparison(comparison, path), ".png"
    if request.param == "report":
        comparison = vitrail.lab.Comparison((make_row(),), (), ())
        return lambda path: vitrail.lab.write_report(comparison, path), ".html"
    return lambda path: vitrail.save(small_model(pool="cls"), path), ".safetensors"


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode_of(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(
    write: tuple[Write, str], tmp_path: Path, umask: None
) -> None:
    path = tmp_path / f"m{write[1]}"
    write[0](path)
    assert mode_of(path) == "0o640"
    for mode in (0o600, 0o664):
        path.chmod(mode)
        before = path.stat().st_ino
        write[0](path)
        assert path.stat().st_ino != before
        assert mode_of(path) == oct(mode)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_what_it_points_to_is_written(write: tuple[Write, str], tmp_path: Path) -> None:
    for folder in ("links", "files"):
        (tmp_path / folder).mkdir()
    target, link = tmp_path / "files" / f"m{write[1]}", tmp_path / "links" / f"latest{write[1]}"
    link.symlink_to(Path("..") / "files" / target.name)
    for _ in range(2):  # it points to nothing yet, and then to a file
        write[0](link)
        assert link.readlink() == Path("..") / "files" / target.name
        assert target.stat().st_size > 100
        assert not target.is_symlink()
    assert [len(list((tmp_path / folder).iterdir())) for folder in ("links", "files")] == [1, 1]


def test_an_interruption_leaves_what_was_there(
    write: tuple[Write, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"m{write[1]}"
    path.write_text("before")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write[0](path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_replaced(write: tuple[Write, str], tmp_path: Path) -> None:
    path = tmp_path / f"m{write[1]}"
    path.mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder: pass the path of a file in it"):
        write[0](path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(OSError, match="must be a file, got a device or a pipe"):
        write[0](path)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(OSError, match=r"[Ss]ymbolic link"):
        write[0](path)
    assert path.is_symlink()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["picture", "picture.jpg"])
def test_a_picture_of_another_kind_is_an_error(name: str, data: images.Dataset, tmp_path: Path) -> None:
    evaluation = train.Evaluation(np.eye(5, dtype=np.float32)[data.test.labels], data.test.labels)
    with pytest.raises(ValueError, match=rf"path must end in .png, .pdf, .svg, got .*/{name}$"):
        show.draw_predictions(small_model(), data, evaluation, tmp_path / name)
    assert not list(tmp_path.iterdir())


PROGRAM = """
    import os, sys, time
    import vitrail, jax

    def stop(descriptor):
        print("writing", flush=True)
        time.sleep(600)

    os.fsync = stop
    model = vitrail.vit("Ti/16", pool="mean", num_classes=3, image_size=16, key=jax.random.key(0))
    vitrail.save(model, sys.argv[1])
"""


def test_what_a_killed_process_left_is_gone_after_the_next_write_and_that_of_a_living_one_is_not(
    tmp_path: Path,
) -> None:
    """Each process is stopped while it writes, when all but the last step is done."""
    vitrail.save(small_model(), tmp_path / "other")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "m")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writing\n"
        for writer, number in zip(writers, (signal.SIGTERM, signal.SIGKILL), strict=False):
            writer.send_signal(number)
            assert writer.wait(60) == -number
        assert len(list(tmp_path.glob(".m.*.part"))) == 3
        vitrail.save(small_model(), tmp_path / "other")
        (left,) = tmp_path.glob(".m.*.part")
        assert f".{writers[2].pid}-" in left.name
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    vitrail.save(small_model(), tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "other"]


# Reading ----------------------------------------------------------------------------------------------------------


def other_tensors(case: Case) -> dict[str, np.ndarray]:
    """Another model of the same shapes."""
    return {name: tensor + np.float32(0.5) for name, tensor in tensors_of(case).items()}


def change_while_loading(
    path: Path, change: Callable[[], object], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Any:
    """Loads a model, and makes a change when the third tensor has been read."""
    put, calls = jax.device_put, iter(range(10_000))

    def put_and_change(array: Any) -> Any:
        if next(calls) == 2:
            change()
        return put(array)

    with monkeypatch.context() as patch:
        patch.setattr(jax, "device_put", put_and_change)
        model = vitrail.load(path, **options)
    assert next(calls) > 3
    return model


def write_tensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    """Writes an npz or a safetensors file, with the size and the place of each tensor the same for the same shapes."""
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        save_file(tensors, path)


FILES = {"safetensors": load_cases()["torchvision VisionTransformer"], "npz": flax_vit.CASES["big_vision tok"]()}
each_kind = pytest.mark.parametrize("kind", FILES)


@each_kind
def test_a_file_that_another_replaces_while_it_is_read_is_read_to_its_end(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = published(FILES[kind], tmp_path), FILES[kind].options
    first = vitrail.load(path, **options)
    write_tensors(other_tensors(FILES[kind]), tmp_path / f"other{path.suffix}")
    read = change_while_loading(path, lambda: (tmp_path / f"other{path.suffix}").replace(path), monkeypatch, **options)
    assert eqx.tree_equal(read, first)
    assert not eqx.tree_equal(vitrail.load(path, **options), first)


@each_kind
@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_is_overwritten_while_it_is_read_is_an_error(
    same_size: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published(FILES[kind], tmp_path)
    os.utime(path, (1e9, 1e9))
    write_tensors(other_tensors(FILES[kind]), tmp_path / f"other{path.suffix}")
    content = (tmp_path / f"other{path.suffix}").read_bytes()[: None if same_size else 3000]
    with pytest.raises(CheckpointError, match=rf"{path} changed while it was read: load it again when it is complete"):
        change_while_loading(path, lambda: path.write_bytes(content), monkeypatch, **FILES[kind].options)


@pytest.mark.parametrize("name", ["a.safetensors", "model.safetensors.index.json"])
def test_a_checkpoint_in_several_files_of_which_one_is_replaced_is_an_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = tensors_of(TIMM)
    homes = {tensor: f"{'ab'[tensor > 'blocks.1']}.safetensors" for tensor in tensors}
    for home in "ab":
        kept = {tensor: array for tensor, array in tensors.items() if homes[tensor][0] == home}
        save_file(kept, tmp_path / f"{home}.safetensors")
    if TIMM.settings is not None:
        (tmp_path / "config.json").write_text(json.dumps(TIMM.settings))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": homes}))
    other = tmp_path / "other"
    other.write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(CheckpointError, match=rf"{tmp_path / name} changed while it was read: load it again"):
        change_while_loading(index, lambda: other.replace(tmp_path / name), monkeypatch)
    vitrail.load(index)


def test_a_file_of_ours_is_read_to_its_end_whatever_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, other = (small_model(seed=seed) for seed in (0, 1))
    vitrail.save(model, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text("{}")
    replace = lambda: vitrail.save(other, tmp_path / "m.safetensors")  # noqa: E731
    assert eqx.tree_equal(change_while_loading(tmp_path / "m.safetensors", replace, monkeypatch), model)


IMAGES = vitrail.Preprocess("squash", "bicubic", *images.IMAGENET)
folder_files = pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])


@folder_files
@pytest.mark.parametrize("passed", ["a folder", "a file"])
def test_a_folder_of_which_a_file_is_replaced_while_it_is_read_is_an_error(
    passed: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, folder in enumerate(("m", "other")):
        model = small_model(seed=seed, image_size=(16, 16), pool="cls", preprocess=IMAGES)
        vitrail.save(model, tmp_path / folder, layout="hf_vit")
    path = tmp_path / "m" if passed == "a folder" else tmp_path / "m" / "model.safetensors"
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/m/{name} changed while it was read: load it again"):
        change_while_loading(path, lambda: (tmp_path / "other" / name).replace(tmp_path / "m" / name), monkeypatch)
    vitrail.load(path)


@pytest.mark.parametrize("read", [vitrail.load, vitrail.model_card])
def test_tensors_are_not_read_with_the_settings_of_the_folder_that_replaced_theirs(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is replaced when the header of the tensors has been read, and the settings have not."""
    for heads in (1, 4):
        size = vitrail.EncoderSize(dim=64, depth=1, num_heads=heads, mlp_dim=64)
        vitrail.save(small_model(image_size=(16, 16), pool="cls", size=size), tmp_path / str(heads), layout="timm")
    parse = json.loads

    def parse_and_replace(*given: Any, **options: Any) -> Any:
        if (tmp_path / "4").exists():
            (tmp_path / "1").rename(tmp_path / "old")
            (tmp_path / "4").rename(tmp_path / "1")
        return parse(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", parse_and_replace)
        with pytest.raises(CheckpointError, match=r"/1/model.safetensors changed while it was read: load it again"):
            read(tmp_path / "1")
    assert vitrail.load(tmp_path / "1").config.size.num_heads == 4
