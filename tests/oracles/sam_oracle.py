"""The originals of SAM with random weights: `segment_anything` and transformers, their files, and what they segment."""

import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_oracle import transformers
from safetensors.torch import save_file
from sam_cases import Arrays, Prompt, draw_tensor
from timm_oracle import TORCHVISION

segment_anything = importlib.import_module("segment_anything")
modeling = importlib.import_module("segment_anything.modeling")

IMAGE, PATCH, DIM, GRID = 128, 16, 32, 8


def randomise(module: Any) -> Any:
    """The module with all that is saved drawn by its name."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(torch.from_numpy(draw_tensor(name, tuple(tensor.shape))))
    return module.eval()


def make_meta() -> Any:
    """A small `Sam` of Meta's package, put together as its `build_sam.py` does."""
    sam = modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=IMAGE, patch_size=PATCH, embed_dim=16, depth=3, num_heads=2, mlp_ratio=1.5, out_chans=DIM,
            qkv_bias=True, use_rel_pos=True, window_size=3, global_attn_indexes=(1,),
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=DIM, image_embedding_size=(GRID, GRID), input_image_size=(IMAGE, IMAGE), mask_in_chans=8
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=DIM, mlp_dim=20, num_heads=8),
            transformer_dim=DIM, iou_head_depth=3, iou_head_hidden_dim=12,
        ),
    )  # fmt: skip
    return randomise(sam)


