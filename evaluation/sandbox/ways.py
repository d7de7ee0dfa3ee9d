"""The ways to start a zygote, the safest first: which user it is, which namespaces it has, and with what command."""

from __future__ import annotations

import json
import os
import random
import shutil
import site
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codegen_edge.evaluation.sandbox.limits import Limits

BUBBLEWRAP = "bubblewrap"
PROCESS = "process"

# One thread each for numpy's libraries, whatever the machine; a fixed order of sets, so that a verdict can be repeated.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
# No user site, no site, no working directory on the path, no bytecode written, UTF-8 whatever the locale.
_INTERPRETER_OPTIONS = ("-s", "-S", "-P", "-B", "-X", "utf8")
_SOURCE_INSIDE = "/codegen-edge-sandbox"
_PACKAGES_INSIDE = "/codegen-edge-packages"
_COVERED_FOLDERS = ("/tmp", "/dev", "/proc")  # what lies there outside is not seen inside
_NOBODY = 65534
# systemd's range for users that exist only while a service runs: no file belongs to them.
_DYNAMIC_USERS = range(61184, 65520)
_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_CAPABILITIES = ("CAP_SYS_ADMIN",)
_CAPABILITIES_OF_ROOT = (*_CAPABILITIES, "CAP_SETUID", "CAP_SETGID", "CAP_KILL")

# Packages are found where ours are; nothing of codegen_edge is imported but what the sandbox needs.
_START = """
import json, sys, types
told = json.loads(sys.argv[1])
sys.path += told["paths"]
for name in ("codegen_edge", "codegen_edge.evaluation", "codegen_edge.evaluation.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [told["source"]]
from codegen_edge.evaluation.sandbox.inside.server import serve
serve(told["control"], is_nested=told["is_nested"], preload=told["preload"])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a zygote is started.

    Attributes:
        kind: BUBBLEWRAP or PROCESS.
        is_nested: whether each program gets namespaces of its own; if not, and with bubblewrap, each gets a zygote.
        is_real_root: whether the zygote is the real superuser, so that programs can be given a real user of their own.
    """

    kind: str
    is_nested: bool = False
    is_real_root: bool = False

    @property
    def is_single_use(self) -> bool:
        """Whether a zygote may run one program only."""
        return self.kind == BUBBLEWRAP and not self.is_nested

    @property
    def is_counted_by_kernel(self) -> bool:
        """Whether RLIMIT_NPROC binds: not for real user 0, whatever it is called inside."""
        return self.is_real_root or os.getuid() != 0

    def user_id(self) -> int | None:
        """A user for one zygote's programs; None: they stay who the zygote is."""
        return random.SystemRandom().choice(_DYNAMIC_USERS) if self.is_real_root else None

    def command(self, *, control: int, preload: Sequence[str], limits: Limits) -> list[str]:
        """The command that starts a zygote.

        Args:
            control: the descriptor that it inherits.
            preload: modules that it imports beforehand.
            limits: of its programs.
        """
        source = Path(__file__).resolve().parent
        told = {
            "control": control,
            "is_nested": self.is_nested,
            "preload": list(preload),
            "paths": _package_folders() if self.kind == PROCESS else list(_packages_inside()),
            "source": str(source) if self.kind == PROCESS else _SOURCE_INSIDE,
        }
        python = [os.path.realpath(sys.executable), *_INTERPRETER_OPTIONS, "-c", _START, json.dumps(told)]
        if self.kind == PROCESS:
            return python
        bubblewrap = shutil.which("bwrap") or "bwrap"
        return [bubblewrap, *self._namespaces(), *_file_system(source, self.is_nested, limits), "--", *python]

    def _namespaces(self) -> list[str]:
        options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        options += ["--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
        if not self.is_real_root:
            options += ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY)]
        kept = _CAPABILITIES_OF_ROOT if self.is_real_root else _CAPABILITIES
        for name in kept if self.is_nested else ():
            options += ["--cap-add", name]
        return options


def ways() -> list[Way]:
    """Those of bubblewrap that this user may hope for, the safest first."""
    nested, plain = Way(kind=BUBBLEWRAP, is_nested=True), Way(kind=BUBBLEWRAP)
    if os.getuid() == 0:
        return [Way(kind=BUBBLEWRAP, is_nested=True, is_real_root=True), nested, plain]
    return [nested, plain]


def _file_system(source: Path, is_nested: bool, limits: Limits) -> list[str]:
    options = []
    for folder in map(Path, _SYSTEM_FOLDERS):
        if folder.is_symlink():
            options += ["--symlink", os.readlink(folder), str(folder)]
        elif folder.is_dir():
            options += ["--ro-bind", str(folder), str(folder)]
    for file in _SYSTEM_FILES:
        options += ["--ro-bind-try", file, file]
    options += ["--proc", "/proc", "--tmpfs", "/dev"]
    for device in _DEVICES:
        options += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    size = [] if is_nested else ["--size", str(limits.folder_bytes)]  # bubblewrap 0.8
    options += [*size, "--tmpfs", "/dev/shm", *size, "--tmpfs", "/tmp"]
    places = {source: _SOURCE_INSIDE, **{folder: str(folder) for folder in _interpreter_folders()}}
    places |= {Path(folder): place for place, folder in _packages_inside().items() if not _is_bound(Path(folder))}
    for folder, place in sorted(places.items(), key=lambda each: len(Path(each[1]).parts)):
        for parent in reversed(Path(place).parents[:-1]):
            options += ["--dir", str(parent)]  # those that bubblewrap adds itself only their owner may enter
        options += ["--ro-bind", str(folder), place]
    return [*options, "--chdir", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]


def _interpreter_folders() -> list[Path]:
    """Where the interpreter lies, beside the system's folders; by its own name and by that which links lead to."""
    prefixes = (sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.path.realpath(sys.executable)))
    kept: list[Path] = []
    for folder in sorted({Path(each) for prefix in prefixes for each in (prefix, os.path.realpath(prefix))}):
        is_kept = any(folder.is_relative_to(outer) for outer in kept)
        if not is_kept and not _is_bound(folder) and folder != Path("/"):
            kept.append(folder)
    return kept


def _packages_inside() -> dict[str, str]:
    """Where a program finds the folders of installed packages, and where they lie outside."""
    places = {}
    for number, folder in enumerate(_package_folders()):
        is_covered = any(Path(folder).is_relative_to(each) for each in _COVERED_FOLDERS)
        places[f"{_PACKAGES_INSIDE}/{number}" if is_covered else folder] = folder
    return places


def _is_bound(folder: Path) -> bool:
    return any(folder.is_relative_to(bound) for bound in _SYSTEM_FOLDERS)


def _package_folders() -> list[str]:
    """The folders of installed packages: neither the project's own source nor the working directory."""
    known = {*site.getsitepackages(), site.getusersitepackages()}
    installed = [path for path in sys.path if path in known or Path(path).name in ("site-packages", "dist-packages")]
    return [path for path in dict.fromkeys(installed) if Path(path).is_dir()]
