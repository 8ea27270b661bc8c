"""Downloads what vitrail reads of a repository of the Hugging Face Hub."""

import contextlib
import fnmatch
import json
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .._check import join_names
from .._extras import require
from ._errors import CheckpointError

_MAIN: Final = ("model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors")
"""The files of tensors that are looked for, the first first."""
_SETTINGS: Final = ("config.json", "open_clip_config.json", "preprocessor_config.json", "processor_config.json")
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


def fetch(wanted: HubFile) -> Path:
    """Downloads a file of weights and what belongs to it, unless huggingface_hub has them in its cache.

    **Returns:**

    The path of the file in the cache. The settings are beside it.

    **Raises:** `FileNotFoundError` if there is no such repository, revision or file; `PermissionError` if it is gated
    or the token is refused; `ConnectionError` if the Hub cannot be reached; `CheckpointError` if the repository has no
    weights that vitrail reads.
    """
    hub: Any = require("huggingface_hub", extra="hub")
    beside = f"{wanted.file.rpartition('/')[0]}/" if wanted.file is not None and "/" in wanted.file else ""
    with explain(wanted):
        there = _list_files(wanted, [beside + name for name in _SETTINGS], hub)
        file = _choose_file(wanted, there)
        needed = [beside + name for name in _SETTINGS if beside + name in there]
        if file.endswith(".index.json"):
            needed += fnmatch.filter(there, f"{file.removesuffix('.safetensors.index.json')}-*-of-*.safetensors")
        folder = Path(
            hub.snapshot_download(wanted.repository, revision=wanted.revision, allow_patterns=[file, *needed])
        )
        tokenizer = [beside + name for name in _TOKENIZER if beside + name in there]
        if tokenizer and _reads_text(folder / beside, file):
            hub.snapshot_download(wanted.repository, revision=folder.name, allow_patterns=tokenizer)
    return folder / file


def _list_files(wanted: HubFile, settings: Sequence[str], hub: Any) -> list[str]:
    """The files of a repository; where the Hub does not answer, those in the cache."""
    errors: Any = require("huggingface_hub.errors", extra="hub")
    try:
        siblings = hub.HfApi().repo_info(wanted.repository, revision=wanted.revision).siblings
        return [sibling.rfilename for sibling in siblings or ()]
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
                return there
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


def _reads_text(folder: Path, file: str) -> bool:
    """Whether a file of weights has a text tower, which needs a tokenizer."""
    if file.rpartition("/")[2].startswith("open_clip"):
        return True
    try:
        return "text_config" in json.loads((folder / "config.json").read_bytes())
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