def make_hugging_face() -> Any:
    """A small `SamModel` of transformers, with other heads, layers and epsilons than the published ones."""
    vision = {
        "hidden_size": 16, "output_channels": DIM, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": IMAGE, "patch_size": PATCH, "window_size": 3, "global_attn_indexes": [1],
        "num_pos_feats": DIM // 2, "mlp_dim": 24,
    }  # fmt: skip
    prompt = {
        "hidden_size": DIM, "image_size": IMAGE, "patch_size": PATCH, "mask_input_channels": 8, "hidden_act": "silu",
        "layer_norm_eps": 1e-3,
    }  # fmt: skip
    decoder = {
        "hidden_size": DIM, "mlp_dim": 20, "num_attention_heads": 4, "iou_head_hidden_dim": 12, "iou_head_depth": 4,
        "num_hidden_layers": 3, "num_multimask_outputs": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-3,
    }  # fmt: skip
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    model = randomise(transformers.SamModel(config))
    shared = "shared_image_embedding.positional_embedding"  # has a second name, by which it was drawn too
    with torch.no_grad():
        model.shared_image_embedding.positional_embedding.copy_(torch.from_numpy(draw_tensor(shared, (2, DIM // 2))))
    return model


def write_meta(folder: Path) -> Path:
    """The file of the small `Sam`, as safetensors."""
    folder.mkdir(exist_ok=True)
    save_file(make_meta().state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


def write_hugging_face(folder: Path) -> Path:
    """The folder of the small `SamModel`."""
    make_hugging_face().save_pretrained(folder)
    return folder


def segment_with_meta(sam: Any, photo: np.ndarray, prompts: dict[str, Prompt]) -> Arrays:
    """What `SamPredictor` finds in a photo."""
    predictor = segment_anything.SamPredictor(sam)
    predictor.set_image(photo)
    found: Arrays = {"tokens": predictor.features[0].permute(1, 2, 0).numpy()}
    for name, prompt in prompts.items():
        arguments = {
            "point_coords": None if prompt.points is None else np.asarray(prompt.points),
            "point_labels": None if prompt.points is None else np.asarray(prompt.codes),
            "box": None if prompt.box is None else np.asarray(prompt.box),
            "mask_input": None if prompt.mask is None else prompt.mask[None],
        }
        both = [
            predictor.predict(**arguments, multimask_output=several, return_logits=True) for several in (False, True)
        ]
        for place, key in enumerate(("large", "quality", "logits")):
            found[f"{name}/{key}"] = np.concatenate([one[place] for one in both])
    return found


@torch.no_grad()
def segment_with_hugging_face(
    model: Any, pixels: np.ndarray, size: tuple[int, int], prompts: dict[str, Prompt]
) -> Arrays:
    """What `SamModel` finds in prepared pixels, with the rules of `SamProcessor` for places and for masks."""
    module = importlib.import_module("transformers.models.sam.image_processing_pil_sam")
    processor = transformers.SamProcessor(
        module.SamImageProcessorPil(size={"longest_edge": IMAGE}, pad_size={"height": IMAGE, "width": IMAGE})
    )
    embeddings = model.get_image_embeddings(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    found: Arrays = {"tokens": embeddings[0].permute(1, 2, 0).numpy()}
    scaled = processor.image_processor._get_preprocess_shape(size, IMAGE)

    def scale(places: Any, is_box: bool = False) -> torch.Tensor:
        normal = processor._normalize_coordinates(IMAGE, np.asarray(places, float), size, is_bounding_box=is_box)
        return torch.from_numpy(np.asarray(normal, np.float32))

    for name, prompt in prompts.items():
        outs = [
            model(
                image_embeddings=embeddings,
                input_points=None if prompt.points is None else scale(prompt.points)[None, None],
                input_labels=None if prompt.points is None else torch.tensor(prompt.codes)[None, None],
                input_boxes=None if prompt.box is None else scale([prompt.box], True).reshape(1, 1, 4),
                input_masks=None if prompt.mask is None else torch.from_numpy(prompt.mask)[None, None],
                multimask_output=several,
            )
            for several in (False, True)
        ]
        logits = torch.cat([out.pred_masks for out in outs], dim=2)
        large = processor.image_processor.post_process_masks(
            logits, [size], [scaled], binarize=False, pad_size={"height": IMAGE, "width": IMAGE}
        )
        found[f"{name}/large"] = large[0][0].numpy()
        found[f"{name}/quality"] = torch.cat([out.iou_scores for out in outs], dim=2)[0, 0].numpy()
        found[f"{name}/logits"] = logits[0, 0].numpy()
    return found


def suppress(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """torchvision's `nms`, as its `nms_kernel.cpp` computes it: the operator is not in a build without its compiled
    half."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = scores.sort(stable=True, descending=True)[1].tolist()
    kept: list[int] = []
    suppressed: set[int] = set()
    for place, i in enumerate(order):
        if i in suppressed:
            continue
        kept.append(i)
        for j in order[place + 1 :]:
            corner = torch.maximum(boxes[i, :2], boxes[j, :2])
            width, height = (torch.minimum(boxes[i, 2:], boxes[j, 2:]) - corner).clamp(min=0)
            shared = width * height
            if float(shared / (areas[i] + areas[j] - shared)) > iou_threshold:
                suppressed.add(j)
    return torch.tensor(kept, dtype=torch.long)


OPTIONS = {
    "points_per_side": "points_per_side",
    "batch_size": "points_per_batch",
    "min_quality": "pred_iou_thresh",
    "min_stability": "stability_score_thresh",
    "stability_offset": "stability_score_offset",
    "max_overlap": "box_nms_thresh",
    "crop_layers": "crop_n_layers",
    "crop_max_overlap": "crop_nms_thresh",
    "crop_overlap": "crop_overlap_ratio",
    "crop_points_divisor": "crop_n_points_downscale_factor",
    "min_area": "min_mask_region_area",
}
"""The names of Meta's package for the fields of `MaskSearch`."""


def find_masks(sam: Any, photo: np.ndarray, search: dict[str, Any]) -> list[dict[str, Any]]:
    """What `SamAutomaticMaskGenerator` finds in a photo."""
    options = {OPTIONS[name]: value for name, value in search.items()}
    return segment_anything.SamAutomaticMaskGenerator(sam, **options).generate(photo)


TORCHVISION.impl("nms", suppress, "CPU")
importlib.import_module("torchvision.extension")._has_ops = lambda: True
