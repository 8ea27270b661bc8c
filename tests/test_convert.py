"""`vitrail.convert`: a model in another layout, with a model card and a proof."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from checkpoint_cases import TOLERANCE, differences, load_cases, published, tensors_of
from safetensors.numpy import load_file, save_file
from system_cases import compare, load_system_cases

import vitrail
from vitrail.cli import main
from vitrail.weights import _convert

REGISTERS = load_cases()["timm vit_small_patch14_reg4_dinov2"]
HF_REGISTERS = load_cases()["transformers Dinov2WithRegistersModel"]
AIMV2 = load_system_cases()["transformers Aimv2Model"]


def test_a_position_that_the_library_has_is_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """timm's DINOv2 with registers has no position for its class token, and Hugging Face's has one."""
    path, out = published(REGISTERS, tmp_path / "read"), tmp_path / "written"
    assert main(["convert", str(path), str(out), "--layout", "hf_dinov2"]) == 0
    said = capsys.readouterr().out
    assert "in another form, which means the same" in said
    assert "differ by 0, relative" in said
    written, read = load_file(out / "model.safetensors"), tensors_of(REGISTERS)
    np.testing.assert_array_equal(written["embeddings.cls_token"], read["cls_token"])
    positions = written["embeddings.position_embeddings"]
    assert not positions[:, 0].any()
    np.testing.assert_array_equal(positions[:, 1:], read["pos_embed"])
    found = differences(dataclasses.replace(REGISTERS, options={}), out)  # timm's outputs, at the size of the weights
    height, width = vitrail.model_card(out).config.image_size
    assert max(found[f"{height}x{width} {name}"] for name in ("tokens", "pooled")) < TOLERANCE
    assert json.loads((out / "config.json").read_text())["architectures"] == ["Dinov2WithRegistersModel"]


def test_a_position_that_the_library_does_not_have_joins_its_token(tmp_path: Path) -> None:
    path = published(HF_REGISTERS, tmp_path / "read")
    done = vitrail.convert(path, tmp_path / "written", layout="timm")
    assert (done.difference, done.same_arrays, done.card.layout) == (0, False, "timm")
    written, read = load_file(tmp_path / "written" / "model.safetensors"), tensors_of(HF_REGISTERS)
    positions = read["embeddings.position_embeddings"]
    np.testing.assert_array_equal(written["cls_token"], read["embeddings.cls_token"] + positions[:, :1])
    np.testing.assert_array_equal(written["pos_embed"], positions[:, 1:])


@pytest.mark.parametrize("layout", ["hf_vit", "timm"])
def test_a_model_with_positions_of_its_patches_alone_computes_the_same(layout: Any, tmp_path: Path) -> None:
    size = vitrail.EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=24)
    head = vitrail.HEADS.configure("linear", bias=layout == "hf_vit")
    position = vitrail.POSITIONS.configure("learned", covers_prefix=False)
    config = vitrail.ViTConfig(
        image_size=(8, 8), patch_size=(4, 4), size=size, num_classes=3, pool="cls", position=position, head=head
    )
    vitrail.save(config.build(key=jax.random.key(0)), tmp_path / "own.safetensors")
    done = vitrail.convert(tmp_path / "own.safetensors", tmp_path / "written", layout=layout)
    assert (done.difference, done.same_arrays) == (0, False)
    tensors = load_file(tmp_path / "written" / "model.safetensors")
    if layout == "hf_vit":
        assert not tensors["vit.embeddings.position_embeddings"][:, 0].any()
    else:
        assert not tensors["head.bias"].any()


def test_both_towers_are_written(tmp_path: Path) -> None:
    path = AIMV2.publish(tmp_path / "read")
    done = vitrail.convert(path, tmp_path / "written", layout="hf_aimv2")
    assert done.same_arrays
    assert max(compare(AIMV2, tmp_path / "written").values()) < TOLERANCE
    text = (tmp_path / "written" / "README.md").read_text()
    assert "library_name: transformers\npipeline_tag: zero-shot-image-classification\n" in text
    assert 'model = Aimv2Model.from_pretrained("written")' in text


def test_the_licence_goes_along_and_the_way_back_is_the_same_model(tmp_path: Path) -> None:
    case = load_cases()["timm vit_tiny_patch16_224"]
    path = published(dataclasses.replace(case, settings={**(case.settings or {}), "license": "cc-by-4.0"}), tmp_path)
    own = vitrail.convert(path, tmp_path / "own.safetensors")
    assert own.same_arrays
    assert own.card.licence == "cc-by-4.0"
    folder = vitrail.convert(own.path, tmp_path / "folder", layout="hf_vit")
    assert folder.card.licence == "cc-by-4.0"
    assert "license: cc-by-4.0\npipeline_tag: image-classification\n" in (folder.path / "README.md").read_text()
    mine = vitrail.convert(folder.path, tmp_path / "mine")
    assert sorted(each.name for each in mine.path.iterdir()) == ["README.md", "model.safetensors"]
    back = vitrail.convert(mine.path, tmp_path / "back", layout="timm")
    written = load_file(back.path / "model.safetensors")
    assert all(np.array_equal(array, written[name]) for name, array in tensors_of(case).items())


def test_what_cannot_be_written_is_found_before_the_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published(REGISTERS, tmp_path / "read")
    monkeypatch.setattr(_convert, "load", None)
    for out in (path, path.parent):
        with pytest.raises(ValueError, match="out must be another place than what is read"):
            vitrail.convert(path, out)
    index, shard = _divide(path, tmp_path / "parts")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "model.safetensors").symlink_to(path)
    for source, out in (
        (path.parent, path),  # the file of a folder
        (index, shard),
        (index, index.parent),
        (index.parent, shard),
        (index.parent, index.parent / "model.safetensors"),  # a folder with both is read without its index
        (path, linked / "model.safetensors"),
        (path, linked),
        (linked / "model.safetensors", linked),
    ):
        with pytest.raises(ValueError, match="out must be another place than what is read"):
            vitrail.convert(source, out)
    with pytest.raises(
        ValueError, match=r"layout must be one of 'vitrail', .* got 'hf_dinvo2' \(did you mean 'hf_dinov2'"
    ):
        vitrail.convert(path, tmp_path / "out", layout="hf_dinvo2")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="out must be a folder for layout='timm'"):
        vitrail.convert(path, tmp_path / "m.safetensors", layout="timm")
    with pytest.raises(ValueError, match="pick must be None without from_torch"):
        vitrail.convert(path, tmp_path / "m.safetensors", pick="teacher")
    with pytest.raises(ValueError, match=r"out must be a folder or end in \.safetensors"):
        vitrail.convert(path, tmp_path / "model.npz")
    with pytest.raises(ValueError, match="model must have a ImageTextConfig or a ViTConfig"):
        vitrail.convert(_publish_mae(tmp_path / "mae"), tmp_path / "out", layout="hf_siglip")
    with pytest.raises(vitrail.UnknownPartError, match="there is no pool 'meen'"):
        vitrail.convert(path, tmp_path / "out", pool="meen")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"or one with a model\.safetensors that is replaced"):
        vitrail.convert(path, tmp_path / "notes", layout="timm")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="out must be a folder, got the file"):
        vitrail.convert(path, tmp_path / "file", layout="timm")


def _divide(path: Path, folder: Path) -> tuple[Path, Path]:
    """The same checkpoint as an index and a file that it lists."""
    folder.mkdir()
    shard = folder / "model-00001-of-00001.safetensors"
    shard.write_bytes(path.read_bytes())
    (folder / "config.json").write_bytes(path.with_name("config.json").read_bytes())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(load_file(path), shard.name)}))
    return index, shard


def _publish_mae(folder: Path) -> Path:
    return load_system_cases()["transformers ViTMAEForPreTraining"].publish(folder)


def test_a_model_is_replaced_when_the_new_one_is_proved_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published(REGISTERS, tmp_path / "read")
    folder, file = tmp_path / "folder", tmp_path / "own.safetensors"
    vitrail.convert(published(HF_REGISTERS, tmp_path / "other"), folder, layout="hf_dinov2")
    (folder / "own.txt").write_text("mine")
    assert "It was converted from" in (folder / "README.md").read_text()
    file.write_bytes(b"old")
    file.chmod(0o640)
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    before = {each: each.read_bytes() for each in folder.iterdir()}

    def change(made: Path) -> Any:
        return jax.tree.map(lambda leaf: 1.1 * leaf, read(made))

    def fail(made: Path) -> None:
        raise KeyboardInterrupt

    read = _convert.read_model
    monkeypatch.setattr(_convert, "read_model", change)
    for out in (folder, file, tmp_path / "link"):
        with pytest.raises(vitrail.CheckpointError, match=rf"{out.name} was not written: the .* differs by"):
            vitrail.convert(path, out, layout="vitrail" if out == file else "timm")
    monkeypatch.setattr(_convert, "read_model", fail)
    with pytest.raises(KeyboardInterrupt):
        vitrail.convert(path, folder, layout="timm")
    assert {each: each.read_bytes() for each in folder.iterdir()} == before
    assert file.read_bytes() == b"old"
    assert not list((tmp_path / "link").iterdir())
    assert {each.name for each in tmp_path.iterdir()} == {"read", "other", "folder", file.name, "target", "link"}
    monkeypatch.setattr(_convert, "read_model", read)
    done = vitrail.convert(path, folder, layout="timm")
    assert done.card == vitrail.model_card(folder)
    assert done.card.layout == "timm"
    assert {each.name for each in folder.iterdir()} == {"README.md", "config.json", "model.safetensors", "own.txt"}
    assert "the layout `timm`" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("# My model\n")
    vitrail.convert(path, folder)
    assert {each.name for each in folder.iterdir()} == {"README.md", "model.safetensors", "own.txt"}
    assert (folder / "README.md").read_text() == "# My model\n"
    assert eqx.tree_equal(vitrail.load(vitrail.convert(path, file).path), vitrail.load(path))
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_conversion_to_float32_and_what_is_assumed_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published(dataclasses.replace(load_cases()["timm vit_tiny_patch16_224"], settings=None), tmp_path)
    tensors = {name: array.astype(np.float64) + 1e-12 for name, array in load_file(path).items()}
    save_file(tensors, path)
    command = ["convert", str(path), str(tmp_path / "folder"), "--layout", "timm", "--convert"]
    command += ["--config", '{"num_heads": 2}']
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "converted from float64 to float32, and then equal to the bit" in printed
    assert "assumed     architecture a plain ViT's" in printed
    assert "which vitrail assumed" in (tmp_path / "folder" / "README.md").read_text()
