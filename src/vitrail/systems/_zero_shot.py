"""A classifier for classes that are only named."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._check import check_names, check_positive, describe_value, join_names, warn
from ..head import HEADS, AbstractHead, LinearHead, NoHead
from ..model import ViT, replace
from ..nn import Linear, normalise
from ._image_text import ImageText
from ._templates import TEMPLATES

_PLACE: Final = "{}"


def zero_shot(
    model: ImageText,
    classes: Sequence[str],
    *,
    templates: str | Sequence[str] = "photo",
    batch_size: int = 64,
) -> ViT:
    """Makes a classifier from a model of images and texts, without training. The direction of each class is the mean of
    the embeddings of texts that name the class.

    !!! example

        ```python
        classifier = vitrail.zero_shot(clip, ["cat", "dog", "sofa"])
        logits = jax.vmap(classifier)(images)
        ```

    The embeddings are scaled to unit length before and after the mean, as in the paper. The result is an ordinary
    `ViT` with the head [`cosine`][vitrail.CosineHead]: it can be evaluated, saved, fine-tuned, and changed with
    `vitrail.replace`.

    **Arguments:**

    - `model`: CLIP or SigLIP, with its tokenizer.
    - `classes`: the names of the classes as they stand in a sentence: `"golden retriever"`.
    - `templates`: a name of [`TEMPLATES`][vitrail.TEMPLATES], one prompt, or several. `{}` stands for the name of the
        class: `"a photo of a {}."`.
    - `batch_size`: how many prompts are embedded at a time.

    **Returns:**

    The image model as a classifier of these classes.

    **Raises:** `TypeError` if a class or a template is not a string; `ValueError` if there is none, a name is empty, a
    template has no `{}`, the model has no tokenizer, or the image model has a head that is neither `linear` nor `none`;
    `MissingExtraError` if the library tokenizers is not installed.
    """
    check_positive(batch_size=batch_size)
    prompts = find_templates(templates)
    names = _check_classes(classes)
    projection = _find_projection(model.image.readout.head)
    texts = [prompt.replace(_PLACE, name) for name in names for prompt in prompts]
    embeddings = _embed_texts(model, jnp.asarray(model.tokenize(texts)), batch_size)
    directions = normalise(jnp.mean(embeddings.reshape(len(names), len(prompts), -1), axis=1))
    head = HEADS.configure(
        "cosine",
        projection_dim=None if projection is None else projection.weight.shape[0],
        projection_bias=projection is not None and projection.bias is not None,
        bias=model.bias is not None,
    )
    made = replace(model.image, head=head, num_classes=len(names), classes=tuple(names), key=jax.random.key(0))
    filled = (projection, directions, model.log_scale, model.bias)
    return eqx.tree_at(_get_parts, made, filled, is_leaf=lambda part: part is None)


def _get_parts(model: ViT) -> tuple[Any, ...]:
    head: Any = model.readout.head
    return head.projection, head.directions, head.log_scale, head.bias


@eqx.filter_jit
def _embed_texts(model: ImageText, tokens: Int[Array, "texts context"], batch_size: int) -> Float[Array, "texts embed"]:
    return cast(Array, jax.lax.map(model.embed_text, tokens, batch_size=batch_size))


def find_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The prompts that `zero_shot` takes: those of a name, or those that are given.

    **Raises:** `ValueError` if there is no such name, or a prompt has no place for the class.
    """
    if isinstance(templates, str) and _PLACE in templates:
        return (templates,)
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            raise ValueError(
                f"templates must be one of {join_names(TEMPLATES)}, or prompts with {_PLACE} in the place of the "
                f"class, got {templates!r}"
            )
        return TEMPLATES[templates]
    check_names("templates", templates)
    if not templates:
        raise ValueError("templates must have at least one prompt, got none: leave them out for 'a photo of a {}.'")
    if wrong := [prompt for prompt in templates if _PLACE not in prompt]:
        raise ValueError(f"templates must each have a {_PLACE} in the place of the class, got {wrong[0]!r}")
    return tuple(templates)


def _check_classes(classes: Sequence[str]) -> list[str]:
    if isinstance(classes, str):
        raise TypeError(f"classes must be a sequence of names, got the text {classes!r}: pass a list")
    names = list(classes)
    check_names("classes", names)
    if not names or not all(name.strip() for name in names):
        raise ValueError(f"classes must be names, at least one and none empty, got {names[:8]}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        warn(f"classes have {join_names(twice)} more than once: images get the same logit for each of them")
    return names


def _find_projection(head: AbstractHead) -> Linear | None:
    """The linear layer that makes the embedding of an image; `None` if there is none."""
    match head:
        case NoHead():
            return None
        case LinearHead(activation=None):
            return head.linear
        case _:
            raise ValueError(
                "the image model must have the head 'linear' or 'none', which return an embedding, got "
                f"{describe_value(head)}: restore it with vitrail.replace"
            )
