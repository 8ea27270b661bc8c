"""What the layouts of CLIP and SigLIP share of their text towers: Hugging Face's, OpenAI's and open_clip's.

Source: transformers 5.23.0, the modules `clip` and `siglip`; open_clip 3.3.0 `transformer.py` and `model.py`.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, cast

from ...encoder import EncoderOptions, EncoderSize
from ...systems import TextConfig, TextPooling
from .._errors import CheckpointError
from .._rules import Rule, map_names
from ._checkpoint import Checkpoint
from ._hugging_face import map_hugging_face_block, read_activation, write_encoder
from ._layout import Settings
from ._open_clip import map_open_clip_block, read_open_clip_encoder, write_open_clip_encoder
from ._timm import compute_mlp_ratio

# --- Hugging Face -------------------------------------------------------------------------------------------------

_LAYER: Final = "text_model.encoder.layers.{i}."
_LEGACY_END: Final = 2
"""The `eos_token_id` of CLIP's files of before July 2023, which is not the id that ends a text."""


def read_hugging_face_text(checkpoint: Checkpoint, *, heads: int, causal: bool) -> TextConfig:
    """The text tower of a checkpoint with the settings of that tower.

    `heads` is what transformers assumes where no setting says it. A causal tower is CLIP's, which pools where the text
    ends, and another one SigLIP's, which pools the last token.
    """
    vocabulary, dim = checkpoint.get_shape("text_model.embeddings.token_embedding.weight", 2)
    usual_heads = heads if checkpoint.is_described else _guess_heads(dim) if causal else None
    end = _read_end(checkpoint) if causal else None
    return TextConfig(
        vocabulary=vocabulary,
        context=checkpoint.get_shape("text_model.embeddings.position_embedding.weight", 2)[0],
        size=checkpoint.get_size(
            dim,
            depth=checkpoint.count_blocks(f"{_LAYER}layer_norm1.weight"),
            mlp_dim=checkpoint.get_shape(f"{_LAYER.format(i=0)}mlp.fc1.weight", 2)[0],
            setting="num_attention_heads",
            usual=usual_heads,
        ),
        embed_dim=checkpoint.get_shape("text_projection.weight" if causal else "text_model.head.weight", 2)[0],
        projection_bias=not causal,
        causal=causal,
        pooling="last" if not causal else "largest_id" if end is None else "end_of_text",
        end_of_text=end,
        encoder=EncoderOptions(
            activation=read_activation(checkpoint), norm_eps=checkpoint.get_setting("layer_norm_eps", float)
        ),
    )


def _guess_heads(dim: int) -> int | None:
    """One head for each 64 channels, as OpenAI's `build_model` has it and every published text tower of CLIP."""
    return dim // 64 if dim % 64 == 0 else None


def _read_end(checkpoint: Checkpoint) -> int | None:
    """The id that ends a text; `None` for the rule by the largest id, which 2 stands for in CLIP, not in MetaCLIP 2."""
    end = checkpoint.get_setting("eos_token_id", int)
    legacy = end == _LEGACY_END and not str(checkpoint.settings.get("model_type")).startswith("metaclip_2")
    return None if legacy else end


def map_hugging_face_text(projection: Rule) -> tuple[Rule, ...]:
    """The rules of the text tower, with that of its projection."""
    return (
        map_names("text_model.embeddings.token_embedding.weight", "text.embedding"),
        map_names("text_model.embeddings.position_embedding.weight", "text.positions"),
        *map_hugging_face_block(_LAYER, "text.encoder.stack."),
        map_names("text_model.final_layer_norm.*", "text.norm.*"),
        projection,
    )


def write_hugging_face_text(config: TextConfig, model_type: str, **others: object) -> Settings:
    """The settings of the text tower, and `others`."""
    end = _LEGACY_END if config.pooling == "largest_id" else config.end_of_text
    return {
        "model_type": model_type,
        **write_encoder(config.size, config.encoder),
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        **({} if end is None else {"eos_token_id": end}),
        **others,
    }


def needs_metaclip_2(config: TextConfig) -> bool:
    """Whether only MetaCLIP 2's class has the id that ends a text, which CLIP's reads as the rule by the largest id."""
    return config.end_of_text == _LEGACY_END


# --- OpenAI, open_clip --------------------------------------------------------------------------------------------

_PREFIXES: Final = ("text.", "")
"""open_clip has the text tower's names within `text` or, as OpenAI, without a prefix."""
_BLOCK: Final = "transformer.resblocks.{i}."
# What follows from the tensors, or what only tokenizers and training need.
_KNOWN: Final = re.compile(
    r"context_length|vocab_size|hf_tokenizer_name|tokenizer_(mode|kwargs)|width|layers|mlp_ratio|ls_init_value|pad_id|"
    r"final_ln_after_pool|proj_(bias|type)|output_tokens|heads|eos_id|no_causal_mask|pool_type|norm_kwargs|act_kwargs"
)
_POOLINGS: Final[Mapping[str, TextPooling]] = MappingProxyType(
    {"argmax": "largest_id", "eos": "end_of_text", "last": "last", "first": "first"}
)
"""Our names of open_clip's text poolings."""


