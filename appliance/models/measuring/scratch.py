"""A directory for what a measurement needs for a while, gone at its end. Knows files and locks; knows no model.

Not in /tmp, which is memory on many machines: a model in F16 takes gigabytes. What a measurement left that was killed
is removed by the next one.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import ConfigError

PREFIX = "appliance-measure-"
PLACE = Path("/var/tmp")  # noqa: S108 # what mkdtemp makes there is the owner's alone


def scratch_place() -> Path:
    """TMPDIR where it is set, else PLACE."""
    return Path(os.environ.get("TMPDIR") or PLACE)


@contextmanager
def open_scratch(place: Path) -> Iterator[Path]:
    """A new directory in `place`, removed at the end of the block. Raises ConfigError where none can be made."""
    try:
        remove_stale(place)
        made = Path(tempfile.mkdtemp(prefix=".", dir=place))
        lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel frees it when this process ends, however it does
        directory = made.rename(place / f"{PREFIX}{made.name[1:]}")  # now that it can't be taken for a stale one
    except OSError as error:
        raise ConfigError(f"{place} can't be written: {error.strerror}; set TMPDIR to a directory with room") from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def remove_stale(place: Path) -> None:
    """Remove this user's directories in `place` that no process holds. Raises OSError where it can't be read."""
    for entry in place.iterdir():
        if not entry.name.startswith(PREFIX) or entry.is_symlink() or entry.lstat().st_uid != os.geteuid():
            continue
        try:
            lock = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile, or no directory
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # a measurement that goes on
        else:
            shutil.rmtree(entry, ignore_errors=True)
        finally:
            os.close(lock)
