"""MAE with its decoder: transformers' model, under its names in files and in memory, and under Meta's names."""

import json
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_oracle import WIDTHS, Shapes, Tensors, batch, saved, shapes_of, tensors_by_name, transformers
from safetensors.torch import save_file
from system_cases import SystemCase

SETTINGS = {
    **WIDTHS,
    "image_size": 16,
    "patch_size": 4,
    "layer_norm_eps": 1e-6,
    "decoder_hidden_size": 8,
    "decoder_intermediate_size": 12,
    "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 2,
}


def hugging_face_case(image: np.ndarray, *, normalised: bool, names: str = "on the Hub") -> SystemCase:
    """`ViTMAEForPreTraining`, under the names that it has on the Hub, writes in version 5, or has in memory."""
    model = _make(normalised)
    shapes, settings = saved(model.save_pretrained)
    if names == "in memory":
        shapes = shapes_of(model.state_dict())
        model.load_state_dict(tensors_by_name(shapes))
    else:
        if names == "on the Hub":
            shapes = {name.replace("decoder_encoder.layer", "decoder_layers"): shape for name, shape in shapes.items()}
        model = _read(tensors_by_name(shapes), settings)
    files = {"config.json": settings}
    return SystemCase(
        "hf_vit_5" if names == "in memory" else "hf_vit",
        shapes,
        files,
        *_run(model, image),
        writable=names == "on the Hub",
    )


def meta_case(image: np.ndarray) -> SystemCase:
    """The names of Meta's `models_mae.py`, whose tensors transformers' model is given."""
    model = _make(normalised=True)
    theirs, settings = saved(model.save_pretrained)
    shapes = _to_meta_shapes(theirs)
    tensors = tensors_by_name(shapes)
    model = _read({name: _take(tensors, name) for name in theirs}, settings)
    options = {"config": {"num_heads": 2, "decoder_num_heads": 2, "norm_pix_loss": True}}
    inputs, outputs = _run(model, image)
    return SystemCase(
        "mae", shapes, inputs=inputs, outputs=outputs, options=options, image_options={"config": {"num_heads": 2}}
    )


def _make(normalised: bool) -> Any:
    return transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SETTINGS, norm_pix_loss=normalised)).eval()


def _read(tensors: Tensors, settings: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder, "model.safetensors"), metadata={"format": "pt"})
        Path(folder, "config.json").write_text(json.dumps(settings))
        return transformers.ViTMAEForPreTraining.from_pretrained(folder).eval()


def _run(model: Any, image: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    noise = np.random.RandomState(1).rand(16).astype(np.float32)
    with torch.no_grad():
        found = model(batch(image), noise=torch.from_numpy(noise)[None])
    outputs = {"patches": found.logits[0].numpy(), "loss": found.loss.numpy(), "masked": found.mask[0].numpy() > 0}
    return {"image": image, "noise": noise}, outputs


_PLAIN = (
    ("vit.embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("vit.embeddings.position_embeddings", "pos_embed"),
    ("vit.embeddings.", ""),
    ("vit.layernorm", "norm"),
    ("vit.encoder.layer.", "blocks."),
    ("decoder.decoder_encoder.layer.", "decoder_blocks."),
    ("decoder.", ""),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
_QKV = re.compile(r"attention\.attention\.(query|key|value)")


def _to_meta(name: str) -> str:
    for theirs, meta in _PLAIN:
        name = name.replace(theirs, meta) if theirs != "decoder." else name.removeprefix(theirs)
    return _QKV.sub("attn.qkv", name)


def _to_meta_shapes(shapes: Shapes) -> Shapes:
    """Meta's names and shapes, with queries, keys and values in one."""
    return {
        _to_meta(name): (3 * shape[0], *shape[1:]) if _QKV.search(name) else shape for name, shape in shapes.items()
    }


def _take(tensors: Tensors, name: str) -> torch.Tensor:
    """A tensor of transformers from Meta's."""
    tensor, third = tensors[_to_meta(name)], _QKV.search(name)
    return tensor if third is None else tensor.chunk(3)[["query", "key", "value"].index(third[1])].contiguous()


CASES: dict[str, Callable[[np.ndarray], SystemCase]] = {
    "transformers ViTMAEForPreTraining": partial(hugging_face_case, normalised=False),
    "transformers ViTMAEForPreTraining, normalised": partial(hugging_face_case, normalised=True),
    "transformers ViTMAEForPreTraining, as version 5 writes it": partial(
        hugging_face_case, normalised=True, names="in version 5"
    ),
    "transformers ViTMAEForPreTraining, in memory": partial(hugging_face_case, normalised=True, names="in memory"),
    "Meta MAE": meta_case,
}
SIZE = (16, 16)
