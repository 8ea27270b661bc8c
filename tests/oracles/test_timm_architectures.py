"""Every architecture of timm that vitrail claims to know, at its real size: what is read off it is what timm builds."""

import importlib
from pathlib import Path

import pytest
import torch
from timm_oracle import timm

from vitrail import CheckpointError, PartSpec, ViTConfig
from vitrail.nn import list_arrays
from vitrail.weights import LAYOUTS
from vitrail.weights._configuration import make_outline
from vitrail.weights._plan import make_plan
from vitrail.weights.formats import AbstractSource, TensorInfo
from vitrail.weights.layouts import Checkpoint, recognise

IMAGE_LAYOUTS = {name: layout.image or layout for name, layout in LAYOUTS.items()}
ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "swiglu"}
NAFLEX = "timm_naflex"
POOLS = {"token": "cls", "avg": "mean", "map": "attention"}
FAMILIES = ("vision_transformer", "deit", "eva", "beit", "naflexvit", "vision_transformer_hybrid")


def layouts_of(name: str) -> list[str]:
    """The layouts that claim an architecture, with or without the name of its weights."""
    name = name.partition(".")[0]
    return [n for n, known in IMAGE_LAYOUTS.items() if known.architectures and known.architectures.fullmatch(name)]


PUBLISHED = [name for name in timm.list_pretrained() if layouts_of(name) not in ([], [NAFLEX])]
NAMES = [name for name in timm.list_models() if layouts_of(name) not in ([], [NAFLEX])]
NATIVE = [name for name in timm.list_models() if layouts_of(name) == [NAFLEX]]


class Shapes(AbstractSource):
    """The tensors of a model that has none in memory."""

    def __init__(self, model: torch.nn.Module):
        self.path = Path("model.safetensors")
        self.metadata = {}
        self.tensors = {name: TensorInfo("F32", tuple(t.shape)) for name, t in model.state_dict().items()}

    def read(self, name: str, row: int | None = None):
        raise NotImplementedError


def test_there_are_as_many_as_there_should_be() -> None:
    assert len(NAMES) > 120
    assert len(PUBLISHED) > 150


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_is_read_as_timm_builds_it(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    (layout,) = (IMAGE_LAYOUTS[name] for name in layouts_of(name))
    settings = {
        "architecture": name,
        "global_pool": model.global_pool,
        "model_args": {"img_size": model.patch_embed.img_size},
    }
    config = layout.read_config(Checkpoint(Shapes(model), layout, settings))
    block = model.blocks[0]
    assert config.size.num_heads == block.attn.num_heads
    assert config.size.depth == len(model.blocks)
    assert config.encoder.norm_eps == block.norm1.eps
    assert config.encoder.activation == ACTIVATIONS[type(block.mlp.act).__name__]
    assert config.grid == model.patch_embed.grid_size
    # timm leaves out the pixels beyond the last whole patch.
    assert config.image_size == tuple(g * p for g, p in zip(config.grid, config.patch_size, strict=True))
    assert int(config.class_token or 0) + config.num_registers == model.num_prefix_tokens
    pool = config.pool.name if isinstance(config.pool, PartSpec) else config.pool
    assert pool == POOLS[model.global_pool]
    assert (config.norm_order == "pool_norm") == isinstance(model.fc_norm, torch.nn.LayerNorm)


def facts_of(config: ViTConfig) -> tuple[object, ...]:
    """What no tensor says."""
    pool = config.pool.name if isinstance(config.pool, PartSpec) else config.pool
    return config.size.num_heads, config.encoder.activation, config.encoder.norm_eps, pool


def test_without_settings_a_model_is_read_as_timm_builds_it_or_not_at_all() -> None:
    """Also those architectures that no layout claims."""
    read = 0
    for name in timm.list_models(module="vision_transformer") + [
        n for m in FAMILIES[1:] for n in timm.list_models(module=m)
    ]:
        with torch.device("meta"):
            model = timm.create_model(name)
        block = model.blocks[0]
        try:
            checkpoint = recognise(Shapes(model), {})
            config = checkpoint.layout.read_config(checkpoint)
            plan = make_plan(
                checkpoint.layout.rules(config), list_arrays(make_outline(config)), checkpoint.tensors, convert=False
            )
        except CheckpointError:
            continue
        unknown = [n for n in checkpoint.tensors if n not in plan.used and not checkpoint.layout.reason_to_ignore(n)]
        if plan.wrong or plan.missing or unknown:
            continue
        read += 1
        expected = (
            block.attn.num_heads,
            ACTIVATIONS[type(block.mlp.act).__name__],
            block.norm1.eps,
            POOLS[model.global_pool],
        )
        assert facts_of(config) == expected, name
        said = {"distilled": "global_pool", "beit": "num_heads"}  # by the tensors
        follows = {"architecture", *(what for part, what in said.items() if part in name)}
        assert {"num_heads", "architecture", "global_pool"} - checkpoint.assumed.keys() <= follows, name
    assert read > 50


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.endswith("_dinov3") or "clip" in n or "lingbot" in n or "_siglip_gap_2" in n]
)
def test_an_architecture_says_its_pool_and_its_heads(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, depth=1)
    layout = IMAGE_LAYOUTS["timm_eva" if type(model).__name__ == "Eva" else "timm"]
    checkpoint = Checkpoint(
        Shapes(model), layout, {"architecture": name, "model_args": {"img_size": model.patch_embed.img_size}}
    )
    config = layout.read_config(checkpoint)
    assert (facts_of(config)[0], facts_of(config)[3]) == (model.blocks[0].attn.num_heads, POOLS[model.global_pool])
    assert checkpoint.assumed.keys() <= {"preprocess"}


