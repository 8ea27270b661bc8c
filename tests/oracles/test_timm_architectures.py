"""Every architecture of timm that vitrail claims to know, at its real size: what is read off it is what timm builds."""

from pathlib import Path

import pytest
import torch
from timm_oracle import timm

from vitrail import PartSpec
from vitrail.weights import LAYOUTS
from vitrail.weights.formats import AbstractSource, TensorInfo
from vitrail.weights.layouts import Checkpoint

ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "swiglu"}
POOLS = {"token": "cls", "avg": "mean", "map": "attention"}


def is_known(name: str) -> bool:
    """Whether one of the layouts claims an architecture, with or without the name of its weights."""
    patterns = [layout.architectures for layout in LAYOUTS.values() if layout.architectures is not None]
    return any(pattern.fullmatch(name.partition(".")[0]) for pattern in patterns)


PUBLISHED = [name for name in timm.list_pretrained() if is_known(name)]
NAMES = [name for name in timm.list_models() if is_known(name)]


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
    eva = type(model).__name__ == "Eva"
    layout = LAYOUTS["timm_eva" if eva else "timm"]
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
    layout = LAYOUTS["timm_eva" if type(model).__name__ == "Eva" else "timm"]
    checkpoint = Checkpoint(Shapes(model), layout, settings)
    config = layout.read_config(checkpoint)
    if "pos_embed" in checkpoint:
        assert config.grid == model.patch_embed.grid_size
    assert config.size.num_heads == model.blocks[0].attn.num_heads
    assert not checkpoint.assumed
