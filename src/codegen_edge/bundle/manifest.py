"""`bundle.json`: what a bundle is made of, and the size and hash of every file in it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from codegen_edge.bundle import contract
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.bundle.storage import MANIFEST_FILE
from codegen_edge.bundle.verdict_form import checked_verdict
from codegen_edge.errors import BundleError, UnsupportedModelError

FORMAT_VERSION = 1
_PRECISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TOKENIZER_FILE = "tokenizer.json"

Phase = Literal["prefill", "decode"]
ENGINE_FILES: dict[Phase, str] = {"prefill": "engines/prefill.engine", "decode": "engines/decode.engine"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size and hash of one file, as it was exported."""

    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if type(self.size_bytes) is not int or self.size_bytes < 0:
            raise ValueError(f"the size of a file must be a whole number of bytes, got {self.size_bytes!r}")
        if not isinstance(self.sha256, str):
            raise ValueError(f"the sha256 of a file must be a text, got {self.sha256!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that a bundle was made of.

    Attributes:
        name: the hub id, or the name of the local folder (never its path).
        revision: the hub's commit, or None for a local folder.
        sha256: hash over the config and the weight files, each by name and content.
        weights_dtype: dtype of the stored weights, for example "float16".
        repairs: what was repaired in its files, one sentence each.
    """

    name: str
    revision: str | None
    sha256: str
    weights_dtype: str
    repairs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = (self.name, self.revision or "", self.sha256, self.weights_dtype, *self.repairs)
        wrong = next((each for each in texts if not isinstance(each, str)), None)
        if wrong is not None:
            raise ValueError(f"the source has {wrong!r:.80} where a text belongs")


CURRENT_GPU = "current"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What `codegen-edge build --runtime tensorrt` made of a bundle: one engine for prefill chunks, one for decode.

    Attributes:
        library: "tensorrt" or "tensorrt-rtx".
        version: of the library; its engines are for no other one.
        compute_capabilities: of the GPUs that they were built for, for example "8.9"; "current" with `gpu` for the one
            that built them.
        gpu: name of that GPU, or None.
        batch_size: rows of a step (B).
        capacity: tokens that a row may hold.
        chunk: tokens of a prefill step (T).
    """

    library: str
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    batch_size: int
    capacity: int
    chunk: int

    def __post_init__(self) -> None:
        texts = (self.library, self.version, self.gpu or "", *self.compute_capabilities)
        numbers = (self.batch_size, self.capacity, self.chunk)
        if not all(isinstance(each, str) for each in texts) or not all(type(each) is int for each in numbers):
            raise ValueError("its engines have a field of another type")

    @property
    def buffer_length(self) -> int:
        """C of the KV buffers: room for a chunk of padding beyond what a row may hold."""
        return self.capacity + self.chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of `bundle.json`.

    Attributes:
        task: what the graph computes.
        target: which operators it is made of.
        precision: how its weights are stored: "fp32", or the name of the scheme that quantized them.
        model: the model's shape.
        source: the checkpoint that it was made of.
        tools: versions of the programs that made it.
        files: every other file of the bundle by its relative path.
        kv_cache: "float" (past and present are of the dtype that the graph computes in), or "int8".
        compute: dtype that the graph computes in.
        processor: "any", or "vnni" for a graph whose integer products are exact only with VNNI.
        built_of: fingerprint of the bundle that this one was built of for a GPU, or None.
        engines: how its engines were built, or None for a bundle that holds a graph.
        parity: the verdict of the last verification, or None when it was never verified.
    """

    task: contract.Task
    target: contract.Target
    precision: str
    model: ModelConfig
    source: Source
    tools: dict[str, str]
    files: dict[str, FileRecord]
    kv_cache: contract.KVPrecision = "float"
    compute: contract.Compute = "fp32"
    processor: contract.Processor = "any"
    built_of: str | None = None
    engines: Engines | None = None
    parity: dict[str, Any] | None = None

    @property
    def cache_precision(self) -> str:
        """What past and present are stored in: "fp32", "fp16", "bf16" or "int8"."""
        return self.compute if self.kv_cache == "float" else self.kv_cache

    def to_json(self) -> bytes:
        """Serialize as indented JSON with a final newline."""
        fields = {"format_version": FORMAT_VERSION, **asdict(self)}
        return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Manifest:
        """Read the parsed `bundle.json`; raise BundleError on a newer format or a malformed field."""
        version = fields.get("format_version")
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{MANIFEST_FILE} has format version {version!r}, this codegen-edge reads {FORMAT_VERSION}; "
                "upgrade codegen-edge or export the checkpoint again"
            )
        try:
            source = dict(fields["source"])
            source["repairs"] = tuple(source.pop("mended", source.get("repairs", ())))  # its name before 0.1
            engines = fields.get("engines")
            if engines is not None:
                engines = Engines(**engines | {"compute_capabilities": tuple(engines["compute_capabilities"])})
            manifest = cls(
                task=fields["task"],
                target=fields["target"],
                precision=fields["precision"],
                model=ModelConfig(**fields["model"]),
                source=Source(**source),
                tools=_texts("tools", fields["tools"]),
                files={name: FileRecord(**record) for name, record in fields["files"].items()},
                kv_cache="float" if fields.get("kv_cache", "fp32") == "fp32" else fields["kv_cache"],  # before 0.1
                compute=fields.get("compute", "fp32"),
                processor=fields.get("processor", "any"),
                built_of=fields.get("built_of"),
                engines=engines,
                parity=checked_verdict(fields.get("parity")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, UnsupportedModelError) as exc:
            reason = " ".join(str(exc).split())
            raise BundleError(f"{MANIFEST_FILE} is malformed ({reason}); export the checkpoint again") from exc
        if not isinstance(manifest.built_of, str | None):
            raise BundleError(f"{MANIFEST_FILE} is malformed (built_of is no text); export the checkpoint again")
        # A scheme of somebody else's is as good a precision: the graph says how it computes.
        if not isinstance(manifest.precision, str) or not _PRECISION.fullmatch(manifest.precision):
            raise BundleError(f"{MANIFEST_FILE} has precision {manifest.precision!r}, which is no name of a scheme")
        for name, known in (
            ("task", contract.TASKS),
            ("target", contract.TARGETS),
            ("kv_cache", contract.KV_PRECISIONS),
            ("compute", contract.COMPUTES),
            ("processor", contract.PROCESSORS),
        ):
            if getattr(manifest, name) not in known:
                raise BundleError(
                    f"{MANIFEST_FILE} has {name} {getattr(manifest, name)!r}, this codegen-edge knows "
                    f"{', '.join(known)}; upgrade it"
                )
        return manifest


def _texts(what: str, fields: Any) -> dict[str, str]:
    """A dict of texts; raise ValueError where it is none."""
    texts = dict(fields)
    wrong = next((name for name, value in texts.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise ValueError(f"{what} has {texts[wrong]!r:.80} as {wrong!r:.80}")
    return texts
