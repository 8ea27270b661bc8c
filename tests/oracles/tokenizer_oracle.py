"""Folders of tiny models with both towers and an original tokenizer, and what these make of texts."""

import functools
import gzip
import importlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from checkpoint_oracle import open_clip, randomise, transformers
from safetensors.torch import save_file
from tokenizer_texts import PLAIN, TEXTS, UNICODE

tokenizers = importlib.import_module("tokenizers")
sentencepiece = importlib.import_module("sentencepiece")
converter = importlib.import_module("transformers.convert_slow_tokenizer")

MERGES = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
_TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


class Family(NamedTuple):
    """A folder of a checkpoint, and its original tokenizer."""

    folder: Path
    encode: Callable[[Sequence[str]], np.ndarray]


def write_model(folder: Path, family: str, vocabulary: int, context: int) -> None:
    """A tiny model of Hugging Face's in a folder."""
    vision = _TOWER | {"image_size": 8, "patch_size": 4}
    text = _TOWER | {"vocab_size": vocabulary, "max_position_embeddings": context}
    kind = {"clip": "CLIP", "siglip": "Siglip"}[family]
    extra = {"projection_dim": 8} if family == "clip" else {}
    ends = {"eos_token_id": vocabulary - 1} if family == "clip" else {"projection_size": 16}
    config = getattr(transformers, f"{kind}Config")(text_config=text | ends, vision_config=vision, **extra)
    randomise(getattr(transformers, f"{kind}Model")(config)).save_pretrained(folder)


