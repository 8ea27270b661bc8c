"""Files that are not what they claim: each is one error that names the file, and nothing is loaded."""

import json
import pickle
import struct
import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import flax_vit
import ml_dtypes
import numpy as np
import pytest
from checkpoint_cases import Case, load_cases, published, tensors_of
from helpers import final_norm
from safetensors.numpy import save_file

import vitrail
from vitrail import CheckpointError
from vitrail.weights.formats import UnstackedSource, open_source

CASES = load_cases()
TIMM = CASES["timm vit_tiny_patch16_224"]
HF = CASES["transformers ViTForImageClassification"]


def header_and_data(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: bytes | dict[str, Any], data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def doubled(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header)
    name = next(iter(header))
    return with_header((text[:-1] + f', "{name}": {json.dumps(header[name])}}}').encode(), data)


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any], bytes], bytes]:
    def damage(header: dict[str, Any], data: bytes) -> bytes:
        change(header)
        return with_header(header, data)

    return damage


def first(header: dict[str, Any]) -> dict[str, Any]:
    return next(value for key, value in header.items() if key != "__metadata__")


DAMAGES: dict[str, tuple[Callable[[dict[str, Any], bytes], bytes], str]] = {
    "empty": (lambda h, d: b"", "is not a valid safetensors file: the header should have 0 bytes"),
    "seven bytes": (lambda h, d: b"1234567", "is not a valid safetensors file: it is text that begins with '1234567'"),
    "HTML": (lambda h, d: b"<!DOCTYPE html><html><body>404: Not Found</body></html>", "it is a page in HTML"),
    "a pointer of Git LFS": (
        lambda h, d: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "'git lfs pull' replaces with the file",
    ),
    "a picture": (lambda h, d: b"\xff\xd8\xff\xe0\0\x10JFIF\0\1", "it is a JPEG image"),
    "text": (lambda h, d: b"Not Found:\nthere is no such file", "it is text that begins with 'Not Found: there"),
    "a pickle": (lambda h, d: pickle.dumps({"a": 1}), "is a pickle of PyTorch, which can run any code"),
    "truncated in the header": (lambda h, d: with_header(h, b"")[:40], "is not a valid safetensors file"),
    "truncated in the data": (lambda h, d: with_header(h, d[:-4]), "follow the header"),
    "too long": (lambda h, d: with_header(h, d + b"\0"), "follow the header"),
    "a header of 2**63 bytes": (lambda h, d: struct.pack("<Q", 2**63) + d, "9,223,372,036,854,775,808 bytes"),
    "a header that is a list": (lambda h, d: with_header(b"[]", d), "is not a JSON object"),
    "a header that is no JSON": (lambda h, d: with_header(b"{'a': 1}", d), "is not JSON"),
    "a header that is no text": (lambda h, d: with_header(b"\xff\xfe{}", d), "is not JSON"),
    "a header that is nested": (lambda h, d: with_header(b"[" * 100_000, d), "is not JSON"),
    "numbers that are long": (lambda h, d: with_header(b'{"a":' + b"9" * 10_000 + b"}", d), "is not JSON"),
    "a name twice": (doubled, "twice"),
    "metadata that are no strings": (changed(lambda h: h.update(__metadata__={"a": 1})), "the metadata is not"),
    "a negative axis": (changed(lambda h: first(h).update(shape=[-1, 2])), "the header describes the tensor"),
    "an axis that is true": (changed(lambda h: first(h).update(shape=[True])), "the header describes the tensor"),
    "a shape beyond its bytes": (changed(lambda h: first(h).update(shape=[2**40, 2**40])), "and has"),
    "no dtype": (changed(lambda h: first(h).pop("dtype")), "the header describes the tensor"),
    "an unknown dtype": (changed(lambda h: first(h).update(dtype="F4")), "the unknown dtype 'F4'"),
    "offsets that overlap": (changed(lambda h: first(h).update(data_offsets=[4, 4 + 64])), "and has|begins at byte"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_error_that_names_it(damage: str, tmp_path: Path) -> None:
    path = published(TIMM, tmp_path)
    change, message = DAMAGES[damage]
    path.write_bytes(change(*header_and_data(path)))
    with pytest.raises(CheckpointError, match=message) as caught:
        vitrail.load(path)
    assert str(path) in str(caught.value)


def rewritten(case: Case, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = published(case, folder)
    tensors: dict[str, Any] = dict(tensors_of(case))
    change(tensors)
    save_file(tensors, path)
    return path


QKV = "blocks.1.attn.qkv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(QKV), rf"lacks '{QKV}' for 'backbone.encoder.stack.attention.qkv.weight'"),
        (lambda t: t.pop("norm.bias"), "lacks 'norm.bias' for 'backbone.norm.bias'"),
        (lambda t: t.update(more=np.zeros(3, np.float32)), "the model has no place for: 'more'"),
        (lambda t: t.update({"blocks.7.norm1.weight": t["norm.weight"]}), "without a gap"),
        (lambda t: t.update({QKV: t[QKV].T.copy()}), rf"'{QKV}' as F32\[16, 48\], which does not fit .*\[48, 16\]"),
        (lambda t: t.update({QKV: t[QKV][:-1]}), rf"'{QKV}' as F32\[47, 16\]"),
        (lambda t: t.update({QKV: t[QKV].astype(np.float64)}), rf"'{QKV}' as F64.*pass convert=True"),
        (lambda t: t.update({QKV: t[QKV].astype(np.float16)}), rf"'{QKV}' as F16.*pass convert=True"),
        (lambda t: t.update({QKV: t[QKV].astype(ml_dtypes.bfloat16)}), rf"'{QKV}' as BF16.*pass convert=True"),
        (lambda t: t.update({QKV: t[QKV].astype(np.int32)}), rf"'{QKV}' as I32\[48, 16\], but needs .*\[48, 16\]$"),
        (lambda t: t.update({QKV: t[QKV].reshape(-1)}), rf"'{QKV}' as F32\[768\], which does not fit .*\[48, 16\]"),
        (
            lambda t: t.update(cls_token=t["cls_token"][..., :15].copy()),
            r"has 'cls_token' as F32\[1, 1, 15\], which does not fit 'backbone.class_token' as F32\[16\]",
        ),
        (lambda t: t.update({"pos_embed": t["pos_embed"][:, :-3]}), "has positions for 13 patches"),
        (lambda t: t.update({"patch_embed.proj.weight": t[QKV]}), "must have 'patch_embed.proj.weight' with 4 axes"),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(change: Callable[[Any], object], message: str, tmp_path: Path) -> None:
    path = rewritten(TIMM, tmp_path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        vitrail.load(path)
    assert str(path) in str(caught.value)


def test_queries_keys_and_values_have_the_same_rows(tmp_path: Path) -> None:
    start = "vit.encoder.layer.1.attention.attention."

    def change(tensors: dict[str, Any]) -> None:
        both = np.concatenate([tensors[f"{start}{name}.weight"] for name in ("query", "key")])
        tensors |= {f"{start}query.weight": both[:20].copy(), f"{start}key.weight": both[20:].copy()}

    with pytest.raises(CheckpointError, match=r"query.weight' as F32\[20, 16\].*key.weight' as F32\[12, 16\]"):
        vitrail.load(rewritten(HF, tmp_path, change))


def test_a_mask_of_another_shape_than_its_bias_is_named(tmp_path: Path) -> None:
    mask = "blocks.1.attn.qkv.bias_mask"
    path = rewritten(CASES["Meta DINOv3"], tmp_path, lambda t: t.update({mask: np.ones(1, np.float32)}))
    with pytest.raises(CheckpointError, match=rf"has '{mask}' as F32\[1\] for 'blocks.1.attn.qkv.bias' as F32"):
        vitrail.load(path, config={"num_heads": 2})


@pytest.mark.parametrize(("axes", "rows"), [([1, 2**70, 0], 0), ([1] * 69 + [16], 1)], ids=["2**70", "70 axes"])
def test_a_shape_that_no_array_can_have_is_named(axes: list[int], rows: int, tmp_path: Path) -> None:
    path = rewritten(TIMM, tmp_path, lambda t: t.update(cls_token=t["cls_token"][:, :rows]))
    path.write_bytes(changed(lambda h: h["cls_token"].update(shape=axes))(*header_and_data(path)))
    with pytest.raises(
        CheckpointError, match=r"has 'cls_token' as F32\[1, .*, which does not fit 'backbone.class_token'"
    ):
        vitrail.load(path)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_floating_point_numbers_are_converted_when_that_is_asked_for(dtype: Any, tmp_path: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors.update({name: array.astype(dtype) for name, array in tensors.items()})

    model = vitrail.load(rewritten(TIMM, tmp_path, change), convert=True)
    expected = tensors_of(TIMM)["norm.weight"].astype(dtype).astype(np.float32)
    assert np.array_equal(final_norm(model).weight, expected)


def test_a_number_that_float32_does_not_hold_is_not_converted(tmp_path: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors[QKV] = tensors[QKV].astype(np.float64)
        tensors[QKV][3, 4] = 1e300

    with pytest.raises(CheckpointError, match=rf"model.safetensors has numbers in '{QKV}' that are too large"):
        vitrail.load(rewritten(TIMM, tmp_path, change), convert=True)


def test_float8_is_not_converted(tmp_path: Path) -> None:
    path = published(TIMM, tmp_path)
    header, data = header_and_data(path)
    start, end = header["norm.weight"]["data_offsets"]
    header["norm.weight"] |= {"dtype": "F8_E4M3", "shape": [end - start]}
    path.write_bytes(with_header(header, data))
    for convert in (False, True):
        with pytest.raises(CheckpointError, match=r"'norm.weight' as F8_E4M3\[64\]"):
            vitrail.load(path, convert=convert)


def test_a_file_of_no_known_layout_says_what_is_in_it(tmp_path: Path) -> None:
    save_file({"a.b": np.zeros(2, np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(
        CheckpointError, match=r"m.safetensors has no layout that vitrail knows. Its 1 tensors begin with 'a.b'"
    ):
        vitrail.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "bert"}, "the config.json beside it says 'bert'"),
        ({"hidden_act": "mish"}, "'hidden_act' beside .* must be one of .*'gelu'.*got 'mish'"),
        ({"num_attention_heads": 5}, "'num_attention_heads' beside .* must divide 16, got 5"),
        ({"num_attention_heads": "two"}, "must divide 16, got 'two'"),
        ({"layer_norm_eps": "small"}, "must be a number, got 'small'"),
        ({"layer_norm_eps": -1.0}, "norm_eps must be a finite number above zero"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = published(HF, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps((HF.settings or {}) | settings))
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_settings_that_are_no_object_are_named(text: str, tmp_path: Path) -> None:
    path = published(HF, tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config.json must be"):
        vitrail.load(path)


def test_what_the_tensors_do_not_say_is_asked_for(tmp_path: Path) -> None:
    for name in ("timm vit_base_patch16_clip_quickgelu_224", "timm vit_base_patch16_siglip_224"):
        path = published(CASES[name], tmp_path)
        (tmp_path / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"pass config=\{'architecture'"):
            vitrail.load(path)
    path = published(HF, tmp_path)
    with pytest.raises(CheckpointError, match="how many heads"):
        vitrail.load(path, config={"layer_norm_eps": 1e-12})


# Several files ----------------------------------------------------------------------------------------------------


def sharded(folder: Path, homes: Callable[[str], str] = lambda name: f"{'ab'[name > 'd']}.safetensors") -> Path:
    tensors = tensors_of(HF)
    weight_map = {name: homes(name) for name in tensors}
    for shard in set(weight_map.values()):
        save_file({name: array for name, array in tensors.items() if weight_map[name] == shard}, folder / shard)
    (folder / "config.json").write_text(json.dumps(HF.settings))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def test_a_checkpoint_in_several_files_is_one_model(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    whole = vitrail.load(published(HF, tmp_path / "one"))
    index = sharded(tmp_path)
    for path in (index, tmp_path):
        loaded = vitrail.load(path)
        assert np.array_equal(loaded.backbone.encoder.stack.mlp.out.weight, whole.backbone.encoder.stack.mlp.out.weight)


@pytest.mark.parametrize("home", ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "a\\b"])
def test_an_index_that_points_elsewhere_is_refused(home: str, tmp_path: Path) -> None:
    index = sharded(tmp_path)
    content = json.loads(index.read_text())
    content["weight_map"][next(iter(content["weight_map"]))] = home
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="must list files beside it"):
        vitrail.load(index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["weight_map"].pop("classifier.bias"), "disagree on 'classifier.bias'"),
        (lambda c: c["weight_map"].update(more="a.safetensors"), "disagree on 'more'"),
        (lambda c: c["weight_map"].update(more="c.safetensors"), "lists the file 'c.safetensors', which is not beside"),
        (lambda c: c["weight_map"].update(more=3), "must be an index with a 'weight_map'"),
        (lambda c: c["weight_map"].update(more="c" * 5000), "lists the file 'c+', which is not beside"),
        (lambda c: c.pop("weight_map"), "must be an index with a 'weight_map'"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_named(
    change: Callable[[Any], object], message: str, tmp_path: Path
) -> None:
    index = sharded(tmp_path)
    content = json.loads(index.read_text())
    change(content)
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(index)


def test_an_index_of_long_numbers_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    index.write_text('{"weight_map": ' + "9" * 5000 + "}")
    with pytest.raises(CheckpointError, match="must be an index in JSON"):
        vitrail.load(index)


# npz --------------------------------------------------------------------------------------------------------------


def npz(folder: Path) -> Path:
    return published(flax_vit.CASES["big_vision tok"](), folder)


def with_member(path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr(name, content)


def npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


NEGATIVE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1, 16)}\n"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_npz_that_does_not_unpack_is_refused(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(npz(tmp_path)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for damage in (b"", b"\xff" * 30):
        with zipfile.ZipFile(tmp_path / "m.npz", "w", method) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
            begin = archive.getinfo("embedding/kernel.npy").header_offset + 60
        data = bytearray((tmp_path / "m.npz").read_bytes())
        data[begin + 100 : begin + 100 + len(damage)] = damage
        (tmp_path / "m.npz").write_bytes(data)
        if damage:
            with pytest.raises(CheckpointError, match=r"is not a valid npz file of arrays: .*Download it again"):
                vitrail.load(tmp_path / "m.npz")
        else:
            vitrail.load(tmp_path / "m.npz")


def test_a_name_in_an_npz_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path)
    with_member(path, "ü.npy", npy(b""))
    path.write_bytes(path.read_bytes().replace("ü".encode(), b"\xff\xff"))
    with pytest.raises(CheckpointError, match="is not a valid npz file of arrays: UnicodeDecodeError"):
        vitrail.load(path)


def test_an_npz_with_any_directory_is_read_or_refused(tmp_path: Path) -> None:
    path = npz(tmp_path)
    data, state, refused = path.read_bytes(), np.random.RandomState(0), 0
    for _ in range(60):
        changed = bytearray(data)
        for place in state.randint(len(data) - 150, len(data), 3):
            changed[place] = state.randint(256)
        path.write_bytes(changed)
        try:
            vitrail.model_card(path)
        except CheckpointError:
            refused += 1
    assert refused > 20


def test_an_npz_whose_first_axis_runs_fastest_is_read(tmp_path: Path) -> None:
    path, case = npz(tmp_path), flax_vit.CASES["big_vision tok"]()
    plain = vitrail.load(path)
    np.savez(tmp_path / "turned.npz", **{name: np.asfortranarray(a) for name, a in tensors_of(case).items()})
    assert eqx.tree_equal(vitrail.load(tmp_path / "turned.npz"), plain)


STACKED = "Transformer/encoderblock/"


@pytest.mark.parametrize("shape", [(10**6, 0), (2**40, 0), (100_001, 1)])
def test_stacked_blocks_that_no_model_has_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    save_file(
        {"a": np.zeros(2, np.float32), STACKED + "x": np.zeros((shape[0] % 2**20, shape[1]), np.float32)},
        tmp_path / "m",
    )
    whole = changed(lambda h: h[STACKED + "x"].update(shape=list(shape)))
    (tmp_path / "m").write_bytes(whole(*header_and_data(tmp_path / "m")))
    with pytest.raises(CheckpointError, match="has no layout"):
        vitrail.load(tmp_path / "m")
    with (
        open_source(tmp_path / "m") as source,
        pytest.raises(CheckpointError, match=rf"got '{STACKED}x' as F32\[{shape[0]}, {shape[1]}\]"),
    ):
        UnstackedSource(source, STACKED)


def test_an_npz_with_a_pickle_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", a=np.array([{}], object))
    with pytest.raises(CheckpointError, match=r"'a.npy' has the unknown dtype object"):
        vitrail.load(tmp_path / "m.npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"not an array", "'x.npy' is not an array"),
        ("x.npy", b"", "'x.npy' is not an array"),
        ("x.npy", npy(b"(" * 200), "'x.npy' is not an array"),
        ("x.npy", npy(NEGATIVE) + bytes(64), r"'x.npy' is F32\[-1, -1, 16\] and has 64 bytes"),
        ("cls.npy", b"", "has a name twice"),
        ("x.npy", bytes(200 * 2**20), "would unpack to"),
    ],
)
def test_an_npz_that_is_no_archive_of_arrays_is_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = npz(tmp_path)
    with_member(path, name, content)
    with pytest.raises(CheckpointError, match=message):
        vitrail.load(path)


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_truncated_npz_is_refused(cut: float, tmp_path: Path) -> None:
    path = npz(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(CheckpointError, match="is not a valid npz file"):
        vitrail.load(path)


def test_a_flipped_bit_in_an_npz_is_found(tmp_path: Path) -> None:
    path = npz(tmp_path)
    data = bytearray(path.read_bytes())
    place = data.index(b"Transformer/encoder_norm/scale.npy") + 300
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is not a valid npz"):
        vitrail.load(path)


# Memory -----------------------------------------------------------------------------------------------------------


def test_a_header_of_a_million_tensors_is_refused_in_little_memory(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"blocks.{i}.norm1.weight": entry for i in range(1_000_000)}).encode()
    (tmp_path / "m.safetensors").write_bytes(with_header(header, b""))
    del header
    program = f"""
        import resource, vitrail
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            vitrail.load({str(tmp_path / "m.safetensors")!r})
        except vitrail.CheckpointError as error:
            assert "more than 16,777,216" in str(error), error
        else:
            raise AssertionError("it was loaded")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 64 * 1024  # kilobytes
