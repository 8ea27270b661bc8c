"""The other side of the pages for those who know another library: what the tables say of it runs."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm_oracle import timm

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "coming-from"))
run_column = importlib.import_module("_cells").run_column


def test_what_the_page_on_timm_says_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    peft, data, models, optim, utils = (
        importlib.import_module(name) for name in ("peft", "timm.data", "timm.models", "timm.optim", "timm.utils")
    )
    create = timm.create_model

    def create_small(name: str, pretrained: bool = False, **options: Any) -> Any:
        if name.startswith("local-dir:"):
            return create(name, pretrained=pretrained, **options)
        assert not pretrained or timm.list_models(name, pretrained=True)
        return create(name, **{"img_size": 56 if "14" in name else 64, "depth": 2} | options)

    monkeypatch.setattr(timm, "create_model", create_small)
    names = {
        "timm": timm,
        "torch": torch,
        "model": timm.create_model("vit_small_patch16_224", img_size=96, num_classes=3),
        "images": torch.zeros(2, 3, 64, 64),
        "picture": Image.new("RGB", (100, 80)),
        "get_peft_model": lambda model, config: peft.get_peft_model(timm.create_model("vit_small_patch16_224"), config),
        "LoraConfig": peft.LoraConfig,
        "create_transform": data.create_transform,
        "resolve_model_data_config": data.resolve_model_data_config,
        "create_optimizer_v2": optim.create_optimizer_v2,
        "freeze": utils.freeze,
        "ModelEmaV3": utils.ModelEmaV3,
        "save_for_hf": models.save_for_hf,
        "push_to_hf_hub": lambda model, name: models.push_to_hf_hub,
    }
    run_column("timm.md", 1, names)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT uses it
def test_what_the_page_on_hugging_face_says_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    peft, transformers = importlib.import_module("peft"), importlib.import_module("transformers")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**shape, image_size=64, num_labels=2)
    transformers.ViTForImageClassification(config).save_pretrained("folder")
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained("folder")

    class AutoModel:
        @staticmethod
        def from_pretrained(name: str, **options: Any) -> Any:
            folder = "folder" if name == "facebook/dinov2-small" else name
            return transformers.AutoModel.from_pretrained(folder, **options)

    monkeypatch.setattr(transformers.PreTrainedModel, "push_to_hub", lambda self, name: None)
    names = {
        **{name: getattr(transformers, name) for name in ("AutoConfig", "AutoImageProcessor")},
        "AutoModelForImageClassification": transformers.AutoModelForImageClassification,
        "AutoModel": AutoModel,
        "torch": torch,
        "picture": Image.fromarray(np.zeros((80, 100, 3), np.uint8)),
        "larger": torch.zeros(1, 3, 96, 96),
        "LoraConfig": peft.LoraConfig,
        "get_peft_model": peft.get_peft_model,
    }
    run_column("hugging-face.md", 1, names)


def test_what_the_page_on_pytorch_says_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 10}
    monkeypatch.setattr(torch, "compile", lambda model: model)  # compiles at the first call
    names = {
        "torch": torch,
        "model": timm.models.vision_transformer.VisionTransformer(**options),
        "images": torch.zeros(4, 3, 32, 32),
    }
    run_column("pytorch.md", 1, names)
