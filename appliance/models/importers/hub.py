"""Models out of a model hub's repositories: a GGUF file, or a checkpoint. Knows what is made of them; asks no hub."""

from functools import partial
from pathlib import Path

from appliance.models.catalog import CatalogModel, HubCheckpointSource, HubSource, Source
from appliance.models.importers import Built, Converter
from appliance.models.importers.checkpoint import convert_checkpoint, require_export
from appliance.models.importers.fetching import F16_BYTES, HubFetcher, require_client
from appliance.models.importers.quantizing import require_room
from appliance.models.progress import Progress
from appliance.models.recipes import Recipe


class HubImporter:
    """Fetches one GGUF file and gives it to `convert`."""

    def __init__(self, convert: Converter, fetcher: HubFetcher, recipe: Recipe | None = None) -> None:
        """`recipe`: by which `convert` quantizes."""
        self._convert = convert
        self._recipe = recipe
        self._fetcher = fetcher

    def build(self, model: CatalogModel, source: Source, scratch: Path, progress: Progress) -> Built:
        """See Importer. Raises ConfigError for an HF_ENDPOINT or HF_TOKEN that can't be one, and DiskFull, besides."""
        if not isinstance(source, HubSource):
            raise TypeError(f"not of a hub: {source}")
        require_client()
        directory = scratch / "model"
        directory.mkdir()
        require = partial(require_room, directory, F16_BYTES * model.parameters, recipe=self._recipe)
        require(0)  # before anybody is asked
        gguf, found = self._fetcher.get(model, source, require, progress)
        converted = self._convert(gguf, directory, model, progress)
        return Built(
            directory=directory,
            source_sha256=found.files[0].digest,
            source_revision=found.commit,
            converted=converted,
        )


class HubCheckpointImporter:
    """Fetches a repository's safetensors, and makes of them what CheckpointImporter makes of a directory."""

    def __init__(self, recipe: Recipe, fetcher: HubFetcher) -> None:
        self._recipe = recipe
        self._fetcher = fetcher

    def build(self, model: CatalogModel, source: Source, scratch: Path, progress: Progress) -> Built:
        """See Importer. Raises ConfigError where the export extra is not installed, and as HubImporter, besides."""
        if not isinstance(source, HubCheckpointSource):
            raise TypeError(f"not a checkpoint of a hub: {source}")
        require_export("pulling by the export route")
        require_client()
        directory = scratch / "model"
        directory.mkdir()
        require = partial(require_room, directory, F16_BYTES * model.parameters, recipe=self._recipe)
        require(0)
        place, found = self._fetcher.get(model, source, require, progress)
        sha256, converted = convert_checkpoint(place, directory, model, source, self._recipe, progress)
        return Built(directory=directory, source_sha256=sha256, source_revision=found.commit, converted=converted)
