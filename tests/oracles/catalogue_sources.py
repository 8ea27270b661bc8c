"""The checkpoints that timm and open_clip list, and those of Hugging Face's layouts: what each holds, without numbers.

timm and open_clip say it in their registries. transformers has no list: the names and the sizes are written out at the
end, and its own classes build what they describe. Where no registry says the licence, it is that of the page of the
repository on the Hub, as `LICENCES` quotes it.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module, resources
from typing import Any

import torch
from timm_oracle import timm

from vitrail.weights.formats import TensorInfo

PRETRAINED = import_module("timm.models._registry")
SUBSETS = import_module("timm.data.imagenet_info")
OPEN_CLIP = "open_clip_model.safetensors"
MAIN = "model.safetensors"


LICENCES: tuple[tuple[str, str, str], ...] = (
    # The repositories, their licence, and whose pages on the Hub say it. No page of a repository that a pattern fits
    # was seen to say something else.
    (
        r"facebook/dinov2-.*",
        "apache-2.0",
        "facebook/dinov2-base (369b130), -large, -giant, -{base,large,giant}-imagenet1k-1-layer, "
        "-with-registers-base; README of facebookresearch/dinov2, for the weights",
    ),
    (r"facebook/dinov3-.*", "dinov3-license", "LICENSE.md of facebook/dinov3-vitl16-pretrain-lvd1689m"),
    (r"facebook/dino-vit[sb](8|16)", "apache-2.0", "facebook/dino-vits8 (fc5da87), -vits16 (a7a4d16)"),
    (r"facebook/deit-.*", "apache-2.0", "facebook/deit-base-distilled-patch16-224 (ea2cf46), -384 (4e8e4a3)"),
    (r"facebook/sam-vit-.*", "apache-2.0", "facebook/sam-vit-base (f6d1353), -large, -huge"),
    (r"facebook/ijepa_.*", "cc-by-nc-4.0", "facebook/ijepa_vith14_1k, _vith14_22k, _vith16_1k, _vitg16_22k"),
    (
        r"google/vit-.*",
        "apache-2.0",
        "google/vit-base-patch16-224 (5d4e322), -large-patch32-384, -huge-patch14-224-in21k",
    ),
    (r"google/siglip-.*", "apache-2.0", "google/siglip-base-patch16-224 (5b1f0cc), -so400m-patch14-{224,384}"),
    (r"google/siglip2-.*", "apache-2.0", "google/siglip2-so400m-patch14-384 (4b932c1), -patch16-{256,512}"),
    (r"microsoft/beit-.*", "apache-2.0", "microsoft/beit-base-patch16-{224,384}, -224-pt22k-ft22k (2b3c0ca)"),
    (
        r"laion/CLIP-.*",
        "mit",
        "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K (d110532), -L-14-CommonPool.XL-s13B-b90K, "
        "-B-32-CommonPool.S.{basic,image,laion}-s13M-b4K",
    ),
    (r"UCSC-VLAA/.*CLIPA.*", "apache-2.0", "UCSC-VLAA/ViT-L-14-CLIPA-datacomp1B (dfcab83), -bigG-14-CLIPA-336"),
    (
        r"apple/DFN(2B-CLIP-ViT-(B-16|L-14)|5B-CLIP-ViT-H-14(-378)?)",
        "apple-amlr",
        "apple/DFN2B-CLIP-ViT-B-16, -L-14 (fa63e19), apple/DFN5B-CLIP-ViT-H-14, -378 (25944c3)",
    ),
    (r"timm/ViT-.*-SigLIP2?(-.*)?", "apache-2.0", "timm/ViT-B-16-SigLIP (41f5757), timm/ViT-SO400M-14-SigLIP2-378"),
    (
        r"timm/eva.*_clip_.*",
        "mit",
        "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k (4f62907), timm/eva02_base_patch16_clip_224.*, "
        "timm/eva_giant_patch14_plus_clip_224.*",
    ),
    (
        r"timm/vit_.*_clip_.*\.laion(400m|2b)_e\d+",
        "mit",
        "timm/vit_base_patch32_clip_224.laion400m_e32 (8604507), timm/vit_base_patch16_plus_clip_240.laion400m_e31",
    ),
)
NOTES: tuple[tuple[str, str], ...] = (
    # The page of facebook/dinov3-convnext-large-pretrain-lvd1689m, and requests for access to the ViTs.
    (r"facebook/dinov3-.*", "gated: its terms have to be accepted on the Hub"),
    # The pages say Apache 2.0 (facebook/vit-mae-base, f4bf8a5), LICENSE of facebookresearch/mae and timm do not.
    (r"facebook/vit-mae-.*", "the repository says apache-2.0, and Meta's release of the same weights cc-by-nc-4.0"),
)


@dataclass(frozen=True)
class Published:
    """One file of a repository, as its library describes it."""

    repository: str
    file: str
    """The name of the file of tensors."""
    settings: dict[str, Any]
    """The files beside it by name."""
    tensors: dict[str, TensorInfo]
    source: str
    """The library that says so."""
    name: str
    """What the library calls it: the architecture."""
    tag: str = ""
    """What the library calls the training."""
    is_default: bool = False
    """Whether the library takes these weights for the architecture where no tag is given."""
    licence: str = ""
    classes: str = ""
    """What the classes are, as the library says it."""
    notes: tuple[str, ...] = field(default=())


def find_licence(repository: str) -> str:
    """The licence of a repository by `LICENCES`; empty if none says it."""
    return next((licence for pattern, licence, _ in LICENCES if re.fullmatch(pattern, repository)), "")


def shapes_of(model: torch.nn.Module) -> dict[str, TensorInfo]:
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    return {name: TensorInfo(kinds[t.dtype], tuple(t.shape)) for name, t in model.state_dict().items()}


@functools.cache
def build_timm(architecture: str, num_classes: int) -> tuple[dict[str, TensorInfo], str]:
    """The tensors and the pool of an architecture."""
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=num_classes)
    return shapes_of(model), model.global_pool


@functools.cache
def build_open_clip(name: str) -> tuple[dict[str, TensorInfo], dict[str, Any]]:
    """The tensors of both towers, and their configuration; no tensors where open_clip needs another library's files."""
    open_clip = import_module("open_clip")
    folder = resources.files("open_clip") / "model_configs"
    config: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    if "hf_model_name" in config["text_cfg"] or "multimodal_cfg" in config:
        return {}, config
    given = dict(config)
    custom = given.pop("custom_text", False) or "timm_model_name" in given["vision_cfg"]
    with torch.device("meta"):
        return shapes_of(getattr(open_clip, "CustomTextCLIP" if custom else "CLIP")(**given)), config


