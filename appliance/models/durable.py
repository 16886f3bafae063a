"""Bytes that stay: fsync, modes, owners. Knows directories and files; knows nothing of models."""

import os
from pathlib import Path

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644  # whatever the umask of who pulled: the service's account must be able to read it


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
