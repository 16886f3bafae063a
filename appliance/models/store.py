"""Installed models: STORE/ID/DIGEST/, immutable once there. Knows the directory; reads no model and no catalog."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from appliance.errors import ConfigError
from appliance.models.durable import make_directory
from appliance.models.errors import (
    MB,
    DiskFull,
    ManifestTooNew,
    ModelDamaged,
    NotInstalled,
    NoUsableModel,
    StoreFull,
    StoreUnusable,
)
from appliance.models.locking import free_lock, take_lock
from appliance.models.manifest import DIGEST_NAME_LENGTH, Manifest, read_manifest
from appliance.models.writer import Writer

LOCK_NAME = ".lock"

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_DIGEST_NAME = re.compile(rf"[0-9a-f]{{{DIGEST_NAME_LENGTH}}}")


class Installed(Struct, frozen=True):
    """One model in the store, whose manifest could be read; its files may still be damaged."""

    directory: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def size_bytes(self) -> int:
        """On the disk."""
        return directory_bytes(self.directory)


class Unreadable(Struct, frozen=True):
    """A directory of the store whose manifest can't be used."""

    id: str
    directory: Path
    error: ModelDamaged | ManifestTooNew

    @property
    def size_bytes(self) -> int:
        """On the disk."""
        return directory_bytes(self.directory)


def check_id(model_id: str) -> str:
    """`model_id` as it is. Raises ConfigError where it could not be a model's, so that no path leaves the store."""
    if not _ID.fullmatch(model_id):
        raise ConfigError(
            f"{model_id!r} can't be a model's id: small letters, digits, '.', '_' and '-', at most 64, "
            "beginning with a letter or digit"
        )
    return model_id


def directory_bytes(directory: Path) -> int:
    """Bytes of the files in a model's directory; what is gone meanwhile counts nothing."""
    total = 0
    with suppress(OSError):
        for entry in os.scandir(directory):
            with suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_size
    return total


