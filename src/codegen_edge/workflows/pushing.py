"""A bundle to a repository of the hub, in one commit."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from codegen_edge.bundle import Bundle, FileRecord, Manifest, open_bundle
from codegen_edge.bundle.manifest import FORMAT_VERSION
from codegen_edge.bundle.storage import MANIFEST_FILE
from codegen_edge.dependencies import disable_telemetry
from codegen_edge.errors import HubError, InvalidInputError, first_line
from codegen_edge.workflows.model_card import CARD_FILE, model_card
from codegen_edge.workflows.packages import require_hub_package

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What was uploaded.

    Attributes:
        url: of the commit.
        revision: the commit.
        num_files: of the bundle.
        size_bytes: of all of them.
    """

    url: str
    revision: str
    num_files: int
    size_bytes: int


def push(
    bundle: str | Path | Bundle,
    repo_id: str,
    *,
    private: bool = False,
    branch: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Upload a bundle to a model repository of the hub, which is made where it is not there.

    Every file is compared with its hash first. The model card holds the results of the bundle's own reports; that, and
    its record in bundle.json, are all that differs from the folder: who downloads the repository has a whole bundle.
    The token is the hub library's own: HF_TOKEN, or what `hf auth login` stored.

    Args:
        bundle: a folder, or an opened bundle.
        repo_id: "owner/name".
        private: whether a repository that is made is private.
        branch: where to commit; None takes main.
        message: of the commit.

    Raises:
        InvalidInputError: `repo_id` is no repository's name.
        BundleError: the folder is no whole bundle.
        HubError: the hub refuses, or cannot be reached; nothing is committed by halves.
        RuntimeUnavailableError: huggingface-hub is missing.
    """
    if not isinstance(repo_id, str) or _REPO_ID.fullmatch(repo_id) is None:
        raise InvalidInputError(f"a repository is OWNER/NAME, got {repo_id!r}")
    require_hub_package()
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    contents = _changed_files(opened, repo_id)
    disable_telemetry()
    from huggingface_hub import CommitOperationAdd, HfApi

    names = [*opened.manifest.files, MANIFEST_FILE]
    with opened.reading():
        operations = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=contents.get(name, opened.at(name))) for name in names
        ]
        try:
            hub = HfApi()
            hub.create_repo(repo_id, private=private, exist_ok=True)
            if branch is not None:
                hub.create_branch(repo_id, branch=branch, exist_ok=True)
            commit = hub.create_commit(
                repo_id, operations, commit_message=message or f"Upload {opened.path.name}", revision=branch
            )
        # The hub's library lets through what its HTTP library raises, and changes that library between versions.
        except Exception as exc:
            raise HubError(f"{repo_id} was not written: {first_line(exc)}", hint=_hint(exc)) from exc
    size_bytes = sum(
        len(contents[name]) if name in contents else opened.manifest.files[name].size_bytes for name in names
    )
    return Pushed(url=commit.commit_url, revision=commit.oid, num_files=len(names), size_bytes=size_bytes)


def _changed_files(bundle: Bundle, repo_id: str) -> dict[str, bytes]:
    """The model card, and the manifest that lists it."""
    card = model_card(bundle, repo_id).encode()
    record = FileRecord(size_bytes=len(card), sha256=sha256(card).hexdigest())
    manifest = replace(bundle.manifest, files={**bundle.manifest.files, CARD_FILE: record})
    fields: dict[str, Any] = {"format_version": FORMAT_VERSION, **asdict(manifest)}
    return {CARD_FILE: card, MANIFEST_FILE: Manifest.from_dict(fields).to_json()}


def _hint(exc: Exception) -> str:
    status = getattr(getattr(exc, "response", None), "status_code", None)
    return "hf auth login, or HF_TOKEN in the environment" if status in (401, 403) else ""