def write_open_clip(folder: Path, vocabulary: int, context: int, **text: Any) -> None:
    """A tiny model of open_clip's in a folder."""
    folder.mkdir(exist_ok=True)
    vision_cfg = {"image_size": 8, "patch_size": 4, "width": 64, "layers": 1}
    text_cfg = {"context_length": context, "vocab_size": vocabulary, "width": 16, "heads": 2, "layers": 1}
    bias = {"init_logit_bias": -10.0} if text.get("no_causal_mask") else {}
    towers = {"vision_cfg": vision_cfg, "text_cfg": text_cfg | {k: v for k, v in text.items() if "token" not in k}}
    model = open_clip.CustomTextCLIP(8, **towers, **bias)
    save_file(randomise(model).state_dict(), folder / "open_clip_model.safetensors")
    config = {"embed_dim": 8, "custom_text": True, **bias, **towers, "text_cfg": text_cfg | text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


def encode_hugging_face(tokenizer: Any, context: int, texts: Sequence[str]) -> np.ndarray:
    """What Hugging Face's tokenizer makes of texts, as its processors call it."""
    return np.array(tokenizer(list(texts), padding="max_length", truncation=True, max_length=context).input_ids)


def encode_open_clip(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """What a tokenizer of open_clip makes of texts."""
    return tokenizer(list(texts)).numpy()


def write_clip_files(folder: Path, tokenizer: Any = None) -> None:
    """The `vocab.json` and `merges.txt` of Hugging Face's CLIP, with the tokens of one of open_clip."""
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    tokenizer = open_clip.SimpleTokenizer() if tokenizer is None else tokenizer
    known = tokenizer.encoder.items()
    (folder / "vocab.json").write_text(json.dumps({names.get(token, token): number for token, number in known}))
    merges = [" ".join(pair) for pair in tokenizer.bpe_ranks]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


def make_openai(folder: Path) -> Family:
    """open_clip's CLIP with OpenAI's merges."""
    write_open_clip(folder, 49408, 77)
    (folder / MERGES.name).write_bytes(MERGES.read_bytes())
    return Family(folder, functools.partial(encode_open_clip, open_clip.SimpleTokenizer()))


def make_laion(folder: Path) -> Family:
    """open_clip's CLIP with the tokenizer.json of Hugging Face's, which open_clip does not read."""
    write_open_clip(folder, 49408, 77)
    write_clip_files(folder)
    transformers.CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    return Family(folder, functools.partial(encode_open_clip, open_clip.SimpleTokenizer()))


def make_clip(folder: Path, *, saved: bool) -> Family:
    """Hugging Face's CLIP with its older files, or with the one that it saves."""
    write_model(folder, "clip", 49408, 77)
    write_clip_files(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    if saved:
        tokenizer.save_pretrained(folder)
        for name in ("vocab.json", "merges.txt"):
            (folder / name).unlink()
    return Family(folder, functools.partial(encode_hugging_face, tokenizer, 77))


def train_gemma() -> dict[str, Any]:
    """A small tokenizer of the kind of Gemma's: byte pairs with bytes for unknown characters, spaces as blocks."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(fuse_unk=True, unk_token="<unk>", byte_fallback=True))
    made.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=900, special_tokens=[*special, *bytes_], show_progress=False)
    made.train_from_iterator([text.lower() for text in (*PLAIN, *UNICODE)] * 3, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer = json.loads(made.to_str())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] in special]
    return tokenizer


def write_gemma(folder: Path) -> int:
    """The files of SigLIP 2's tokenizer; returns how many tokens it has."""
    tokenizer = train_gemma()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    settings |= {"tokenizer_class": "Siglip2Tokenizer", "padding_side": "right", "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(tokenizer["model"]["vocab"])


def make_siglip2(folder: Path, *, saved: bool) -> Family:
    """Hugging Face's SigLIP 2 with the published files, or with those that it saves."""
    folder.mkdir()
    write_model(folder, "siglip", write_gemma(folder), 64)
    tokenizer = transformers.Siglip2Tokenizer.from_pretrained(folder)
    if saved:
        tokenizer.save_pretrained(folder)
    return Family(folder, functools.partial(encode_hugging_face, tokenizer, 64))


def make_open_clip_siglip2(folder: Path) -> Family:
    """open_clip's SigLIP 2, which cleans the text itself."""
    folder.mkdir()
    options = {"tokenizer_kwargs": {"clean": "canonicalize"}, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2"}
    write_open_clip(folder, write_gemma(folder), 64, **options, pool_type="last", no_causal_mask=True)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=64, clean="canonicalize")
    return Family(folder, functools.partial(encode_open_clip, tokenizer))


def write_sentencepiece(folder: Path) -> int:
    """A small `spiece.model` of the kind of T5's, and the tokenizer.json of it; returns how many tokens it has."""
    (folder / "corpus.txt").write_text("\n".join((*PLAIN, *UNICODE) * 5))
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=600,
        hard_vocab_limit=False,
        character_coverage=0.99,
        minloglevel=2,
        pad_piece="<pad>",
        **ids,
    )

    class Slow:
        vocab_file = str(folder / "spiece.model")
        add_prefix_space = True
        legacy = False
        _extra_ids = 0

        def convert_tokens_to_ids(self, token: str) -> int:
            return {"</s>": 1}[token]

    class Converter(converter.T5Converter):
        def vocab(self, proto: Any) -> list[tuple[str, float]]:
            return [(piece.piece, piece.score) for piece in proto.pieces]

    fast = Converter(Slow()).converted()
    (folder / "tokenizer.json").write_text(fast.to_str())
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "</s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))
    return fast.get_vocab_size()


def make_siglip(folder: Path) -> Family:
    """Hugging Face's SigLIP, whose tokenizer is SentencePiece itself."""
    folder.mkdir()
    write_model(folder, "siglip", write_sentencepiece(folder), 64)
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"))
    return Family(folder, functools.partial(encode_hugging_face, tokenizer, 64))


def make_open_clip_siglip(folder: Path) -> Family:
    """open_clip's SigLIP."""
    folder.mkdir()
    options = {"tokenizer_kwargs": {"clean": "canonicalize"}, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}
    write_open_clip(folder, write_sentencepiece(folder), 64, **options, pool_type="last", no_causal_mask=True)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=64, clean="canonicalize")
    return Family(folder, functools.partial(encode_open_clip, tokenizer))


def make_clipa(folder: Path) -> Family:
    """open_clip's CLIPA, whose tokenizer is BERT's without the separator."""
    folder.mkdir()
    made = tokenizers.implementations.BertWordPieceTokenizer(lowercase=True)
    made.train_from_iterator([*PLAIN, *UNICODE], vocab_size=700, show_progress=False)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    made.save(str(folder / "tokenizer.json"))
    settings = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    options = {"tokenizer_kwargs": {"strip_sep_token": True}, "hf_tokenizer_name": "bert-base-uncased"}
    write_open_clip(folder, made.get_vocab_size(), 32, **options, pool_type="last", no_causal_mask=True)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=32, strip_sep_token=True)
    return Family(folder, functools.partial(encode_open_clip, tokenizer))


FAMILIES: dict[str, Callable[[Path], Family]] = {
    "open_clip CLIP": make_openai,
    "open_clip CLIP beside Hugging Face's tokenizer": make_laion,
    "open_clip CLIPA": make_clipa,
    "open_clip SigLIP": make_open_clip_siglip,
    "open_clip SigLIP 2": make_open_clip_siglip2,
    "HF CLIP, vocab.json and merges.txt": functools.partial(make_clip, saved=False),
    "HF CLIP, tokenizer.json": functools.partial(make_clip, saved=True),
    "HF SigLIP": make_siglip,
    "HF SigLIP 2": functools.partial(make_siglip2, saved=False),
    "HF SigLIP 2, saved": functools.partial(make_siglip2, saved=True),
}


@functools.cache
def make_family(name: str) -> Family:
    """A family, made once."""
    return FAMILIES[name](Path(tempfile.mkdtemp()) / "model")


# --- Frozen -------------------------------------------------------------------------------------------------------

FROZEN = TEXTS[::3]


def freeze_openai(folder: Path) -> Family:
    """open_clip's tokenizer with the first merges of CLIP."""
    lines = gzip.decompress(MERGES.read_bytes()).decode().split("\n")[:400]
    path = folder / MERGES.name.removesuffix(".gz")
    path.write_text("\n".join(lines))
    with tempfile.TemporaryDirectory() as other:
        Path(other, MERGES.name).write_bytes(gzip.compress(path.read_bytes()))
        tokenizer = open_clip.SimpleTokenizer(str(Path(other, MERGES.name)))
    return Family(folder, functools.partial(encode_open_clip, tokenizer))


def freeze_clip(folder: Path) -> Family:
    """Hugging Face's CLIP with the first merges."""
    with tempfile.TemporaryDirectory() as other:
        write_clip_files(folder, freeze_openai(Path(other)).encode.args[0])
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    return Family(folder, functools.partial(encode_hugging_face, tokenizer, 77))


def freeze_siglip(folder: Path) -> Family:
    """Hugging Face's SigLIP without the table of characters, which is larger than all the rest."""
    with tempfile.TemporaryDirectory() as other:
        write_sentencepiece(Path(other))
        tokenizer = transformers.SiglipTokenizer(str(Path(other, "spiece.model")))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            content = json.loads(Path(other, name).read_text())
            if name == "tokenizer.json":
                kept = content["normalizer"]["normalizers"]
                content["normalizer"]["normalizers"] = [n for n in kept if n["type"] != "Precompiled"]
            (folder / name).write_text(json.dumps(content, ensure_ascii=False))
    return Family(folder, functools.partial(encode_hugging_face, tokenizer, 64))


def freeze_siglip2(folder: Path) -> Family:
    """Hugging Face's SigLIP 2."""
    write_gemma(folder)
    tokenizer = transformers.Siglip2Tokenizer.from_pretrained(folder)
    return Family(folder, functools.partial(encode_hugging_face, tokenizer, 64))


SMALL: dict[str, Callable[[Path], Family]] = {
    "openai_clip": freeze_openai,
    "hf_clip": freeze_clip,
    "hf_siglip": freeze_siglip,
    "hf_siglip 2": freeze_siglip2,
}
"""Small tokenizers by the layout of the model that they lie beside."""


def freeze_tokenizers(folder: Path) -> None:
    """Writes the files of the small tokenizers, and the tokens that the originals make of texts."""
    files: dict[str, dict[str, str]] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, make in SMALL.items():
        with tempfile.TemporaryDirectory() as place:
            family = make(Path(place))
            arrays[name] = family.encode(FROZEN).astype(np.int32)
            files[name] = {path.name: path.read_text() for path in sorted(Path(place).iterdir())}
    (folder / "tokenizers.json").write_text(json.dumps(files, ensure_ascii=False, separators=(",", ":")))
    np.savez_compressed(folder / "tokenizers.npz", allow_pickle=False, **arrays)