def read_timm(claims: Callable[[str], bool]) -> Iterator[Published]:
    """timm's pretrained models that the layouts claim, by its registry."""
    for name in timm.list_pretrained():
        architecture, _, tag = name.partition(".")
        cfg = timm.get_pretrained_cfg(name)
        # One repository has one name: the others are ways to build it.
        if not claims(architecture) or not cfg.hf_hub_id or cfg.hf_hub_id.partition("/")[2] != name:
            continue
        tensors, pool = build_timm(architecture, cfg.num_classes)
        settings = {
            "architecture": architecture,
            "num_classes": cfg.num_classes,
            "global_pool": pool,
            "pretrained_cfg": {k: v for k, v in cfg.to_dict().items() if v is not None},
        }
        default = PRETRAINED._model_default_cfgs[architecture]
        yield Published(
            cfg.hf_hub_id,
            MAIN,
            {"config.json": settings},
            tensors,
            "timm",
            architecture,
            tag,
            is_default=default.tags[0] == tag,
            licence=cfg.license or "",
            classes=SUBSETS.infer_imagenet_subset(cfg.to_dict()) or "",
            notes=tuple(cfg.notes or ()),
        )


def read_open_clip() -> Iterator[Published]:
    """open_clip's table of pretrained models: whose towers it builds without files of another library."""
    table = import_module("open_clip.pretrained")._PRETRAINED
    entries = [(name, tag, cfg) for name, tags in table.items() for tag, cfg in tags.items() if cfg["hf_hub"]]
    # Of several with the same weights, the one that the repository is named after, or has their activation.
    entries.sort(key=lambda entry: (entry[0] not in entry[2]["hf_hub"], not entry[0].endswith("-quickgelu")))
    seen: set[str] = set()
    for name, tag, cfg in entries:
        repository, _, file = cfg["hf_hub"].rpartition("/")
        if repository in seen or file not in ("", OPEN_CLIP):
            continue
        tensors, model_cfg = build_open_clip(name)
        if not tensors:
            continue
        seen.add(repository)
        preprocess = {k: cfg[k] for k in ("mean", "std", "interpolation", "resize_mode")}
        timm_cfg = timm.get_pretrained_cfg(repository.partition("/")[2]) if _is_timm(repository) else None
        yield Published(
            repository,
            file or OPEN_CLIP,
            {"open_clip_config.json": {"model_cfg": model_cfg, "preprocess_cfg": preprocess}},
            tensors,
            "open_clip",
            name.removesuffix("-quickgelu"),
            tag,
            licence=(timm_cfg.license if timm_cfg is not None else None) or find_licence(repository),
        )


