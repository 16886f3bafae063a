"""Changes to a store, each by one rename. Knows directories and manifests; the lock is the caller's."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from appliance.models.downloads import discard_abandoned
from appliance.models.durable import exchange, make_directory, settle, sync
from appliance.models.errors import SlotsDamaged
from appliance.models.manifest import MANIFEST_NAME, Manifest, encode_manifest
from appliance.models.slots import SLOTS_NAME, Slot, change_slots, installed, read_slots, removed, slot_of

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

        Returns its directory, and whether a model of the same digest gave way; the current one of its id is the
        previous one from then on. After a crash at any point the store has all of the one or all of the other; without
        that exchange (see `exchange`) it may have neither, but no half. Raises OSError, StoreBusy; ManifestTooNew where
        a newer appliance has chosen, and then nothing was written.
        """
        chosen = self._has_slots()
        (built / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
        settle(built, owner=self._store)
        place = self._store / manifest.id
        target = place / manifest.directory_name
        make_directory(place)
        replaced = self._put_in_place(built, target)
        sync(place)
        if chosen:
            change_slots(self._store, lambda slots: installed(slots, slot_of(manifest)))
        if replaced is not None:
            _discard(replaced)
        return target, replaced is not None

    def _put_in_place(self, built: Path, target: Path) -> Path | None:
        """Rename; returns what was there before. Where the file system can, there is a model at every moment."""
        if not target.exists():
            built.rename(target)
            return None
        if exchange(built, target):
            sync(built.parent)
            return built
        replaced = self._put_aside(target)
        built.rename(target)
        return replaced

    def remove(self, model_id: str, directory_name: str) -> Path:
        """Remove one directory of a model, and the model's own when that was the last.

        The slots forget it first. Raises OSError, StoreBusy, ManifestTooNew.
        """
        target = self._store / model_id / directory_name
        if self._has_slots():
            change_slots(self._store, lambda slots: removed(slots, Slot(model_id, directory_name)))
        _discard(self._put_aside(target))
        if not any(target.parent.iterdir()):
            target.parent.rmdir()
            sync(self._store)
        return target

    def _has_slots(self) -> bool:
        """Whether anything was ever chosen. Raises ManifestTooNew."""
        with suppress(SlotsDamaged):
            read_slots(self._store)
        return (self._store / SLOTS_NAME).exists()

    def _put_aside(self, target: Path) -> Path:
        aside = self._store / f"{STAGING_PREFIX}old-{target.parent.name}-{target.name}"
        _discard(aside)
        target.rename(aside)
        sync(target.parent)
        return aside


def _discard(tree: Path) -> None:
    """Remove a tree. What an orphan of a killed writer still adds to it is left to the next writer."""
    shutil.rmtree(tree, ignore_errors=True)
