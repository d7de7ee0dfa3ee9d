"""System calls that Python 3.11 has no names for: namespaces, mounts, capabilities, process control. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_CLONE_NEWNS = 0x00020000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWPID = 0x20000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REC, _MS_SLAVE = 1 << 14, 1 << 19
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_MAX_FILES = 20_000  # inodes cost memory that `size` does not count

IS_LINUX = sys.platform == "linux"
_LIBC = ctypes.CDLL(None, use_errno=True)


def enter_namespaces(folder_bytes: int) -> None:
    """Give this process's children namespaces of their own: processes, mounts with an empty /tmp, and System V IPC.

    Raises:
        OSError: the process may not.
    """
    _check(_LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWPID))
    _mount("none", "/", None, _MS_REC | _MS_SLAVE)
    for folder in ("/tmp", "/dev/shm"):
        options = f"size={folder_bytes},nr_inodes={_MAX_FILES},mode=1777"
        _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, options)


def mount_own_processes() -> None:
    """Show in /proc the processes of this namespace only, or nothing where the kernel refuses."""
    try:
        _mount("proc", "/proc", "proc", _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    except OSError:
        _mount("tmpfs", "/proc", "tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


def give_up_privileges(uid: int | None) -> None:
    """Become `uid`, keep no capability, gain none by executing a file, and let no process of the same user trace this.

    Raises:
        OSError: one of it failed; nothing may be run then.
    """
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if not IS_LINUX:
        return
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if os.getuid() != 0:  # the superuser without a sandbox keeps what it has: there is nothing to protect it from
        _check(_LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        _check(_LIBC.capset(header, (ctypes.c_uint32 * 6)()))
    _check(_LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, daemons included."""
    if IS_LINUX:
        _check(_LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def end_with_parent(signal_number: int) -> None:
    """Get `signal_number` when the parent ends."""
    if IS_LINUX:
        _check(_LIBC.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0))


def descendants() -> list[int]:
    """The process ids of all that descend from this process; empty where the kernel does not list them."""
    found = [os.getpid()]
    for pid in found:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as listed:
            found += [int(child) for child in listed.read().split()]
    return found[1:]


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _check(_LIBC.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
