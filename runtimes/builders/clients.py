"""What a built bundle takes over from the one that it was built of."""

from __future__ import annotations

from codegen_edge.bundle import Bundle
from codegen_edge.bundle.writer import BundleWriter
from codegen_edge.dependencies import package_versions

_LEFT_OUT = ("genai_config.json",)  # it names the graph's file and the provider that runs it
_TOOLS = ("codegen-edge", "onnx-ir", "numpy")


def copy_clients(bundle: Bundle, writer: BundleWriter) -> None:
    """Copy tokenizer, configs and reports; raise IntegrityError where the bundle is not the same any more."""
    writer.copy_from(bundle, leave_out=_LEFT_OUT)
    bundle.check_unchanged()


def tool_versions(bundle: Bundle) -> dict[str, str]:
    """Those that made `bundle`, and those that build of it."""
    return bundle.manifest.tools | package_versions(*_TOOLS)
