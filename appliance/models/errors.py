"""What can go wrong with models, in words for people. Knows no source and no store."""

from pathlib import Path

from appliance.errors import ApplianceError, ConfigError

MB = 1_000_000


class ModelError(ApplianceError):
    """An operation on models failed, for a reason that may pass or that another source may mend."""

    exit_status = 1


class SourceUnavailable(ModelError):
    """The source can't be reached, or does not have what the catalog names."""


class ImportFailed(ModelError):
    """What the source gave can't be made into a model that works."""


class DigestMismatch(ImportFailed):
    """The source gave other bytes than the catalog's sha256 stands for."""


class StoreBusy(ModelError):
    """Another writer held the store for longer than the wait allowed."""


class NotInstalled(ModelError):
    """The store has no such model."""


class DiskFull(ModelError):
    """The store's file system has, or had, too little room."""

    def __init__(self, store: Path, needed_bytes: int, free_bytes: int) -> None:
        """Both in bytes; the text tells them in MB. What was needed may be an underestimate."""
        if needed_bytes <= free_bytes:
            super().__init__(f"disk full: {store} needs more than the {free_bytes // MB} MB that it has")
            return
        super().__init__(f"disk full: {store} needs about {-(-needed_bytes // MB)} MB, has {free_bytes // MB} MB")


class StoreFull(ModelError):
    """The store holds, or would hold, more than models.max_store_bytes."""


class NotSwitched(ModelError):
    """Another model could not take over; what was served before goes on."""


class BundleRefused(ModelError):
    """The bundle is none, is damaged, or is signed by nobody who is trusted; nothing was written."""


class BundleTooNew(BundleRefused):
    """The bundle has a form that this version does not know."""


class StoreUnusable(ConfigError):
    """The store's directory can't be read or written."""


class NoUsableModel(ConfigError):
    """None of the preferred models is installed."""


class ModelDamaged(ConfigError):
    """An installed model is not what was installed; the text names the file and the command that mends it."""


class SlotsDamaged(ConfigError):
    """The file that says which model is current can't be read, or is none."""


class ManifestTooNew(ConfigError):
    """The manifest has a form that this version does not know."""


def mending_command(
    model_id: str, file: str = "", *, how: str = "", bundled: bool = False, exported: bool = False
) -> str:
    """The command that installs `model_id` anew over a damaged copy.

    `file`: what it was imported from; `how`: options that make the same of it; `exported`: it was pulled by the export
    route.
    """
    if bundled:  # where a bundle was carried to there may be no other way
        return "appliance models install --force BUNDLE.tar"
    if file:
        return f"appliance models import --force --id {model_id} {how}{file}"
    return f"appliance models pull --force {'--route export ' if exported else ''}{model_id}"
