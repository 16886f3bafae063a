"""From a checked bundle into a store, by the store's own writer. Knows both; knows no form of a tar and no terminal."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.errors import ConfigError
from appliance.models.bundle import layout
from appliance.models.bundle.reading import Bundle
from appliance.models.bundle.signing import encode_signature
from appliance.models.errors import MB, DiskFull, ModelDamaged
from appliance.models.progress import Progress
from appliance.models.pull import Outcome, Pulled
from appliance.models.store import Installed, Store
from appliance.models.verification import verify
from appliance.models.writer import Writer

MARGIN_BYTES = 64 * MB  # for what else writes to the disk meanwhile
WAIT_S = 900.0  # for another writer's conversion


class Installer(Struct, frozen=True, kw_only=True):
    """Installs bundles."""

    store: Store
    progress: Progress
    wait_s: float = WAIT_S
    """Seconds to wait for another writer of the store."""

    def install(self, bundle: Bundle, *, force: bool = False) -> Pulled:
        """The bundle's model, installed unless it is; with `force` in any case. Outcomes as of a pull.

        All of the bundle is read before anything is written, and checked again while it is.
        Raises ConfigError where the id belongs to a model with another digest and there is no `force`, BundleRefused,
        DiskFull, StoreBusy, StoreUnusable.
        """
        present = None if force else self.find_same(bundle)
        if present is not None:
            return Pulled(present, "present")
        self.require_room(bundle)
        bundle.check_files(self.progress)
        with self._failures_named(bundle), self.store.open_writer(wait_s=self.wait_s, on_wait=self._tell) as writer:
            present = self._find_sound(bundle) if force else self.find_same(bundle)
            if present is not None:
                return Pulled(present, "unchanged" if force else "present")
            self.require_room(bundle)
            return self._write(bundle, writer)

    def check(self, bundle: Bundle, *, force: bool = False) -> Outcome:
        """What `install` would do, with all that it would refuse; writes nothing. Raises as it does."""
        found = self._find_sound(bundle) if force else self.find_same(bundle)
        if found is None:
            self.require_room(bundle)
        bundle.check_files(self.progress)
        if found is not None:
            return "unchanged" if force else "present"
        return "replaced" if self._place(bundle).exists() else "installed"

    def find_same(self, bundle: Bundle) -> Installed | None:
        """The bundle's model, where it is what is installed by its id; None where nothing sound is.

        Raises ConfigError where that is another model.
        """
        manifest = bundle.contents.manifest
        try:
            present = self.store.find(manifest.id)
        except ModelDamaged as error:
            self._tell(f"{error} (it is replaced)")
            return None
        if present is None or present.manifest.digest == manifest.digest:
            return present
        raise ConfigError(
            f"{manifest.id} is installed with another digest ({present.manifest.directory_name}, the bundle has "
            f"{manifest.directory_name}); replace it with --force"
        )

    def require_room(self, bundle: Bundle) -> None:
        """Raises DiskFull where the store's file system has no room for the model."""
        needed = needed_bytes(bundle)
        place = self.store.directory
        while not place.exists() and place.parent != place:
            place = place.parent
        try:
            free = shutil.disk_usage(place).free
        except OSError as error:
            raise self.store.unusable("written", error) from None
        if free < needed:
            raise DiskFull(self.store.directory, needed, free)

    def _find_sound(self, bundle: Bundle) -> Installed | None:
        """The bundle's model, where it is the newest of its id and every byte is right."""
        try:
            newest = self.store.find(bundle.contents.manifest.id)
        except ConfigError:
            return None
        if newest is None or newest.manifest.digest != bundle.contents.manifest.digest:
            return None
        return newest if verify(newest.manifest, newest.directory).sound else None

    def _place(self, bundle: Bundle) -> Path:
        manifest = bundle.contents.manifest
        return self.store.directory / manifest.id / manifest.directory_name

    def _write(self, bundle: Bundle, writer: Writer) -> Pulled:
        contents = bundle.contents
        # Of the models with one id the newest is served, and that is the one which was installed last.
        created_at = datetime.now(UTC).isoformat(timespec="microseconds")
        manifest = msgspec.structs.replace(contents.manifest, created_at=created_at)
        replaced = self._place(bundle).exists()
        with writer.open_staging() as scratch:
            directory = scratch / "model"
            directory.mkdir()
            bundle.extract_files(directory, self.progress)
            (directory / layout.LICENCE_NAME).write_bytes(contents.licence_text)
            (directory / layout.INDEX_NAME).write_bytes(layout.encode_index(contents.index))
            if contents.signature is not None:
                (directory / layout.SIGNATURE_NAME).write_bytes(encode_signature(contents.signature))
            self.progress.stage(f"{manifest.id}: installing")
            target = writer.install(directory, manifest)
        return Pulled(Installed(target, manifest), "replaced" if replaced else "installed")

    @contextmanager
    def _failures_named(self, bundle: Bundle) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(self.store.directory).free
                raise DiskFull(self.store.directory, needed_bytes(bundle), free) from None
            raise self.store.unusable("written", error) from None

    def _tell(self, line: str) -> None:
        self.progress.note(line)


def needed_bytes(bundle: Bundle) -> int:
    """Room that installing takes, in bytes."""
    return sum(layout.stored_bytes(member.size_bytes) for member in bundle.contents.index.members) + MARGIN_BYTES
