"""Systems: checkpoints of the original libraries give their numbers, are written back, and hold an image model."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from checkpoint_cases import TOLERANCE
from safetensors.numpy import load_file
from system_cases import compare_model, load_system_cases

import vitrail
from vitrail.weights import LAYOUTS

CASES = load_system_cases()
IMAGE = vitrail.ViTConfig(
    image_size=(8, 8), patch_size=(4, 4), size=vitrail.EncoderSize(16, 1, 2, 8), head="none", class_token=False
)
WRITABLE = {name: case for name, case in CASES.items() if case.writable and LAYOUTS[case.layout].export is not None}


@pytest.fixture(scope="module")
def load_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """Publishes and loads the system of a name, once."""

    @functools.cache
    def load(name: str) -> tuple[Path, Any]:
        path = CASES[name].publish(tmp_path_factory.mktemp("system"))
        return path, vitrail.load(path, **CASES[name].options)

    return load


@pytest.mark.parametrize("name", CASES)
def test_a_system_gives_the_numbers_of_its_library(name: str, load_case: Callable[[str], tuple[Path, Any]]) -> None:
    found = compare_model(CASES[name], load_case(name)[1])
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("name", WRITABLE)
def test_a_system_is_written_back_to_the_bit(
    name: str, tmp_path: Path, load_case: Callable[[str], tuple[Path, Any]]
) -> None:
    case, (_, model) = WRITABLE[name], load_case(name)
    vitrail.save(model, tmp_path / "again", layout=case.layout)  # type: ignore[arg-type]
    given, written = case.tensors(), load_file(tmp_path / "again" / "model.safetensors")
    layout = LAYOUTS[case.layout]
    assert written.keys() <= given.keys()
    assert all(layout.reason_to_ignore(key) for key in given.keys() - written.keys())
    needed = [key for key in written if not layout.reason_to_ignore(key)]
    assert all(np.array_equal(written[key], given[key]) for key in needed)
    again = vitrail.load(tmp_path / "again")
    assert all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_image_model_of_a_system_loads_alone(
    name: str, tmp_path: Path, load_case: Callable[[str], tuple[Path, Any]]
) -> None:
    case, (path, model) = CASES[name], load_case(name)
    vitrail.save(model, tmp_path / "own.safetensors")
    assert vitrail.load(tmp_path / "own.safetensors").config == model.config
    alone = case.options if case.image_options is None else case.image_options
    for file, options in ((path, alone), (tmp_path / "own.safetensors", {})):
        image = vitrail.load(file, part="image", **options)
        assert type(image) is vitrail.ViT
        leaves, expected = (jax.tree.leaves(backbone) for backbone in (image.backbone, model.image.backbone))
        assert all(np.array_equal(*pair) for pair in zip(leaves, expected, strict=True))
        card = vitrail.model_card(file, part="image", config=options.get("config"))
        assert card.parameters == sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(image, eqx.is_array)))
        assert card.missing == card.unknown == ()


@pytest.mark.parametrize(
    ("kind", "field", "part"),
    [
        (vitrail.DINOConfig, "head", vitrail.HEADS["projection"]),
        (vitrail.DINOConfig, "patch_head", vitrail.HEADS["projection"]),
        (vitrail.DenseConfig, "readout", vitrail.READOUTS["linear"]),
        (vitrail.MAEConfig, "position", vitrail.POSITIONS["sincos2d"]),
    ],
)
def test_configurations_with_equal_partials_are_equal(kind: Any, field: str, part: Any) -> None:
    one, other = (kind(image=IMAGE, **{field: functools.partial(part)}) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    "config",
    [
        IMAGE,
        vitrail.DenseConfig(image=IMAGE),
        vitrail.DINOConfig(image=IMAGE, num_prototypes=4),
        vitrail.MAEConfig(image=IMAGE, decoder=vitrail.EncoderSize(8, 1, 2, 8)),
        vitrail.SegmentAnythingConfig(image=IMAGE, num_heads=2),
        vitrail.ImageTextConfig(
            image=IMAGE, text=vitrail.TextConfig(vocabulary=4, context=2, size=IMAGE.size, end_of_text=3)
        ),
    ],
    ids=lambda config: type(config).__name__,
)
def test_every_kind_is_built_and_resized_alike(config: Any) -> None:
    execution, dropout = vitrail.Execution(scan=False), vitrail.Dropout(rate=0.1)
    build = functools.partial(config.build, execution=execution, dropout=dropout)
    model = eqx.filter_eval_shape(build, key=jax.random.key(0))
    backbone = model.backbone if isinstance(model, vitrail.ViT) else model.image.backbone
    assert (backbone.execution, backbone.dropout) == (execution, dropout)
    image = getattr(eqx.filter_eval_shape(lambda m: m.resized((16, 8), patch_size=4), model).config, "image", None)
    assert image is None or image.image_size == (16, 8)
