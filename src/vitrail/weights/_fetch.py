"""Downloads what vitrail reads of a repository of the Hugging Face Hub: files of weights, or their headers alone."""

import contextlib
import fnmatch
import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

from .._check import join_names
from .._extras import require
from ._errors import CheckpointError
from ._licence import README
from .formats import AbstractSource, NumpyArray, TensorInfo, open_source

_MAIN: Final = ("model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors")
"""The files of tensors that are looked for, the first first."""
_SETTINGS: Final = ("config.json", "open_clip_config.json", "preprocessor_config.json", "processor_config.json", README)
"""What says what the tensors are, and what the licence is."""
_TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "bpe_simple_vocab_16e6.txt",
    "bpe_simple_vocab_16e6.txt.gz",
)
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt")
_CACHED: Final = re.compile(r"models--(.+)--(.+)")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file of weights in a repository of the Hub."""

    repository: str
    """`"owner/name"`."""
    file: str | None = None
    """The path of the file in it; `None` for the main one."""
    revision: str | None = None
    """A branch, a tag or a commit; `None` for the default branch."""

    def __str__(self) -> str:
        return self.repository + (f" at {self.revision}" if self.revision else "")


@dataclass(frozen=True)
class _Choice:
    """What is read of a repository."""

    file: str
    """The file of weights, or their index."""
    tensors: tuple[str, ...]
    """The files of tensors: the same, or those of the index."""
    settings: tuple[str, ...]
    """The settings beside it."""
    tokenizer: tuple[str, ...]
    """The files of a tokenizer beside it."""
    commit: str | None
    """What the revision is today; `None` where the Hub does not say it."""


def fetch(wanted: HubFile) -> Path:
    """Downloads a file of weights and what belongs to it, unless huggingface_hub has them in its cache.

    **Returns:**

    The path of the file in the cache. The settings are beside it.

    **Raises:** `FileNotFoundError` if there is no such repository, revision or file; `PermissionError` if it is gated
    or the token is refused; `ConnectionError` if the Hub cannot be reached; `CheckpointError` if the repository has no
    weights that vitrail reads.
    """
    hub: Any = require("huggingface_hub", extra="hub")
    with explain(wanted):
        choice = _choose(wanted, hub)
        needed = [choice.file, *choice.tensors, *choice.settings]
        folder = Path(hub.snapshot_download(wanted.repository, revision=wanted.revision, allow_patterns=needed))
        file = folder / choice.file
        if choice.tokenizer and _reads_text(file):
            hub.snapshot_download(wanted.repository, revision=folder.name, allow_patterns=[*choice.tokenizer])
    return file


@final
class HubSource(AbstractSource):
    """The names, shapes and dtypes of the tensors in a repository, without their numbers. One that is read downloads
    them all."""

    def __init__(self, wanted: HubFile, path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]):
        self.path: Path = path
        self.tensors: Mapping[str, TensorInfo] = tensors
        self.metadata: Mapping[str, str] = metadata
        self._wanted = wanted

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        with open_source(fetch(self._wanted)) as source:
            return source.read(name, row)


def fetch_header(wanted: HubFile) -> HubSource | Path:
    """Downloads the headers of a file of weights and the settings beside it. The numbers are not downloaded.

    **Returns:**

    The tensors; the path of the file if it is in the cache, or has no header that says it.

    **Raises:** what `fetch` raises.
    """
    hub: Any = require("huggingface_hub", extra="hub")
    errors: Any = require("huggingface_hub.errors", extra="hub")
    with explain(wanted):
        choice = _choose(wanted, hub)
        cached = (hub.try_to_load_from_cache(wanted.repository, n, revision=choice.commit) for n in choice.tensors)
        has_header = choice.file.endswith((".safetensors", ".index.json"))
        if choice.commit is None or not has_header or all(isinstance(path, str) for path in cached):
            return fetch(wanted)
        at = {"revision": choice.commit}
        needed = [*choice.settings, *({choice.file} - {*choice.tensors})]
        folder = Path(hub.snapshot_download(wanted.repository, **at, allow_patterns=needed))
        tensors: dict[str, TensorInfo] = {}
        metadata: dict[str, str] = {}
        for name in choice.tensors:
            try:
                header = hub.HfApi().parse_safetensors_file_metadata(wanted.repository, name, **at)
            except errors.SafetensorsParsingError:
                return fetch(wanted)  # what reads the file says what is wrong with it
            tensors |= {name: TensorInfo(info.dtype, tuple(info.shape)) for name, info in header.tensors.items()}
            metadata = header.metadata if choice.file == name else {}
    return HubSource(replace(wanted, revision=choice.commit), folder / choice.file, tensors, metadata)


def _choose(wanted: HubFile, hub: Any) -> _Choice:
    beside = f"{wanted.file.rpartition('/')[0]}/" if wanted.file is not None and "/" in wanted.file else ""
    there, commit = _list_files(wanted, [beside + name for name in _SETTINGS], hub)
    file = _choose_file(wanted, there)
    shards = fnmatch.filter(there, f"{file.removesuffix('.safetensors.index.json')}-*-of-*.safetensors")
    return _Choice(
        file,
        tuple(shards) if file.endswith(".index.json") else (file,),
        tuple(beside + name for name in _SETTINGS if beside + name in there),
        tuple(beside + name for name in _TOKENIZER if beside + name in there),
        commit,
    )


def _list_files(wanted: HubFile, settings: Sequence[str], hub: Any) -> tuple[list[str], str | None]:
    """The files of a repository, and its commit; where the Hub does not answer, those in the cache."""
    errors: Any = require("huggingface_hub.errors", extra="hub")
    try:
        found = hub.HfApi().repo_info(wanted.repository, revision=wanted.revision)
        return [sibling.rfilename for sibling in found.siblings or ()], found.sha
    except (errors.HFValidationError, errors.RevisionNotFoundError):
        raise
    except Exception:
        with contextlib.suppress(errors.LocalEntryNotFoundError):
            folder = Path(
                hub.snapshot_download(
                    wanted.repository, revision=wanted.revision, allow_patterns=settings, local_files_only=True
                )
            )
            there = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
            if any(name.endswith((".safetensors", ".npz")) for name in there):
                return there, None
        raise


def _choose_file(wanted: HubFile, there: Sequence[str]) -> str:
    if wanted.file is not None and wanted.file in there:
        return wanted.file
    if wanted.file is None and (found := next((name for name in _MAIN if name in there), None)) is not None:
        return found
    kind = (wanted.file or "").partition("_model")[0]
    if (pickle := _find_pickle(there, kind)) is not None:
        out = "open_clip_model" if pickle.startswith("open_clip") else "model"
        raise CheckpointError(
            f"{wanted} has its weights as a pickle of PyTorch alone: run `hf download {wanted.repository} --include "
            f"'*.json' '{pickle.partition('.')[0]}*' --local-dir DIR` and `vitrail convert --from-torch DIR/{pickle} "
            f"DIR/{out}.safetensors`"
        )
    tensors = [name for name in there if name.endswith((".safetensors", ".npz"))]
    if tensors and wanted.file is not None:
        raise FileNotFoundError(
            f"{wanted} has no file {wanted.file!r}. It has {join_names(tensors[:5])}: pass one as "
            f"'hub:{wanted.repository}/{tensors[0]}'"
        )
    if tensors:
        raise CheckpointError(
            f"{wanted} has none of {join_names(_MAIN)}. It has {join_names(tensors[:5])}: pass one as "
            f"'hub:{wanted.repository}/{tensors[0]}'"
        )
    raise CheckpointError(f"{wanted} has no weights that vitrail reads, got the files {join_names(list(there)[:5])}")


def _find_pickle(there: Sequence[str], kind: str) -> str | None:
    """The pickle of PyTorch whose name begins so, or its index."""
    found = [name for name in there if name.startswith(kind)]
    pickles = (name for name in found if name.endswith((".bin.index.json", *_PICKLES)))
    return min(pickles, key=lambda name: not name.endswith(".json"), default=None)


def _reads_text(file: Path) -> bool:
    """Whether a file of weights has a text tower, which needs a tokenizer."""
    if file.name.startswith("open_clip"):
        return True
    try:
        return "text_config" in json.loads(file.with_name("config.json").read_bytes())
    except (OSError, ValueError):  # what reads the weights says what is wrong with it
        return False


def read_origin(path: Path) -> tuple[str, str] | None:
    """The repository and the commit that a file in the cache of huggingface_hub is from; `None` for another file."""
    for snapshots, commit in zip(path.absolute().parents, [path.absolute(), *path.absolute().parents], strict=False):
        if snapshots.name == "snapshots" and _COMMIT.fullmatch(commit.name):
            cached = _CACHED.fullmatch(snapshots.parent.name)
            return None if cached is None else (f"{cached[1]}/{cached[2]}", commit.name)
    return None


@contextmanager
def explain(wanted: HubFile) -> Generator[None]:
    """Turns what huggingface_hub raises into one sentence."""
    errors: Any = require("huggingface_hub.errors", extra="hub")
    where = f"{require('huggingface_hub.constants', extra='hub').ENDPOINT}/{wanted.repository}"
    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(
            f"{wanted.repository!r} is not the name of a repository of the Hub, which is as 'owner/name'"
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{wanted.repository} is gated: accept its terms at {where} and run `hf auth login`, or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"the Hub has no repository {wanted.repository!r}, or it is private: check the name; if it is private, run "
            "`hf auth login`, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{wanted.repository} has no branch, tag or commit {wanted.revision!r}: see {where}/commits"
        ) from error
    except errors.HfHubHTTPError as error:
        raise _describe_answer(wanted, error) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        offline = require("huggingface_hub.constants", extra="hub").HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE keeps huggingface_hub from the network" if offline else "the Hub cannot be reached"
        what = "unset it, and load the model once" if offline else "check the network"
        raise ConnectionError(f"{wanted} is not whole in the cache, and {why}: {what}") from error
    except OSError:
        raise
    except RuntimeError as error:  # of an upload
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _describe_answer(wanted, error.__cause__) from error
        raise ConnectionError(f"{wanted} cannot be reached: {error} Try again") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "requests"):
            raise
        raise ConnectionError(
            f"{wanted} is not whole in the cache, and the Hub cannot be reached: check the network"
        ) from error


def _describe_answer(wanted: HubFile, error: Any) -> OSError:
    status: int = error.response.status_code
    if status == 401:
        return PermissionError(
            f"the Hub wants a valid token of huggingface_hub for {wanted}: run `hf auth login`, or set HF_TOKEN"
        )
    if status == 403:
        return PermissionError(
            f"the token of huggingface_hub may not do this with {wanted}: make one with the right to"
        )
    return ConnectionError(f"the Hub answers {status} for {wanted}: try again later")
