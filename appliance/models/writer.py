"""Changes to a store, each by one rename. Knows directories and manifests; the lock is the caller's."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.models.downloads import discard_abandoned
from appliance.models.durable import exchange, make_directory, settle, sync
from appliance.models.manifest import MANIFEST_NAME, Manifest, encode_manifest

STAGING_PREFIX = ".staging-"


class Writer:
    """The one writer of the store in `store`, which exists; lives as long as its lock."""

    def __init__(self, store: Path) -> None:
        self._store = store

    @contextmanager
    def open_staging(self) -> Iterator[Path]:
        """A directory on the store's file system, gone at the end of the block. Raises OSError."""
        directory = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self._store))
        try:
            yield directory
        finally:
            _discard(directory)

    def remove_stale(self) -> None:
        """Remove what writers left behind that were killed or lost power, and downloads that nobody went on with."""
        for entry in self._store.iterdir():
            if entry.name.startswith(STAGING_PREFIX):
                _discard(entry)
        discard_abandoned(self._store)

    def install(self, built: Path, manifest: Manifest) -> tuple[Path, bool]:
        """Make the files in `built`, a staged directory, the model of `manifest`.

        Returns its directory, and whether a model of the same digest gave way. After a crash at any point the store
        has all of the one or all of the other; without that exchange (see `exchange`) it may have neither, but no half.
        Raises OSError.
        """
        (built / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
        settle(built, owner=self._store)
        place = self._store / manifest.id
        target = place / manifest.directory_name
        make_directory(place)
        if target.exists() and exchange(built, target):
            sync(place)
            sync(built.parent)
            return target, True
        replaced = self._put_aside(target) if target.exists() else None
        built.rename(target)
        sync(place)
        if replaced is not None:
            _discard(replaced)
        return target, replaced is not None

    def remove(self, model_id: str, directory_name: str) -> Path:
        """Remove one directory of a model, and the model's own when that was the last. Raises OSError."""
        target = self._store / model_id / directory_name
        _discard(self._put_aside(target))
        if not any(target.parent.iterdir()):
            target.parent.rmdir()
            sync(self._store)
        return target

    def _put_aside(self, target: Path) -> Path:
        aside = self._store / f"{STAGING_PREFIX}old-{target.parent.name}-{target.name}"
        _discard(aside)
        target.rename(aside)
        sync(target.parent)
        return aside


def _discard(tree: Path) -> None:
    """Remove a tree. What an orphan of a killed writer still adds to it is left to the next writer."""
    shutil.rmtree(tree, ignore_errors=True)
