"""From a checked bundle into a store, by the store's own writer. Knows both; knows no form of a tar and no terminal."""

from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from appliance.errors import ConfigError
from appliance.models.bundle import layout
from appliance.models.bundle.reading import Bundle
from appliance.models.bundle.signing import encode_signature
from appliance.models.errors import MB, ModelDamaged
from appliance.models.progress import Progress
from appliance.models.pull import Outcome, Pulled
from appliance.models.store import Installed, Store
from appliance.models.verification import find_sound
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
        needed = needed_bytes(bundle)
        self._require_room(bundle)
        bundle.check_files(self.progress)
        with (
            self.store.failures_named(needed),
            self.store.open_writer(wait_s=self.wait_s, on_wait=self.progress.note) as writer,
        ):
            present = find_sound(self.store, bundle.contents.manifest) if force else self.find_same(bundle)
            if present is not None:
                return Pulled(present, "unchanged" if force else "present")
            self._require_room(bundle)
            return self._write(bundle, writer)

    def check(self, bundle: Bundle, *, force: bool = False) -> Outcome:
        """What `install` would do, with all that it would refuse; writes nothing. Raises as it does."""
        manifest = bundle.contents.manifest
        found = find_sound(self.store, manifest) if force else self.find_same(bundle)
        if found is None:
            self._require_room(bundle)
        bundle.check_files(self.progress)
        if found is not None:
            return "unchanged" if force else "present"
        there = (self.store.directory / manifest.id / manifest.directory_name).exists()
        return "replaced" if there else "installed"

    def find_same(self, bundle: Bundle) -> Installed | None:
        """The bundle's model, where it is what is installed by its id; None where nothing sound is.

        Raises ConfigError where that is another model.
        """
        manifest = bundle.contents.manifest
        try:
            present = self.store.find(manifest.id)
        except ModelDamaged as error:
            self.progress.note(f"{error} (it is replaced)")
            return None
        if present is None or present.manifest.digest == manifest.digest:
            return present
        raise ConfigError(
            f"{manifest.id} is installed with another digest ({present.manifest.directory_name}, the bundle has "
            f"{manifest.directory_name}); replace it with --force"
        )

    def _require_room(self, bundle: Bundle) -> None:
        """Raises DiskFull where the store's file system has no room for the model, StoreFull where its quota hasn't."""
        needed, manifest = needed_bytes(bundle), bundle.contents.manifest
        self.store.require_room(needed)
        self.store.require_quota(
            needed - MARGIN_BYTES, replaces=self.store.directory / manifest.id / manifest.directory_name
        )

    def _write(self, bundle: Bundle, writer: Writer) -> Pulled:
        contents = bundle.contents
        # Of the models with one id the newest is served, and that is the one which was installed last.
        created_at = datetime.now(UTC).isoformat(timespec="microseconds")
        manifest = msgspec.structs.replace(contents.manifest, created_at=created_at)
        with writer.open_staging() as scratch:
            directory = scratch / "model"
            directory.mkdir()
            bundle.extract_files(directory, self.progress)
            (directory / layout.LICENCE_NAME).write_bytes(contents.licence_text)
            (directory / layout.INDEX_NAME).write_bytes(layout.encode_index(contents.index))
            if contents.signature is not None:
                (directory / layout.SIGNATURE_NAME).write_bytes(encode_signature(contents.signature))
            self.progress.stage(f"{manifest.id}: installing")
            target, replaced = writer.install(directory, manifest)
        return Pulled(Installed(target, manifest), "replaced" if replaced else "installed")


def needed_bytes(bundle: Bundle) -> int:
    """Room that installing takes, in bytes."""
    return sum(layout.stored_bytes(member.size_bytes) for member in bundle.contents.index.members) + MARGIN_BYTES