def _is_timm(repository: str) -> bool:
    owner, _, name = repository.partition("/")
    return owner == "timm" and name in timm.list_pretrained(name.partition(".")[0] + "*")


def read_transformers() -> Iterator[Published]:
    """The well-known repositories of Hugging Face's layouts, as its configurations build them."""
    transformers = import_module("transformers")
    for pattern, model_class, config_class, sizes, common in HUGGING_FACE:
        for size, options in sizes.items():
            config = _configure(getattr(transformers, config_class), {**common, **options})
            without_pooler = {"add_pooling_layer": False} if "/dino-" in pattern else {}
            with torch.device("meta"):
                model = getattr(transformers, model_class)(config, **without_pooler)
            repository = pattern.format(size)
            yield Published(
                repository,
                MAIN,
                {"config.json": {**config.to_dict(), "architectures": [model_class]}},
                shapes_of(model),
                "transformers",
                repository.partition("/")[2],
                licence=find_licence(repository),
                notes=tuple(note for pattern, note in NOTES if re.fullmatch(pattern, repository)),
            )


def _configure(kind: Any, options: dict[str, Any]) -> Any:
    """A configuration. Names with a dot are options of the one within: `vision_config.hidden_size`."""
    given: dict[str, Any] = {}
    for name, value in options.items():
        inner, _, option = name.rpartition(".")
        (given.setdefault(inner, {}) if inner else given)[option] = value
    return kind(**given)


def _size(dim: int, depth: int, heads: int, mlp: int | None = None, **more: Any) -> dict[str, Any]:
    mlp = 4 * dim if mlp is None else mlp
    return dict(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=mlp, **more)


