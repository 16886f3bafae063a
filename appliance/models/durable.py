"""Bytes that stay: fsync, modes, owners. Knows directories and files; knows nothing of models."""

import ctypes
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644  # whatever the umask of who pulled: the service's account must be able to read it
NEW_FILE_MODE = 0o666  # and the umask's, for files that people asked for

_AT_FDCWD = -100  # paths as they are
_RENAME_EXCHANGE = 2


def make_directory(directory: Path) -> None:
    """Create `directory` and its parents, each with its parent's owner, and put the new names on the disk."""
    if directory.is_dir():
        return
    if directory.parent != directory:
        make_directory(directory.parent)
    directory.mkdir(DIRECTORY_MODE, exist_ok=True)
    give_to_owner_of(directory.parent, directory)
    sync(directory.parent)


def settle(tree: Path, owner: Path) -> None:
    """Give everything below `tree` its modes and the owner of `owner`, and put it on the disk."""
    for place, _, names in os.walk(tree, topdown=False):
        for name in names:
            file = Path(place, name)
            file.chmod(FILE_MODE)
            give_to_owner_of(owner, file)
            sync(file)
        Path(place).chmod(DIRECTORY_MODE)
        give_to_owner_of(owner, Path(place))
        sync(Path(place))


def give_to_owner_of(pattern: Path, path: Path) -> None:
    """Where root writes, `path` gets the owner and group of `pattern`; anybody else's files stay theirs."""
    if os.geteuid() != 0:
        return
    wanted, found = pattern.stat(), path.lstat()
    if (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid):
        os.chown(path, wanted.st_uid, wanted.st_gid, follow_symlinks=False)


def sync(path: Path) -> None:
    """fsync a file or a directory. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names of one file system in one step; False where it can't (NFS, vfat, another C library).

    Raises OSError.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Python has no function for it
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@contextmanager
def open_replacement(target: Path) -> Iterator[IO[bytes]]:
    """A new file that is `target` from the end of the block on, on the disk; after an error nothing has changed.

    Where the file system can have files without a name, a process that is killed leaves nothing either; elsewhere it
    leaves one `.…partial` beside the target. Raises OSError.
    """
    partial = target.with_name(f".{secrets.token_hex(4)}.partial")
    descriptor = _open_unnamed(target.parent)
    unnamed = descriptor is not None
    try:
        if descriptor is None:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_FILE_MODE)
        with os.fdopen(descriptor, "wb") as content:
            yield content
            content.flush()
            os.fsync(content.fileno())
            if unnamed:  # src_dir_fd says nothing about an absolute path, but has Python call linkat, which follows it
                os.link(f"/proc/self/fd/{content.fileno()}", partial, src_dir_fd=content.fileno())
        partial.replace(target)
        sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _open_unnamed(directory: Path) -> int | None:
    """A file without a name; None where there can be none (vfat, NFS), or it could not be named later."""
    if not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, NEW_FILE_MODE)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise
