"""Zero-shot classifiers: the embeddings of prompts as the head of an image model."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, image_for, run
from reference import float64
from text_models import make_model, write_model

import vitrail
from vitrail.images import Dataset, Examples

CLASSES = ["cat", "golden retriever", "red sofa"]
KEY = jax.random.key(0)
FAMILIES = ["openai_clip", "hf_siglip 2"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, vitrail.ImageText]:
    """CLIP, with a projection and without a bias, and SigLIP, the other way round."""
    return {family: vitrail.load(write_model(family, tmp_path_factory.mktemp("m") / "model")) for family in FAMILIES}


@pytest.fixture(scope="module")
def classifiers(models: dict[str, vitrail.ImageText]) -> dict[str, vitrail.ViT]:
    return {family: vitrail.zero_shot(model, CLASSES, templates=PROMPTS) for family, model in models.items()}


PROMPTS = ["a photo of a {}.", "{}, {} everywhere!", "the {} in the snow"]


def np_logits(model: vitrail.ImageText, image: Any, prompts: list[str]) -> np.ndarray:
    """The logits in float64: the mean over the prompts of each class, of unit length, against the image."""
    directions: list[np.ndarray] = []
    for name in CLASSES:
        texts = [
            float64(run(model.embed_text, jnp.asarray(tokens)))
            for tokens in model.tokenize([prompt.replace("{}", name) for prompt in prompts])
        ]
        assert_close(np.linalg.norm(texts, axis=1), np.ones(len(prompts)))
        mean = np.mean(texts, axis=0)
        directions.append(mean / np.linalg.norm(mean))
    embedding = float64(run(model.image, image))
    cosine = np.stack(directions) @ embedding / np.linalg.norm(embedding)
    return np.exp(float64(model.log_scale)) * cosine + (0 if model.bias is None else float64(model.bias))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_mean_prompt_of_each_class(
    family: str, models: dict[str, vitrail.ImageText], classifiers: dict[str, vitrail.ViT]
) -> None:
    model, classifier = models[family], classifiers[family]
    image = image_for(model.image)
    logits = run(classifier, image)
    assert_close(logits, np_logits(model, image, PROMPTS))
    assert np.max(np.abs(logits - np_logits(model, image, PROMPTS[:1]))) > 1e-3
    assert (classifier.config.num_classes, classifier.config.classes) == (3, tuple(CLASSES))
    assert classifier.config.preprocess == model.image.config.preprocess
    head: Any = classifier.readout.head
    assert (head.projection is None) == (family != "openai_clip")
    assert (head.bias is None) == (family == "openai_clip")


def test_templates_by_name_are_those_prompts(models: dict[str, vitrail.ImageText]) -> None:
    model = models["openai_clip"]
    image = image_for(model.image)
    assert [len(prompts) for prompts in vitrail.TEMPLATES.values()] == [1, 80, 7]
    assert set(vitrail.TEMPLATES["imagenet_simple"]) <= set(vitrail.TEMPLATES["imagenet"])
    assert all(prompt.count("{}") == 1 for prompts in vitrail.TEMPLATES.values() for prompt in prompts)
    simple = vitrail.zero_shot(model, CLASSES, templates="imagenet_simple")
    assert_close(run(simple, image), np_logits(model, image, list(vitrail.TEMPLATES["imagenet_simple"])))
    usual = vitrail.zero_shot(model, CLASSES, batch_size=2)
    assert_close(run(usual, image), np_logits(model, image, ["a photo of a {}."]))


def test_the_classifier_is_an_ordinary_vit(
    models: dict[str, vitrail.ImageText], classifiers: dict[str, vitrail.ViT], tmp_path: Path
) -> None:
    for family, classifier in classifiers.items():
        image = image_for(classifier)
        vitrail.save(classifier, tmp_path / "m.safetensors")
        loaded: vitrail.ViT = vitrail.load(tmp_path / "m.safetensors")
        assert loaded.config == classifier.config
        assert np.array_equal(run(loaded, image), run(classifier, image)), family
    classifier = classifiers["openai_clip"]
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    examples = Examples(images, np.array([0, 1, 2, 0, 1, 2], np.int32))
    preprocess = classifier.config.preprocess
    assert preprocess is not None
    data = Dataset("noise", examples, examples, tuple(CLASSES), preprocess)
    evaluation = vitrail.train.evaluate(classifier, data, batch_size=4)
    expected = np.stack([run(classifier, image) for image in jnp.asarray(preprocess.normalise(images))])
    assert_close(evaluation.logits, expected)
    replaced = vitrail.replace(classifier, pool="mean", class_token=True)
    assert replaced.readout.head is not None
    assert run(replaced, image_for(classifier)).shape == (3,)
    other = vitrail.replace(classifier, head="linear", num_classes=2, key=KEY)
    assert other.config.classes is None


def test_what_cannot_be_classified_is_an_error(models: dict[str, vitrail.ImageText]) -> None:
    model = models["openai_clip"]
    for classes in ([], ["cat", " "]):
        with pytest.raises(ValueError, match="classes must be names, at least one and none empty"):
            vitrail.zero_shot(model, classes)
    with pytest.raises(TypeError, match="classes must be a sequence of names, got the text 'cat': pass a list"):
        vitrail.zero_shot(model, "cat")
    for given in ({"classes": ["cat", None]}, {"classes": CLASSES, "templates": ["a {}", None]}):
        with pytest.raises(TypeError, match=r"(classes|templates) (of .* )?must be .*got None (as|among)"):
            vitrail.zero_shot(model, **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"templates must be one of 'photo', .* or prompts with \{\}"):
        vitrail.zero_shot(model, CLASSES, templates="imagenette")
    with pytest.raises(ValueError, match="templates must have at least one prompt"):
        vitrail.zero_shot(model, CLASSES, templates=[])
    with pytest.raises(ValueError, match=r"templates must each have a \{\} .* got 'a photo'"):
        vitrail.zero_shot(model, CLASSES, templates=["a {}", "a photo"])
    with pytest.raises(ValueError, match="batch_size must be positive"):
        vitrail.zero_shot(model, CLASSES, batch_size=0)
    with pytest.raises(ValueError, match="must have a tokenizer to read texts"):
        vitrail.zero_shot(make_model("openai_clip"), CLASSES)
    with pytest.warns(UserWarning, match="classes have 'cat' more than once: images get the same logit"):
        vitrail.zero_shot(model, ["cat", "dog", "cat"])
    image = vitrail.replace(model.image, head="mlp", key=KEY)
    changed = dataclasses.replace(model, image=image, config=dataclasses.replace(model.config, image=image.config))
    with pytest.raises(ValueError, match="the image model must have the head 'linear' or 'none'"):
        vitrail.zero_shot(changed, CLASSES)
