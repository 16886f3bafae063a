"""Models out of directories of safetensors on this machine. Knows the files and the steps; exports nothing itself."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from appliance.errors import ConfigError
from appliance.models.catalog import CatalogModel, CheckpointSource, HubCheckpointSource, Source
from appliance.models.checkpoint.files import checkpoint_digest, checkpoint_files, checkpoint_state, link_files
from appliance.models.errors import DigestMismatch, ImportFailed
from appliance.models.importers import Built, Converted
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
        directory = scratch / "model"
        directory.mkdir()
        place = Path(source.path)
        sha256, converted = convert_checkpoint(place, directory, model, source, self._recipe, progress)
        return Built(directory=directory, source_sha256=sha256, source_revision="", converted=converted)


def convert_checkpoint(
    place: Path,
    directory: Path,
    model: CatalogModel,
    source: CheckpointSource | HubCheckpointSource,
    recipe: Recipe,
    progress: Progress,
) -> tuple[str, Converted]:
    """Make the IR and both tokenizers of the checkpoint in `place`; its sha256, and what came to light.

    `directory` is empty and has a parent of its own. Raises ImportFailed, DigestMismatch, DiskFull, OSError (ENOSPC).
    """
    facts = scan(place, model.id, progress)
    require_room(directory, facts.f16_bytes, recipe=recipe)
    files = checkpoint_files(place)
    before = checkpoint_state(files)
    sha256 = checkpoint_digest(files, f"{model.id}: checking", progress)
    if source.sha256 and sha256 != source.sha256:
        name = place if isinstance(source, CheckpointSource) else source.repository
        raise DigestMismatch(f"{name} has another digest: sha256 {sha256}, expected {source.sha256}")
    links = directory.parent / "checkpoint"
    link_files(files, links)
    run = Steps(model, directory, facts.f16_bytes, progress)
    run.step("exporting", Nothing, "export", str(links), str(directory), str(facts.f16_bytes))
    converted = run.finish(recipe, links, facts.parameters)
    if checkpoint_state(files) != before:
        raise ImportFailed(f"{model.id}: {place} changed while it was imported; import it again")
    return sha256, converted


def require_export(doing: str = "importing a directory of safetensors") -> None:
    """Raises ConfigError with the command that installs what exporting needs, where it is not installed."""
    missing = [name for name in PACKAGES if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"{doing} needs {', '.join(missing)}; on a builder, run: pip install "
            "'edge-chat-appliance[export]' (it brings torch), and carry the model over with: appliance models bundle"
        )


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
