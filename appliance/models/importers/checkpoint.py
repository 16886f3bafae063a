"""Models out of directories of safetensors on this machine. Knows the files and the steps; exports nothing itself."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from appliance.errors import ConfigError
from appliance.models.catalog import CatalogModel, CheckpointSource, Source
from appliance.models.checkpoint.files import checkpoint_digest, checkpoint_files, checkpoint_state, link_files
from appliance.models.errors import DigestMismatch, ImportFailed
from appliance.models.importers import Built
from appliance.models.importers.quantizing import Nothing, Steps, require_room, scan
from appliance.models.progress import Progress
from appliance.models.recipes import Recipe

PACKAGES = ("optimum-intel", "torch", "nncf")  # as pip calls them


class CheckpointImporter:
    """Gives a checkpoint's files, and nothing else of the directory, to the exporter, and quantizes what it makes."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def build(self, model: CatalogModel, source: Source, scratch: Path, progress: Progress) -> Built:
        """See Importer. Raises ConfigError where the extra is not installed, besides, and DiskFull."""
        if not isinstance(source, CheckpointSource):
            raise TypeError(f"not a checkpoint: {source}")
        require_export()
        place = Path(source.path)
        facts = scan(place, model.id, progress)
        directory = scratch / "model"
        directory.mkdir()
        require_room(directory, facts.f16_bytes, calibrating=bool(self._recipe.methods))
        files = checkpoint_files(place)
        before = checkpoint_state(files)
        sha256 = checkpoint_digest(files, f"{model.id}: checking", progress)
        if source.sha256 and sha256 != source.sha256:
            raise DigestMismatch(f"{place} has another digest: sha256 {sha256}, expected {source.sha256}")
        links = scratch / "checkpoint"
        link_files(files, links)
        run = Steps(model, directory, facts.f16_bytes, progress)
        run.step("exporting", Nothing, "export", str(links), str(directory), str(facts.f16_bytes))
        converted = run.finish(self._recipe, links, facts.parameters)
        if checkpoint_state(files) != before:
            raise ImportFailed(f"{model.id}: {place} changed while it was imported; import it again")
        return Built(directory=directory, source_sha256=sha256, source_revision="", converted=converted)


def require_export() -> None:
    """Raises ConfigError with the command that installs what exporting needs, where it is not installed."""
    missing = [name for name in PACKAGES if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"importing a directory of safetensors needs {', '.join(missing)}; on a builder, run: pip install "
            "'edge-chat-appliance[export]' (it brings torch), and carry the model over with: appliance models bundle"
        )


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