def _vision(options: dict[str, Any], text: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    inner = {f"vision_config.{name}": value for name, value in options.items()}
    return inner | {f"text_config.{name}": value for name, value in (text or {}).items()} | more


TI, S, B = _size(192, 12, 3), _size(384, 12, 6), _size(768, 12, 12)
L, H, G = _size(1024, 24, 16), _size(1280, 32, 16), _size(1408, 40, 16, 6144)
SO = _size(1152, 27, 16, 4304)
_RATIO = {"intermediate_size"}


def _ratio(size: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A size whose MLP is a ratio in the configuration."""
    return {name: value for name, value in size.items() if name not in _RATIO} | more


DINOV2 = {
    "small": _ratio(S),
    "base": _ratio(B),
    "large": _ratio(L),
    "giant": _ratio(_size(1536, 40, 24), use_swiglu_ffn=True),
}
DINOV3 = {
    "s16": S,
    "s16plus": _size(384, 12, 6, 1536, use_gated_mlp=True, hidden_act="silu"),
    "b16": B,
    "l16": L,
    "h16plus": _size(1280, 32, 20, 5120, use_gated_mlp=True, hidden_act="silu"),
    "7b16": _size(4096, 40, 32, 8192, use_gated_mlp=True, hidden_act="silu", query_bias=False, value_bias=False),
}
CLIP_TEXT = _size(512, 12, 8)
CLIP_TEXT_L = B


def _siglip(size: dict[str, Any], pixels: int, patch: int, vocab: int) -> dict[str, Any]:
    text = {**size, "vocab_size": vocab, "projection_size": size["hidden_size"]}
    return _vision({**size, "image_size": pixels, "patch_size": patch}, text)


def _siglips(vocab: int, base: str, large: str, so: dict[str, tuple[int, int]]) -> dict[str, dict[str, Any]]:
    sizes = {f"base-patch16-{n}": _siglip(B, int(n), 16, vocab) for n in base.split()}
    sizes |= {f"large-patch16-{n}": _siglip(L, int(n), 16, vocab) for n in large.split()}
    return sizes | {f"so400m-{n}": _siglip(SO, pixels, patch, vocab) for n, (pixels, patch) in so.items()}


_1K, _21K = {"num_labels": 1000}, {"num_labels": 21843}
_DEIT = {"tiny": TI, "small": S, "base": B}
_VIT = {
    "base-patch16-224": B,
    "base-patch16-384": B | {"image_size": 384},
    "base-patch32-384": B | {"image_size": 384, "patch_size": 32},
    "large-patch16-224": L,
    "large-patch16-384": L | {"image_size": 384},
    "large-patch32-384": L | {"image_size": 384, "patch_size": 32},
}
_VIT_21K = {
    "base-patch16": B,
    "base-patch32": B | {"patch_size": 32},
    "large-patch16": L,
    "large-patch32": L | {"patch_size": 32},
    "huge-patch14": H | {"patch_size": 14},
}
_BEIT = {"use_relative_position_bias": True, "use_mean_pooling": True, "layer_scale_init_value": 0.1}
_LAYERS = {"small": (384, 6, [48, 96, 192, 384]), "base": (768, 12, [96, 192, 384, 768])}
HUGGING_FACE: tuple[tuple[str, str, str, dict[str, dict[str, Any]], dict[str, Any]], ...] = (
    ("facebook/dinov2-{}", "Dinov2Model", "Dinov2Config", DINOV2, {"image_size": 518, "patch_size": 14}),
    (
        "facebook/dinov2-{}-imagenet1k-1-layer",
        "Dinov2ForImageClassification",
        "Dinov2Config",
        DINOV2,
        {"image_size": 518, "patch_size": 14, **_1K},
    ),
    (
        "facebook/dinov2-with-registers-{}",
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        DINOV2,
        {"image_size": 518, "patch_size": 14},
    ),
    (
        "facebook/dinov2-with-registers-{}-imagenet1k-1-layer",
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        DINOV2,
        {"image_size": 518, "patch_size": 14, **_1K},
    ),
    (
        "facebook/dinov3-vit{}-pretrain-lvd1689m",
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        DINOV3,
        {"num_register_tokens": 4},
    ),
    (
        "facebook/dinov3-vit{}-pretrain-sat493m",
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {name: DINOV3[name] for name in ("l16", "7b16")},
        {"num_register_tokens": 4},
    ),
    ("google/vit-{}", "ViTForImageClassification", "ViTConfig", _VIT, _1K),
    ("google/vit-{}-224-in21k", "ViTModel", "ViTConfig", _VIT_21K, {}),
    (
        "facebook/dino-vit{}",
        "ViTModel",
        "ViTConfig",
        {"s16": S, "s8": S | {"patch_size": 8}, "b16": B, "b8": B | {"patch_size": 8}},
        {},
    ),
    ("facebook/deit-{}-patch16-224", "ViTForImageClassification", "ViTConfig", _DEIT, _1K),
    (
        "facebook/deit-{}-distilled-patch16-224",
        "DeiTForImageClassificationWithTeacher",
        "DeiTConfig",
        _DEIT,
        _1K,
    ),
    (
        "facebook/deit-base-patch16-{}",
        "ViTForImageClassification",
        "ViTConfig",
        {"384": B | {"image_size": 384}},
        _1K,
    ),
    (
        "facebook/deit-base-distilled-patch16-{}",
        "DeiTForImageClassificationWithTeacher",
        "DeiTConfig",
        {"384": B | {"image_size": 384}},
        _1K,
    ),
    (
        "microsoft/beit-{}",
        "BeitForImageClassification",
        "BeitConfig",
        {
            "base-patch16-224": B | _1K,
            "base-patch16-384": B | _1K | {"image_size": 384},
            "large-patch16-224": L | _1K,
            "large-patch16-384": L | _1K | {"image_size": 384},
            "large-patch16-512": L | _1K | {"image_size": 512},
            "base-patch16-224-pt22k-ft22k": B | {"num_labels": 21841},
            "large-patch16-224-pt22k-ft22k": L | {"num_labels": 21841},
        },
        _BEIT,
    ),
    (
        "openai/clip-vit-{}",
        "CLIPModel",
        "CLIPConfig",
        {
            "base-patch32": _vision({**B, "patch_size": 32}, CLIP_TEXT, projection_dim=512),
            "base-patch16": _vision({**B, "patch_size": 16}, CLIP_TEXT, projection_dim=512),
            "large-patch14": _vision({**L, "patch_size": 14}, CLIP_TEXT_L, projection_dim=768),
            "large-patch14-336": _vision({**L, "patch_size": 14, "image_size": 336}, CLIP_TEXT_L, projection_dim=768),
        },
        {},
    ),
    (
        "google/siglip-{}",
        "SiglipModel",
        "SiglipConfig",
        _siglips(32000, "224 256 384 512", "256 384", {"patch14-384": (384, 14), "patch14-224": (224, 14)})
        | {"base-patch16-256-multilingual": _siglip(B, 256, 16, 250000)},
        {},
    ),
    (
        "google/siglip2-{}",
        "SiglipModel",
        "SiglipConfig",
        _siglips(
            256000,
            "224 256 384 512",
            "256 384 512",
            {
                "patch14-224": (224, 14),
                "patch14-384": (384, 14),
                "patch16-256": (256, 16),
                "patch16-384": (384, 16),
                "patch16-512": (512, 16),
            },
        )
        | {"base-patch32-256": _siglip(B, 256, 32, 256000)},
        {},
    ),
    (
        "facebook/vit-mae-{}",
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        {"base": B, "large": L, "huge": H | {"patch_size": 14}},
        {},
    ),
    (
        "facebook/sam-vit-{}",
        "SamModel",
        "SamConfig",
        {
            "base": {},
            "large": _vision(_ratio(L, global_attn_indexes=[5, 11, 17, 23])),
            "huge": _vision(_ratio(H, global_attn_indexes=[7, 15, 23, 31])),
        },
        {},
    ),
    (
        "facebook/vit-msn-{}",
        "ViTMSNModel",
        "ViTMSNConfig",
        {"small": S, "base": B, "large": L, "base-4": B | {"patch_size": 4}, "large-7": L | {"patch_size": 7}},
        {},
    ),
    (
        "facebook/ijepa_{}",
        "IJepaModel",
        "IJepaConfig",
        {
            "vith14_1k": H | {"patch_size": 14},
            "vith14_22k": H | {"patch_size": 14},
            "vith16_1k": H | {"patch_size": 16, "image_size": 448},
            "vitg16_22k": G | {"patch_size": 16},
        },
        {},
    ),
)
