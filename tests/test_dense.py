"""Dense prediction: what a readout and its model promise, and files and pictures that are refused."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, random_array, run
from PIL import Image
from safetensors.numpy import load_file, save_file
from system_cases import SystemCase, load_system_cases

import vitrail
from vitrail import READOUTS, CheckpointError, Dense, DenseConfig, Preprocess
from vitrail.cli import main
from vitrail.show import choose_classes, draw_classes, draw_depth, resize_depth
from vitrail.testing import check_readout, readout_checks

KEY = jax.random.key(0)
CASES = load_system_cases()
SMALL: dict[str, Any] = {"layers": (0, 1), "widths": (4, 6), "scales": (2, 1), "fusion_dim": 8}
DPT = READOUTS.configure("dpt", **SMALL, hidden_dim=4)
CLASSES_DPT = READOUTS.configure("dpt", **SMALL)
TWO = READOUTS.configure("linear", layers=(-2, -1), use_class_token=True, batch_norm=True)
IMAGE = random_array(8, 12, 3)


def image_config(**changes: Any) -> vitrail.ViTConfig:
    """A small image model with a class token and a register."""
    fields: dict[str, Any] = {
        "image_size": (8, 12),
        "patch_size": (4, 4),
        "size": vitrail.EncoderSize(dim=16, depth=2, num_heads=2, mlp_dim=24),
        "pool": "cls",
        "head": "none",
        "num_registers": 1,
    }
    return vitrail.ViTConfig(**(fields | changes))


@functools.cache
def make(readout: Any = DPT, num_classes: int | None = None) -> Dense:
    """A model with that readout."""
    return DenseConfig(image=image_config(), readout=readout, num_classes=num_classes).build(key=KEY)


def same_arrays(a: Any, b: Any) -> bool:
    """Whether two trees hold equal arrays."""
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(leaves) == len(others) and all(np.array_equal(*pair) for pair in zip(leaves, others, strict=True))


# The model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("readout", "num_classes"), [(DPT, None), (CLASSES_DPT, 5), (TWO, 5), ("linear", None)])
def test_a_map_has_the_size_of_the_image_and_a_channel_for_each_class(readout: Any, num_classes: int | None) -> None:
    model = make(readout, num_classes)
    assert run(model, IMAGE).shape == (8, 12, num_classes or 1)
    both = jnp.stack([IMAGE, 2 * IMAGE])
    assert_close(run(jax.vmap(model), both)[1], run(model, both[1]))
    larger = model.resized((16, 12))
    assert run(larger, random_array(16, 12, 3)).shape == (16, 12, num_classes or 1)
    assert same_arrays(larger.readout, model.readout)
    assert larger.config.image.image_size == (16, 12)
    half = model.with_execution(vitrail.Execution(compute_dtype="bfloat16"))
    assert run(half, IMAGE).dtype == jnp.float32
    dropping = model.with_dropout(vitrail.Dropout(rate=0.5))
    found = run(model, IMAGE)
    assert np.abs(run(dropping, IMAGE, key=KEY) - found).max() > 0.1 * np.abs(found).max()
    assert_close(run(dropping, IMAGE), found)


def test_blocks_after_the_last_layer_do_not_run_and_all_before_it_learn() -> None:
    model = make(READOUTS.configure("linear", layers=(0,), norm=False), 3)

    def loss(model: Dense) -> Any:
        return jnp.sum(model(IMAGE) ** 2)

    gradient = run(eqx.filter_grad(loss), model)
    weights = np.asarray(gradient.image.backbone.encoder.stack.mlp.out.weight)
    assert np.any(weights[0] != 0)
    assert not np.any(weights[1])
    assert np.any(np.asarray(gradient.image.backbone.patch.weight) != 0)


def test_the_linear_readout_is_a_layer_for_each_patch() -> None:
    """Its equation in NumPy, on the tokens that the image model gives."""
    model = make(TWO, 5)
    drawn = vitrail.testing.randomise(lambda: model.readout)
    model = dataclasses.replace(model, readout=drawn)
    readout: Any = model.readout
    tokens = np.asarray(model.image.backbone.activations(IMAGE, layers=(-2, -1), norm=True)["tokens"])
    patches, class_token = tokens[:, 2:], np.broadcast_to(tokens[:, :1], tokens[:, 2:].shape)
    x = np.concatenate([patches[0], class_token[0], patches[1], class_token[1]], axis=-1)
    norm = {name: np.asarray(getattr(readout.norm_inputs, name)) for name in ("weight", "bias", "mean", "variance")}
    x = (x - norm["mean"]) / np.sqrt(norm["variance"] + 1e-5) * norm["weight"] + norm["bias"]
    cells = (x @ np.asarray(readout.linear.weight).T + np.asarray(readout.linear.bias)).reshape(2, 3, 5)
    assert_close(run(model, IMAGE), jax.image.resize(cells, (8, 12, 5), "linear"), tolerance=2e-5)


def test_make_dense_keeps_the_image_model() -> None:
    image = image_config(num_classes=3, head="linear").build(key=KEY)
    model = vitrail.make_dense(image, "linear", num_classes=2, classes=("sky", "sea"), key=KEY)
    assert model.image is image
    assert model.config == DenseConfig(image=image.config, readout="linear", num_classes=2, classes=("sky", "sea"))
    assert same_arrays(model.config.build(key=KEY).readout.layers, model.readout.layers)


def test_replace_swaps_the_readout() -> None:
    model = dataclasses.replace(make(TWO, 5), config=dataclasses.replace(make(TWO, 5).config, classes=tuple("abcde")))
    swapped = vitrail.replace(model, readout=CLASSES_DPT, key=KEY)
    assert (swapped.config.readout, swapped.config.num_classes, swapped.config.classes) == (
        CLASSES_DPT,
        5,
        tuple("abcde"),
    )
    assert isinstance(swapped.readout, vitrail.DPTReadout)
    assert same_arrays(swapped.image, model.image)
    depth = vitrail.replace(model, readout="linear", num_classes=None, key=KEY)
    assert (depth.readout.out_dim, depth.config.classes) == (1, None)
    named = vitrail.replace(model, classes=tuple("fghij"))
    assert named.config.classes == tuple("fghij")
    assert same_arrays(named.readout, model.readout)
    preprocess = Preprocess("keep", "bicubic", (0.5,) * 3, (0.5,) * 3, multiple=4)
    assert vitrail.replace(model, preprocess=preprocess).image.config.preprocess == preprocess
    assert eqx.tree_equal(eqx.filter_eval_shape(swapped.config.build, key=KEY), eqx.filter_eval_shape(lambda: swapped))


def test_replace_says_what_it_cannot_replace() -> None:
    with pytest.raises(ValueError, match=r"needs a key for the weights of a new readout, got None: pass key="):
        vitrail.replace(make(), readout="linear")
    with pytest.raises(ValueError, match=r"a Dense has no 'pool' to replace, but its image model has: .*make_dense"):
        vitrail.replace(make(), pool="mean", key=KEY)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"a ViT has no dense readout to replace: .*make_dense\(model, readout\)"):
        vitrail.replace(make().image, readout="linear", key=KEY)  # type: ignore[call-overload]


@pytest.mark.parametrize(("readout", "num_classes"), [(CLASSES_DPT, 5), (TWO, None)])
def test_a_file_of_ours_holds_the_model(readout: Any, num_classes: int | None, tmp_path: Path) -> None:
    model = make(readout, num_classes)
    assert DenseConfig.from_json(model.config.to_json()) == model.config
    vitrail.save(model, tmp_path / "m.safetensors")
    assert eqx.tree_equal(vitrail.load(tmp_path / "m.safetensors"), model)
    assert vitrail.model_card(tmp_path / "m.safetensors").kind == "dense"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"readout": READOUTS.configure("linear", layers=(2,))},
            r"layers must be numbers of blocks from -2 to 1.*\(2,\)",
        ),
        (
            {"readout": READOUTS.configure("dpt", layers=(0, 1))},
            r"layers, widths and scales must have one entry for each",
        ),
        (
            {"readout": READOUTS.configure("dpt", layers=(0,), widths=(4,), scales=(1.5,))},
            r"scales must be whole numbers",
        ),
        ({"readout": "dpt"}, r"layers must be given for an encoder of fewer than four blocks, got .* and 2 blocks"),
        (
            {"readout": READOUTS.configure("dpt", layers=(0,), widths=(4,), scales=(0,))},
            r"scales must be a finite number above zero, got 0",
        ),
        (
            {"readout": READOUTS.configure("dpt", **dict(DPT.options)), "num_classes": 3},
            r"hidden_dim, refine, .* are options of a depth, got them with num_classes=3",
        ),
        ({"num_classes": 3, "classes": ("a",)}, r"classes must have a name for each of the num_classes=3"),
        ({"num_classes": 0}, r"num_classes must be positive, got 0"),
    ],
)
def test_a_configuration_that_does_not_fit_is_an_error(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        eqx.filter_eval_shape(DenseConfig(image=image_config(), **fields).build, key=KEY)


@pytest.mark.parametrize(
    "readout", [TWO, READOUTS.configure("dpt", layers=(0, 1), widths=(4, 6), scales=(2, 1), use_class_token="add")]
)
def test_a_class_token_that_is_not_there_is_an_error(readout: Any) -> None:
    config = DenseConfig(image=image_config(pool="mean"), readout=readout)
    with pytest.raises(ValueError, match=r"use_class_token=.* reads the class token, got a model without one"):
        eqx.filter_eval_shape(config.build, key=KEY)


test_linear_keeps_its_contract = readout_checks(TWO)


def test_dpt_keeps_its_contract() -> None:
    check_readout(READOUTS.configure("dpt", **SMALL, batch_norm=True), num_classes=2)


# Files -----------------------------------------------------------------------------------------------------------

ANYTHING = CASES["transformers DepthAnythingForDepthEstimation"]
AUTHORS = CASES["Depth Anything, version 1"]
VIT = CASES["transformers DPTForDepthEstimation"]


def change_settings(case: SystemCase, **changes: Any) -> SystemCase:
    """A case with other settings beside it; `None` removes one."""
    settings = {k: v for k, v in (case.settings["config.json"] | changes).items() if v is not None}
    return dataclasses.replace(case, settings={"config.json": settings})


WITHOUT_STAGES = {
    name: value
    for name, value in ANYTHING.settings["config.json"]["backbone_config"].items()
    if not name.startswith("out_")
}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            change_settings(VIT, is_hybrid=True),
            r"is a DPT-Hybrid, .* begins with a ResNet, which vitrail does not have",
        ),
        (change_settings(VIT, head_in_index=1), r"'head_in_index' .* must be -1, got 1"),
        (change_settings(VIT, backbone_out_indices=[1, 2, 3, 9]), r"'backbone_out_indices' .* some of the 5 blocks"),
        (change_settings(VIT, reassemble_factors=[4, 2]), r"'reassemble_factors' .* for each of 4 maps, got \[4, 2\]"),
        (
            change_settings(ANYTHING, backbone_config=WITHOUT_STAGES),
            r"does not say which blocks its readout reads, and published",
        ),
        (change_settings(ANYTHING, depth_estimation_type="near"), r"must be 'relative' or 'metric', got 'near'"),
        (
            change_settings(ANYTHING, depth_estimation_type="metric", max_depth=None),
            r"does not say at how many metres its depth ends: .*20 for rooms and 80 outdoors",
        ),
    ],
)
def test_settings_that_do_not_fit_are_an_error(case: SystemCase, words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        vitrail.load(case.publish(tmp_path))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_heads": 2}, r"does not say which Depth Anything it is, and the tensors of all are alike: pass config="),
        ({"num_heads": 2, "version": 3}, r"does not say which Depth Anything it is"),
        ({"num_heads": 2, "version": 2}, r"does not say which Depth Anything it is"),
        ({"num_heads": 2, "version": 2, "depth_estimation_type": "metric"}, r"at how many metres its depth ends"),
    ],
)
def test_which_depth_anything_it_is_is_asked(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        vitrail.load(AUTHORS.publish(tmp_path), config=config)


def test_a_hybrid_without_settings_is_known_by_its_tensors(tmp_path: Path) -> None:
    path = VIT.publish(tmp_path)
    tensors = {key: array for key, array in load_file(path).items() if "patch_embeddings" not in key}
    save_file(tensors | {"dpt.embeddings.projection.weight": np.zeros((16, 8, 1, 1), np.float32)}, path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"is a DPT-Hybrid"):
        vitrail.load(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"upsampling": "fit"}, r"of the readout, upsampling='fit' would be read back as upsampling='double'\. Save"),
        ({"hidden_dim": 16}, r"hidden_dim must be 32 there, got 16"),
    ],
)
def test_a_model_that_transformers_cannot_be_is_not_written(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    model: Dense = vitrail.load(VIT.publish(tmp_path))
    spec: Any = model.config.readout
    readout = READOUTS.configure("dpt", **(dict(spec.options) | changes))
    with pytest.raises(ValueError, match=words):
        vitrail.save(vitrail.replace(model, readout=readout, key=KEY), tmp_path / "again", layout="hf_dpt")
    with pytest.raises(ValueError, match=r"the readout must be 'dpt' to have the names of DPT"):
        vitrail.save(vitrail.replace(model, readout="linear", key=KEY), tmp_path / "again", layout="hf_dpt")
    assert not (tmp_path / "again").exists()


# Pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ((480, 640), (518, 686)),
        ((640, 480), (686, 518)),
        ((518, 518), (518, 518)),
        ((200, 300), (350, 518)),
        ((1, 9000), (14, 518)),
    ],
)
def test_a_picture_keeps_its_proportions(picture: tuple[int, int], expected: tuple[int, int]) -> None:
    """The side that changes less is scaled to 518, and both are multiples of 14."""
    preprocess = Preprocess("keep", "bicubic", (0.5,) * 3, (0.5,) * 3, multiple=14)
    assert preprocess.compute_kept_size(picture, (518, 518)) == expected


def test_pictures_of_their_own_sizes_are_in_no_data_set() -> None:
    preprocess = Preprocess("keep", "bicubic", (0.5,) * 3, (0.5,) * 3, multiple=4)
    assert preprocess(np.zeros((20, 30, 3), np.uint8), (16, 16)).shape == (16, 24, 3)
    with pytest.raises(ValueError, match=r"fit='keep' gives each picture a size of its own"):
        preprocess.resize(np.zeros((20, 30, 3), np.uint8), (16, 16))
    with pytest.raises(ValueError, match=r"preprocess must not have fit='keep'"):
        vitrail.images.load_mnist(image_size=(16, 16), preprocess=preprocess)
    with pytest.raises(ValueError, match=r"multiple must be 1 unless fit='keep', got 14 with fit='squash'"):
        Preprocess("squash", "bicubic", (0.5,) * 3, (0.5,) * 3, multiple=14)
    with pytest.raises(ValueError, match=r"crop must be 1 with fit='keep'"):
        Preprocess("keep", "bicubic", (0.5,) * 3, (0.5,) * 3, crop=0.9)


def test_the_processor_of_depth_anything_is_read_and_written(tmp_path: Path) -> None:
    path = ANYTHING.publish(tmp_path)
    model: Dense = vitrail.load(path)
    assert model.config.image.preprocess == Preprocess(
        "keep", "bicubic", *vitrail.images.IMAGENET, half_pixel="down", multiple=14
    )
    given = {"keep_aspect_ratio": True, "ensure_multiple_of": 4, "size": {"height": 16, "width": 16}, "resample": 2}
    numbers = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given | numbers))
    model = vitrail.load(path)
    expected = Preprocess("keep", "bilinear", (0.5,) * 3, (0.25,) * 3, half_pixel="down", multiple=4)
    assert model.config.image.preprocess == expected
    vitrail.save(model, tmp_path / "again", layout="hf_depth_anything")
    written = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == "DPTImageProcessor"
    assert written.items() >= (given | numbers).items()
    assert vitrail.load(tmp_path / "again").config == model.config
    assert model.config.picture_size is None
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given | numbers | {"size": 24}))
    larger: Dense = vitrail.load(path)  # as DPT on ADE20K, whose pictures have 480 pixels and whose positions 384
    assert (larger.config.picture_size, larger.config.image.image_size) == ((24, 24), (16, 16))
    vitrail.save(larger, tmp_path / "larger", layout="hf_depth_anything")
    assert vitrail.load(tmp_path / "larger").config == larger.config
    padded = {"image_processor_type": "DPTImageProcessor", "do_resize": False, "do_pad": True, "size_divisor": 4}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(padded))  # as DPT with DINOv2
    assert vitrail.load(path).config.image.preprocess is None


def test_the_colours_of_classes_are_those_of_pascal_voc() -> None:
    colours = draw_classes(np.arange(21)[None])[0]
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {number: tuple(int(c) for c in colours[number]) for number in known} == known
    assert len({tuple(colour) for colour in draw_classes(np.arange(256)[None])[0].tolist()}) == 256


def test_a_depth_is_blue_where_it_is_smallest_and_red_where_it_is_largest() -> None:
    drawn = draw_depth(np.asarray([[2.0, 3.0], [4.0, 2.5]], np.float32)).astype(int)
    assert drawn[0, 0, 2] > drawn[0, 0, 0]
    assert drawn[1, 0, 0] > drawn[1, 0, 2]
    assert np.all(draw_depth(np.full((2, 2), 5, np.float32)) == drawn[0, 0])


def test_a_large_map_of_many_classes_is_resized_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.asarray(random_array(5, 6, 7))
    whole = choose_classes(scores, (40, 30))
    expected = np.argmax(jax.image.resize(scores, (40, 30, 7), "linear"), axis=-1)
    assert np.mean(whole == expected) > 0.999
    monkeypatch.setattr("vitrail.show._maps._BAND", 3 * 30 * 7)
    assert np.array_equal(choose_classes(scores, (40, 30)), whole)
    assert np.array_equal(choose_classes(scores, (5, 6)), np.argmax(scores, axis=-1))
    assert_close(resize_depth(scores[..., :1], (5, 6)), scores[..., 0])


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess("none", "bicubic", (0.5,) * 3, (0.5,) * 3),
        Preprocess("squash", "bicubic", (0.5,) * 3, (0.5,) * 3, unread=(2, 2)),
        Preprocess("native", "bicubic", (0.5,) * 3, (0.5,) * 3, patch_size=(4, 4), max_patches=9),
    ],
    ids=lambda preprocess: preprocess.fit,
)
def test_predict_maps_all_of_a_picture_whatever_prepares_it(preprocess: Preprocess, photograph: Path) -> None:
    config = DenseConfig(image=image_config(preprocess=preprocess), readout="linear", num_classes=2)
    vitrail.save(config.build(key=KEY), photograph.with_name("m.safetensors"))
    out, plain = photograph.with_name("map.png"), photograph.with_name("plain.jpg")
    Image.new("RGB", (20, 31)).save(plain)  # which nothing has to turn or convert
    for picture in (photograph, plain):
        assert main(["predict", str(photograph.with_name("m.safetensors")), str(picture), "--out", str(out)]) == 0
        with Image.open(out) as drawn:
            assert drawn.size == (20, 31)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A picture of a phone that was held upright: the file says that it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    state = np.random.RandomState(0)
    Image.fromarray(state.randint(0, 255, (20, 31, 3), np.uint8)).save(tmp_path / "photo.jpg", exif=exif)
    return tmp_path / "photo.jpg"


def test_predict_writes_a_depth_at_the_size_of_the_photograph(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ANYTHING.publish(tmp_path / "model").parent
    processor = {
        "keep_aspect_ratio": True,
        "ensure_multiple_of": 4,
        "size": {"height": 16, "width": 16},
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert main(["predict", str(folder), str(photograph), "--out", str(tmp_path / "depth.png")]) == 0
    assert "31 x 20 pixels from " in capsys.readouterr().out
    assert main(["predict", str(folder), str(photograph), "--out", str(tmp_path / "d.png"), "--top", "5"]) == 1
    assert "top has no effect with a map of numbers: leave it out" in capsys.readouterr().err
    model: Dense = vitrail.load(folder)
    preprocess: Any = model.config.image.preprocess
    with Image.open(photograph) as picture:
        pixels = preprocess(picture, (16, 16))
    assert pixels.shape == (24, 16, 3)
    expected = draw_depth(resize_depth(model.resized((24, 16))(pixels), (31, 20)))
    with Image.open(tmp_path / "depth.png") as drawn:
        assert drawn.size == (20, 31)
        assert np.abs(np.asarray(drawn).astype(int) - expected).max() <= 1


def test_predict_writes_the_classes_and_names_them(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = image_config(preprocess=Preprocess("cover", "bicubic", (0.5,) * 3, (0.5,) * 3, crop=0.5))
    config = DenseConfig(image=image, readout="linear", num_classes=2, classes=("sky", "sea"))
    vitrail.save(config.build(key=KEY), tmp_path / "m.safetensors")
    arguments = ["predict", str(tmp_path / "m.safetensors"), str(photograph)]
    assert main([*arguments, "--out", str(tmp_path / "classes.png")]) == 0
    out = capsys.readouterr().out
    assert "%  class 0  sky" in out or "%  class 1  sea" in out
    with Image.open(tmp_path / "classes.png") as drawn:  # what would cut the picture keeps all of it
        assert drawn.size == (20, 31)
        assert set(map(tuple, np.asarray(drawn).reshape(-1, 3).tolist())) <= {(0, 0, 0), (128, 0, 0)}
    for more, words in (
        ([], "pass one image and the picture to write, as --out map.png"),
        (["--out", str(tmp_path / "map.bmp")], "out must end in .png, .jpg, .jpeg, .webp"),
        (["--out", str(photograph)], "out must not be one of the images"),
        ([str(photograph), "--out", str(tmp_path / "map.png")], "pass one image"),
        (["--out", str(tmp_path / "map.png"), "--attention", str(tmp_path / "a.png")], "no --attention"),
        (["--classes", "cat,dog"], "classes has no effect with a model of dense prediction: leave it out"),
        (["--templates", "imagenet"], "templates has no effect without --classes: leave it out"),
    ):
        assert main([*arguments, *more]) == 1
        assert words in capsys.readouterr().err
    Image.fromarray(np.zeros((8, 80_000, 3), np.uint8)).save(tmp_path / "long.png")
    assert main([*arguments[:2], str(tmp_path / "long.png"), "--out", str(tmp_path / "map.png")]) == 1
    assert "image must be less narrow, got 8 x 80000 pixels, which are scaled to 8 x 80000" in capsys.readouterr().err


def test_predict_takes_out_for_maps_alone(photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier = image_config(num_classes=2, head="linear").build(key=KEY)
    vitrail.save(classifier, tmp_path / "m.safetensors")
    assert main(["predict", str(tmp_path / "m.safetensors"), str(photograph), "--out", str(tmp_path / "o.png")]) == 1
    assert "out is for a model of dense prediction, and" in capsys.readouterr().err