def read_open_clip_text(checkpoint: Checkpoint) -> TextConfig:
    """The text tower of a checkpoint, by its settings `text_cfg` and `hidden_act`.

    Without `text_cfg`, names without a prefix are those of OpenAI's tower.
    """
    prefix = next(prefix for prefix in _PREFIXES if f"{prefix}token_embedding.weight" in checkpoint)
    given = _read_given(checkpoint, prefix)
    vocabulary, dim = checkpoint.get_shape(f"{prefix}token_embedding.weight", 2)
    block = prefix + _BLOCK
    pool = given.get("pool_type", "argmax")
    if pool not in _POOLINGS:
        raise CheckpointError(
            f"{checkpoint.path} has {pool!r} as its text's 'pool_type': only {list(_POOLINGS)} are known"
        )
    embed_dim, bias = _find_projection(checkpoint, prefix)
    heads = given.get("heads", 8)
    return TextConfig(
        vocabulary=vocabulary,
        context=checkpoint.get_shape(f"{prefix}positional_embedding", 2)[0],
        size=EncoderSize(
            dim=dim,
            depth=checkpoint.count_blocks(f"{block}ln_1.weight"),
            num_heads=checkpoint.check_heads("heads", heads, dim)
            if given
            else checkpoint.get_heads(dim, setting="heads", usual=_guess_heads(dim)),
            mlp_dim=checkpoint.get_shape(f"{block.format(i=0)}mlp.c_fc.weight", 2)[0],
        ),
        embed_dim=embed_dim,
        projection_bias=bias,
        causal=not given.get("no_causal_mask", False),
        pooling=_POOLINGS[pool],
        end_of_text=given.get("eos_id", 2) if pool == "eos" else None,
        encoder=read_open_clip_encoder(checkpoint, given, block),
    )


def write_open_clip_text(config: TextConfig) -> Settings:
    """The setting `text_cfg`."""
    size, encoder = config.size, config.encoder
    return {
        "context_length": config.context,
        "vocab_size": config.vocabulary,
        "width": size.dim,
        "heads": size.num_heads,
        "layers": size.depth,
        "mlp_ratio": compute_mlp_ratio(size.dim, size.mlp_dim),
        "no_causal_mask": not config.causal,
        "pool_type": next(theirs for theirs, ours in _POOLINGS.items() if ours == config.pooling),
        **({} if config.end_of_text is None else {"eos_id": config.end_of_text}),
        **({"proj_type": "none"} if config.embed_dim is None else {"proj_bias": config.projection_bias}),
        **write_open_clip_encoder(encoder),
    }


def _read_given(checkpoint: Checkpoint, prefix: str) -> Mapping[str, Any]:
    """The setting `text_cfg`, empty if there is none and the tower is OpenAI's."""
    given = checkpoint.settings.get("text_cfg")
    if given is None and not prefix:
        checkpoint.assumed["text_cfg"] = "causal, pooled at the largest id"
        return {}
    if not isinstance(given, Mapping):
        raise CheckpointError(
            f"{checkpoint.path} does not say what its text tower is: put its open_clip_config.json beside it, or pass "
            "config= with its 'text_cfg', as {'text_cfg': {'heads': 12, 'pool_type': 'last', 'no_causal_mask': True}}"
        )
    for name, value in cast("Mapping[str, Any]", given).items():
        if value and not _KNOWN.fullmatch(name):
            raise CheckpointError(
                f"{checkpoint.path} has {name!r} as {value!r} in its 'text_cfg', which vitrail does not know: load its "
                "image tower with part='image'"
            )
    return cast("Mapping[str, Any]", given)


def _find_projection(checkpoint: Checkpoint, prefix: str) -> tuple[int | None, bool]:
    """The width of the embedding, and whether the layer that makes it has a bias."""
    if f"{prefix}text_projection.weight" in checkpoint:
        return checkpoint.get_shape(f"{prefix}text_projection.weight", 2)[0], True
    if f"{prefix}text_projection" in checkpoint:
        return checkpoint.get_shape(f"{prefix}text_projection", 2)[1], False
    return None, False


def map_open_clip_text(config: TextConfig, *, within: bool) -> tuple[Rule, ...]:
    """The rules of the text tower. Both names are read, and those `within` `text` or the others written."""
    return tuple(rule for prefix in (_PREFIXES if within else _PREFIXES[::-1]) for rule in _map_tower(config, prefix))


def _map_tower(config: TextConfig, prefix: str) -> tuple[Rule, ...]:
    projection = f"{prefix}text_projection"
    return (
        map_names(f"{prefix}token_embedding.weight", "text.embedding"),
        map_names(f"{prefix}positional_embedding", "text.positions"),
        *map_open_clip_block(f"{prefix}{_BLOCK}", "text.encoder.stack."),
        map_names(f"{prefix}ln_final.*", "text.norm.*"),
        map_names(f"{projection}.*", "text.projection.*")
        if config.projection_bias
        else map_names(projection, "text.projection.weight", "i o -> o i"),
    )