class Store:
    """The models below one directory, which need not exist until something is written."""

    def __init__(self, directory: Path, *, max_bytes: int = 0) -> None:
        """`max_bytes`: what all models together may take; 0 sets no limit."""
        self.directory = directory
        self.max_bytes = max_bytes

    def require_quota(self, new_bytes: int, *, replaces: Path | None = None) -> None:
        """Raises StoreFull where `new_bytes` more, less what is in `replaces`, would pass the quota; StoreUnusable."""
        if not self.max_bytes:
            return
        held = sum(entry.size_bytes for entry in self.entries() if entry.directory != replaces)
        if held + new_bytes > self.max_bytes:
            raise StoreFull(
                f"the model store {self.directory} holds {held / MB:,.1f} MB, and {new_bytes / MB:,.1f} MB more would "
                f"pass models.max_store_bytes = {self.max_bytes}; run: appliance models prune, or raise that"
            )

    def entries(self, model_id: str | None = None) -> Sequence[Installed | Unreadable]:
        """All models, or all of one id: by id, and within an id the newest first, unreadable ones last.

        Raises StoreUnusable where the directory can't be read, ConfigError for an impossible id.
        """
        ids = self._ids() if model_id is None else [check_id(model_id)]
        return [entry for name in ids for entry in self._entries_of(name)]

    def list(self) -> Sequence[Installed]:
        """All models whose manifest can be read: by id, and within an id the newest first."""
        return [entry for entry in self.entries() if isinstance(entry, Installed)]

    def find(self, model_id: str) -> Installed | None:
        """The newest model of that id; None where there is none.

        Raises ModelDamaged or ManifestTooNew where there are some and none can be read.
        """
        entries = self.entries(model_id)
        if not entries:
            return None
        first = entries[0]
        if isinstance(first, Unreadable):
            raise first.error
        return first

    def choose(self, preferred: Sequence[str]) -> Installed:
        """The first of `preferred` that is installed; no file but its manifest is read.

        Raises NoUsableModel with the command that gets one; ModelDamaged and ManifestTooNew as `find` does.
        """
        for model_id in preferred:
            found = self.find(model_id)
            if found is not None:
                return found
        if len(preferred) == 1:
            raise NoUsableModel(
                f"model {preferred[0]} is not installed in {self.directory}{self.known()}; "
                f"run: appliance models pull {preferred[0]}"
            )
        raise NoUsableModel(
            f"no usable model: none of {', '.join(preferred)} (models.preferred) is installed in {self.directory}; "
            "run: appliance models pull --preferred"
        )

    def remove(
        self, model_id: str, *, digest: str | None = None, wait_s: float, on_wait: Callable[[str], None]
    ) -> tuple[Path, ...]:
        """Remove all models of that id, or the one whose digest begins with `digest`; returns their directories.

        Raises NotInstalled where there is none, ConfigError for an impossible id, StoreBusy, StoreUnusable.
        """
        if not self.entries(model_id):
            raise NotInstalled(f"model {model_id} is not installed in {self.directory}{self.known()}")
        with self.open_writer(wait_s=wait_s, on_wait=on_wait) as writer:
            names = [entry.directory.name for entry in self.entries(model_id)]
            chosen = [name for name in names if digest is None or name.startswith(digest[:DIGEST_NAME_LENGTH])]
            if not chosen or (digest is not None and len(chosen) > 1):
                raise NotInstalled(
                    f"model {model_id}: {digest} is the digest of {len(chosen)} of these: {', '.join(names)}"
                )
            return tuple(writer.remove(model_id, name) for name in chosen)

    @contextmanager
    def open_writer(self, *, wait_s: float, on_wait: Callable[[str], None]) -> Iterator[Writer]:
        """The one writer of this store; waits up to `wait_s` seconds for another one, and tells `on_wait` once.

        Raises StoreBusy; StoreUnusable where the directory can't be written.
        """
        try:
            make_directory(self.directory)
            lock = take_lock(self.directory / LOCK_NAME, wait_s=wait_s, on_wait=on_wait)
        except OSError as error:
            raise self.unusable("written", error) from None
        try:
            writer = Writer(self.directory)
            writer.remove_stale()
            yield writer
        finally:
            free_lock(lock)

    def require_room(self, needed_bytes: int, kept_bytes: int = 0) -> None:
        """Raises DiskFull where the store's file system has less; StoreUnusable where nobody can tell.

        `kept_bytes`: of what is needed, what lies in the store already.
        """
        place = self.directory
        while not place.exists() and place.parent != place:
            place = place.parent
        try:
            free_bytes = shutil.disk_usage(place).free + kept_bytes
        except OSError as error:
            raise self.unusable("written", error) from None
        if free_bytes < needed_bytes:
            raise DiskFull(self.directory, needed_bytes, free_bytes)

    @contextmanager
    def failures_named(self, needed_bytes: int) -> Iterator[None]:
        """An OSError in the block becomes DiskFull, with what was thought to be needed, or StoreUnusable."""
        try:
            yield
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise DiskFull(self.directory, needed_bytes, shutil.disk_usage(self.directory).free) from None
            raise self.unusable("written", error) from None

    def known(self) -> str:
        """ "; installed: …" for an error's end; empty where nothing is."""
        ids = sorted({entry.id for entry in self.entries()})
        return f"; installed: {', '.join(ids)}" if ids else ""

    def unusable(self, how: str, error: OSError) -> StoreUnusable:
        """The error for a directory that can't be `how`: "read" or "written"."""
        remedy = "run the command as the store's owner or root, or set models.directory"
        if error.errno in _NO_ROOM:
            remedy = "make room there, or set models.directory"
        return StoreUnusable(f"the model store {self.directory} can't be {how}: {error.strerror}; {remedy}")

    def _ids(self) -> Sequence[str]:
        return [name for name in self._names(self.directory) if _ID.fullmatch(name)]

    def _entries_of(self, model_id: str) -> Sequence[Installed | Unreadable]:
        readable: list[Installed] = []
        unreadable: list[Unreadable] = []
        for name in self._names(self.directory / model_id):
            directory = self.directory / model_id / name
            if not _DIGEST_NAME.fullmatch(name):
                continue
            try:
                readable.append(Installed(directory, read_manifest(directory, model_id)))
            except (ModelDamaged, ManifestTooNew) as error:
                unreadable.append(Unreadable(model_id, directory, error))
        readable.sort(key=lambda model: (model.manifest.created_at, model.manifest.digest), reverse=True)
        return [*readable, *unreadable]

    def _names(self, directory: Path) -> Sequence[str]:
        try:
            return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self.unusable("read", error) from None
