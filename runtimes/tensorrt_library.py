"""TensorRT or TensorRT-RTX, whichever is installed: one API under two names. Imported by builds and by the runtime."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any

from codegen_edge.dependencies import install_command
from codegen_edge.errors import RuntimeUnavailableError

# Import names, in the order in which they are looked for: the full library first.
LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}
_LIBS_PACKAGE = "tensorrt_rtx_libs"  # importing it loads the shared objects that the bindings need


@dataclass(frozen=True, slots=True)
class TensorRT:
    """The imported library.

    Attributes:
        name: a key of LIBRARIES.
        api: the module.
        logger: TensorRT takes one for the whole process.
    """

    name: str
    api: Any
    logger: Any = field(repr=False)

    @property
    def version(self) -> str:
        """Of the library; engines are for no other one."""
        return str(self.api.__version__)

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """Of GPUs that may be elsewhere when an engine is built for them; empty where the library cannot do that."""
        known = getattr(self.api, "ComputeCapability", None)
        codes = sorted(int(name[2:]) for name in dir(known) if name.startswith("SM"))
        return tuple(f"{code // 10}.{code % 10}" for code in codes)

    def require_support(self, gpu_name: str, compute_capability: str) -> None:
        """Check that the library runs on a GPU: TensorRT-RTX builds on a data-centre GPU, and runs no engine there.

        Raises:
            RuntimeUnavailableError: it does not; says which GPUs it has kernels for.
        """
        known = self.compute_capabilities
        code = tuple(map(int, compute_capability.split(".")))
        # Whatever is newer than the newest that is listed is compiled for on the spot.
        if known and compute_capability not in known and code < tuple(map(int, known[-1].split("."))):
            raise RuntimeUnavailableError(
                f"{self.name} {self.version} runs on compute capabilities {', '.join(known)} and newer ones; "
                f"{gpu_name} has {compute_capability}: {install_command('tensorrt')}"
            )


_loaded: dict[str, TensorRT] = {}


def load_tensorrt(name: str | None = None) -> TensorRT:
    """Import the library.

    Args:
        name: "tensorrt" or "tensorrt-rtx"; None takes whichever can be loaded, TensorRT first.

    Raises:
        RuntimeUnavailableError: it is not installed, or cannot be loaded; names the command that installs it.
    """
    names = list(LIBRARIES) if name is None else [name]
    failures = []
    for each in names:
        spec = importlib.util.find_spec(LIBRARIES[each])
        if spec is None or spec.origin is None:  # without an origin it is some folder of that name
            continue
        try:
            if each not in _loaded:
                _loaded[each] = _load(each)
        except RuntimeUnavailableError as exc:
            failures.append(str(exc))
        else:
            return _loaded[each]
    if failures:
        raise RuntimeUnavailableError("; ".join(failures))
    wanted = "TensorRT" if name is None else name
    raise RuntimeUnavailableError(f"{wanted} is not installed: {' or '.join(install_command(each) for each in names)}")


def _load(name: str) -> TensorRT:
    try:
        if name == "tensorrt-rtx":
            importlib.import_module(_LIBS_PACKAGE)
        api = importlib.import_module(LIBRARIES[name])
    except (ImportError, OSError) as exc:
        raise RuntimeUnavailableError(
            f"{name} is installed and cannot be loaded ({exc}): {install_command(name)}"
        ) from exc
    return TensorRT(name, api, collecting_logger(api))


def collecting_logger(api: Any) -> Any:
    """A logger of this library that keeps the errors, for the exception that follows them."""

    class Collector(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (api.ILogger.Severity.ERROR, api.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Collector()


def reported_errors(logger: Any) -> str:
    """The errors since the last call, as one line."""
    reported = "; ".join(dict.fromkeys(" ".join(message.split()) for message in logger.errors))
    logger.errors.clear()
    return reported or "the library gave no reason"