def test_deprecated_names_are_known() -> None:
    registry = importlib.import_module("timm.models._registry")
    deprecated = {
        old: new for old, new in registry._deprecated_models.items() if new and layouts_of(new.partition(".")[0])
    }
    assert len(deprecated) > 25
    assert [old for old in deprecated if not layouts_of(old)] == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_as_timm_publishes_them_fit_the_weights(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    # The image size stands in pretrained_cfg alone, as in the files on the Hub: timm writes model_args since lately.
    settings = {
        "architecture": name.partition(".")[0],
        "global_pool": model.global_pool,
        "pretrained_cfg": model.pretrained_cfg,
    }
    (layout,) = (IMAGE_LAYOUTS[name] for name in layouts_of(name))
    checkpoint = Checkpoint(Shapes(model), layout, settings)
    config = layout.read_config(checkpoint)
    if "pos_embed" in checkpoint:
        assert config.grid == model.patch_embed.grid_size
    assert config.size.num_heads == model.blocks[0].attn.num_heads
    assert not checkpoint.assumed


@pytest.mark.parametrize("name", NATIVE)
def test_an_architecture_of_native_aspect_is_read_as_timm_builds_it(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    settings = {"architecture": name, "global_pool": model.global_pool, "pretrained_cfg": model.pretrained_cfg}
    checkpoint = Checkpoint(Shapes(model), IMAGE_LAYOUTS[NAFLEX], settings)
    config = IMAGE_LAYOUTS[NAFLEX].read_config(checkpoint)
    embeds, block = model.embeds, model.blocks[0]
    assert not checkpoint.assumed
    assert (config.grid, config.patch_size) == (embeds.pos_embed_grid_size, embeds.patch_size)
    assert (config.size.num_heads, config.size.depth) == (block.attn.num_heads, len(model.blocks))
    assert config.encoder.norm_eps == block.norm1.eps == (model.norm if model.attn_pool else model.fc_norm).eps
    assert config.encoder.activation == ACTIVATIONS[type(block.mlp.act).__name__]
    assert int(config.class_token or 0) + config.num_registers == model.num_prefix_tokens
    assert isinstance(config.position, PartSpec)
    options = dict(config.position.options)
    assert options["keep_aspect"] == embeds.pos_embed_ar_preserving
    rules = {"bicubic": "torch_bicubic_antialias", "bilinear": "bilinear_antialias"}
    factorized = embeds.pos_embed_type == "factorized"
    assert options["resize"] == ("bilinear" if factorized else rules[embeds.pos_embed_interp_mode])
    assert config.preprocess is not None
    assert config.preprocess.max_patches == model.pretrained_cfg["input_size"][1] ** 2 // 16**2
    assert (config.pool == "mean") == (model.attn_pool is None)
