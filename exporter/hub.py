"""From what a user names to a local folder; the hub is reached only for a hub id that is no local folder.

A local folder goes before a checkpoint that ships with us: `./codegen-5M-mono` is what lies there.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path

from codegen_edge.bundle.storage import sha256_of
from codegen_edge.checkpoints import SHIPPED, shipped_checkpoint
from codegen_edge.errors import CheckpointError, InvalidInputError, first_line

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
]
_SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
_BIN = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]
# What an export reads, in either format of the weights; an archive's other members are passed over.
CHECKPOINT_FILES = (*_FILES, *_SAFETENSORS, *_BIN)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class LocatedCheckpoint:
    """A checkpoint's folder, and under which name and revision it is known.

    Attributes:
        folder: holds config, weights and tokenizer.
        name: as a bundle records it.
        revision: of a hub id.
        tokenizer: the folder whose tokenizer is taken instead of the checkpoint's own.
    """

    folder: Path
    name: str
    revision: str | None
    tokenizer: Path | None = None


def locate_checkpoint(checkpoint: str, *, revision: str | None = None, offline: bool = False) -> LocatedCheckpoint:
    """Find a checkpoint's folder, downloading it if a hub id is given.

    Args:
        checkpoint: a local folder, the name of a checkpoint that ships with us ("codegen-5M-mono"), or a hub id
            such as "Salesforce/codegen-350M-mono".
        revision: branch, tag or commit on the hub; None takes main.
        offline: use the hub's local cache only.

    Raises:
        InvalidInputError: a revision was given for what is no hub id.
        CheckpointError: nothing is there, the hub cannot be reached, or a file of its cache is damaged.
    """
    folder = Path(checkpoint)
    if checkpoint and folder.is_dir():
        if revision is not None:
            raise InvalidInputError(f"{checkpoint} is a local folder; a revision is for hub ids")
        _check_blobs(folder, str(folder))
        return LocatedCheckpoint(folder, folder.resolve().name, None)
    shipped = shipped_checkpoint(checkpoint)
    if shipped is not None:
        if revision is not None:
            raise InvalidInputError(f"{checkpoint} ships with codegen-edge; a revision is for hub ids")
        return LocatedCheckpoint(shipped, checkpoint, None)
    if (checkpoint and folder.exists()) or _HUB_ID.fullmatch(checkpoint) is None:
        raise CheckpointError(
            f"{checkpoint!r} is neither a folder nor a hub id (like Salesforce/codegen-350M-mono), "
            f"nor does it ship with codegen-edge ({', '.join(SHIPPED)} does)"
        )
    return _download(checkpoint, revision, offline=offline)


def _download(hub_id: str, revision: str | None, *, offline: bool) -> LocatedCheckpoint:
    from huggingface_hub import constants, errors

    offline = offline or constants.HF_HUB_OFFLINE
    try:
        snapshot = _snapshot_offline(hub_id, revision) if offline else _snapshot(hub_id, revision)
    except errors.LocalEntryNotFoundError as exc:
        reason = "it is not in the local cache, which alone was to be used" if offline else "the hub cannot be reached"
        raise CheckpointError(
            f"{hub_id} (revision {revision or 'main'}): {reason}", hint="drop --offline" if offline else ""
        ) from exc
    # The hub's library lets through what its HTTP library raises, and changes that library between versions.
    except Exception as exc:
        raise CheckpointError(
            f"{hub_id} is no local folder, and fetching it from the hub (revision {revision or 'main'}) failed: "
            f"{first_line(exc)}",
            hint="--offline takes a copy that was downloaded before",
        ) from exc
    folder = Path(snapshot)
    _check_blobs(folder, hub_id)
    return LocatedCheckpoint(folder, hub_id, folder.name)  # the cache names a snapshot by its commit


def _check_blobs(folder: Path, checkpoint: str) -> None:
    """Raise CheckpointError where a file in the hub's cache is not what its name says.

    A snapshot's files are links to blobs. Those of large files are named by their sha256, which nobody compares after
    the download: a disk that lost a bit would be exported.
    """
    for file in sorted(folder.iterdir()):
        blob = file.resolve()
        if not file.is_symlink() or _SHA256.fullmatch(blob.name) is None or not blob.is_file():
            continue
        if (
            any(fnmatch.fnmatchcase(file.name, pattern) for pattern in CHECKPOINT_FILES)
            and sha256_of(blob) != blob.name
        ):
            raise CheckpointError(
                f"{checkpoint}: {file.name} in the hub's cache is damaged, its sha256 is not its name; remove {blob} "
                "and download it again"
            )


def _snapshot(hub_id: str, revision: str | None) -> str:
    """Download what an export needs, with the weights in one format only: a repository may hold both."""
    import huggingface_hub

    files = huggingface_hub.model_info(hub_id, revision=revision).siblings or []
    has_safetensors = any(fnmatch.fnmatchcase(file.rfilename, name) for file in files for name in _SAFETENSORS)
    patterns = _FILES + (_SAFETENSORS if has_safetensors else _BIN)
    return huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=patterns)


def _snapshot_offline(hub_id: str, revision: str | None) -> str:
    """Find what was downloaded before; the cache counts as whole when the weights are there in either format."""
    import huggingface_hub
    from huggingface_hub import errors

    def find(weights: list[str]) -> str:
        return huggingface_hub.snapshot_download(
            hub_id, revision=revision, allow_patterns=_FILES + weights, local_files_only=True
        )

    try:
        return find(_SAFETENSORS)
    except errors.LocalEntryNotFoundError:
        return find(_BIN)
