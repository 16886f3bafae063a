"""Getting models into the store. Knows catalog, importers and store; knows no kind of source and no terminal."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from appliance.config import ModelSettings
from appliance.errors import ConfigError
from appliance.models.catalog import Catalog, CatalogModel, HubCheckpointSource, Source
from appliance.models.downloads import discard_download, kept_bytes
from appliance.models.errors import MB, ImportFailed, ModelDamaged, ModelError, SourceUnavailable, StoreBusy
from appliance.models.importers import Built, Importer
from appliance.models.importers.checkpoint import CheckpointImporter
from appliance.models.importers.fetching import F16_BYTES, HubFetcher
from appliance.models.importers.file import FileImporter
from appliance.models.importers.gguf import convert
from appliance.models.importers.hub import HubCheckpointImporter, HubImporter
from appliance.models.importers.quantizing import QuantizingConverter, convert_copy
from appliance.models.importers.wheel import WheelImporter
from appliance.models.manifest import Manifest, SourceRecord, installed_versions, sealed
from appliance.models.progress import Progress
from appliance.models.recipes import Recipe, load_recipe
from appliance.models.store import Installed, Store
from appliance.models.verification import file_record, find_sound
from appliance.models.writer import Writer

MARGIN_BYTES = 64 * MB  # for what else writes to the disk meanwhile
IMPORT_WAIT_S = 900.0  # for another writer's conversion, after its download

Outcome = Literal["present", "installed", "unchanged", "replaced"]
Route = Literal["gguf", "export"]
"""gguf: what needs no torch; export: the makers' safetensors."""


class Pulled(Struct, frozen=True):
    """The model that is there now, and what was done for it.

    present: it was installed before; unchanged: imported again with the same digest, and the copy there is sound.
    """

    model: Installed
    outcome: Outcome


class Puller(Struct, frozen=True, kw_only=True):
    """Installs models by name."""

    store: Store
    catalog: Catalog
    importers: Mapping[str, Importer]
    """By a source's kind."""
    progress: Progress
    wait_s: float
    """Seconds to wait for another writer of the store."""

    def pull(self, model_id: str, *, route: Route = "gguf", force: bool = False) -> Pulled:
        """The model, imported by that route where it is not installed by any; with `force` imported in any case.

        A damaged model is imported again. Raises ConfigError (unknown id, store unusable, manifest of a newer
        appliance), ModelError where no source gave it.
        """
        present = None if force else self._find_sound_manifest(model_id)
        if present is not None:
            return Pulled(present, "present")
        model = by_route(self.catalog.find(model_id), route)
        if not any(_kind(source) in self.importers for source in model.source):  # no reason to wait for the lock
            raise SourceUnavailable(f"{model.id}: {'; '.join(_no_importer(source) for source in model.source)}")
        with self.store.open_writer(wait_s=self.wait_s, on_wait=self.progress.note) as writer:
            present = None if force else self._find_sound_manifest(model_id)
            if present is not None:  # another writer was here first
                return Pulled(present, "present")
            return self._import_from_first(model, writer)

    def add(self, model: CatalogModel, *, recipe: str, force: bool = False) -> Pulled:
        """A model that no catalog has to know, imported unless it is installed from the same source by that recipe.

        Raises ConfigError where its id belongs to another model, unless `force` says to replace that; else as `pull`.
        """
        present = None if force else self._find_same(model, recipe)
        if present is not None:
            return Pulled(present, "present")
        with self.store.open_writer(wait_s=self.wait_s, on_wait=self.progress.note) as writer:
            present = None if force else self._find_same(model, recipe)
            if present is not None:
                return Pulled(present, "present")
            return self._import_from_first(model, writer)

    def pull_preferred(self, preferred: Sequence[str], *, force: bool = False) -> Pulled:
        """The first of `preferred` that is installed, else (and with `force`) the first that can be had.

        Installed takes no network and no lock. One note for each that could not be had. Raises as `pull` does.
        """
        if not force:
            for model_id in preferred:
                present = self._find_sound_manifest(model_id)
                if present is not None:
                    return Pulled(present, "present")
        for model_id in preferred:  # a misspelt id must not quietly cost the better model
            self.catalog.find(model_id)
        for model_id in preferred:
            try:
                return self.pull(model_id, force=force)
            except StoreBusy:
                raise
            except ModelError as error:
                self.progress.note(f"{model_id}: {_without_name(model_id, error)}")
        raise ModelError(f"none of {', '.join(preferred)} (models.preferred) could be installed; the reasons are above")

    def _find_sound_manifest(self, model_id: str) -> Installed | None:
        try:
            return self.store.find(model_id)
        except ModelDamaged as error:
            self.progress.note(f"{error} (it is imported again)")
            return None

    def _find_same(self, model: CatalogModel, recipe: str) -> Installed | None:
        present = self._find_sound_manifest(model.id)
        if present is None:
            return None
        source = present.manifest.source
        wanted = (model.source[0].sha256, recipe)
        if (source.sha256, present.manifest.recipe) == wanted:
            return present
        raise ConfigError(
            f"{model.id} is installed from {source.file} ({present.manifest.quantization}); "
            "give another id with --id, or replace it with --force"
        )

    def _import_from_first(self, model: CatalogModel, writer: Writer) -> Pulled:
        reasons: list[str] = []
        for source in model.source:
            try:
                return self._import(model, source, writer)
            except (SourceUnavailable, ImportFailed) as error:
                reasons.append(_without_name(model.id, error))
        raise ModelError(f"{model.id}: {'; '.join(reasons)}")

    def _import(self, model: CatalogModel, source: Source, writer: Writer) -> Pulled:
        importer = self.importers.get(_kind(source))
        if importer is None:
            raise SourceUnavailable(_no_importer(source))
        needed = needed_bytes(model, source)
        with self.store.failures_named(needed):
            # What is kept of a broken download will not be written again.
            self.store.require_room(needed, kept_bytes(self.store.directory, model.id))
            if not self.store.entries(model.id):  # else it may replace a copy, which is known only at its end
                self.store.require_quota(model.installed_bytes)
            with writer.open_staging() as scratch:
                built = importer.build(model, source, scratch, self.progress)
                if not source.sha256:
                    self.progress.note(
                        f"{model.id}: the catalog knows no digest; this one was seen: {built.source_sha256}"
                    )
                self.progress.stage(f"{model.id}: installing")
                pulled = self._install(compose_manifest(model, source, built), built.directory, writer)
                discard_download(self.store.directory, model.id)
                return pulled

    def _install(self, manifest: Manifest, directory: Path, writer: Writer) -> Pulled:
        present = find_sound(self.store, manifest)
        if present is not None:
            return Pulled(present, "unchanged")
        self.store.require_quota(
            manifest.size_bytes, replaces=self.store.directory / manifest.id / manifest.directory_name
        )
        target, replaced = writer.install(directory, manifest)
        return Pulled(Installed(target, manifest), "replaced" if replaced else "installed")


def open_puller(
    settings: ModelSettings, store: Store, catalog: Catalog, progress: Progress, recipe: Recipe | None = None
) -> Puller:
    """A puller with all importers of this version; `recipe`: for files, None keeps their quantization.

    What comes from a hub is quantized by the default recipe, and so is a checkpoint where none is given. Raises
    ConfigError where that can't be read.
    """
    default = load_recipe()
    file = FileImporter(QuantizingConverter(recipe) if recipe else convert_copy)
    wheel = WheelImporter(
        convert,
        source_timeout_s=settings.source_timeout_s,
        download_timeout_s=settings.download_timeout_s,
    )
    fetcher = HubFetcher(
        store=store.directory,
        source_timeout_s=settings.source_timeout_s,
        download_timeout_s=settings.download_timeout_s,
    )
    return Puller(
        store=store,
        catalog=catalog,
        importers={
            "hub": HubImporter(QuantizingConverter(default), fetcher, default),
            "hub-checkpoint": HubCheckpointImporter(default, fetcher),
            "wheel": wheel,
            "file": file,
            "checkpoint": CheckpointImporter(recipe or default),
        },
        progress=progress,
        wait_s=settings.download_timeout_s + IMPORT_WAIT_S,
    )


def by_route(model: CatalogModel, route: Route) -> CatalogModel:
    """The model with the sources of that route only. Raises SourceUnavailable where it has none."""
    exported = tuple(source for source in model.source if isinstance(source, HubCheckpointSource))
    others = tuple(source for source in model.source if source not in exported)
    if route == "export" and not exported:
        raise SourceUnavailable(
            f"{model.id}: the catalog names no safetensors of it (a source of the kind hub-checkpoint); add one, or "
            "run: appliance models import DIRECTORY"
        )
    if route == "gguf" and not others:
        raise SourceUnavailable(
            f"{model.id}: the catalog has its safetensors only; on a builder, run: appliance models pull --route "
            f"export {model.id}"
        )
    return replace(model, source=exported if route == "export" else others)


def needed_bytes(model: CatalogModel, source: Source) -> int:
    """Room that importing takes at its peak, in bytes: what is downloaded, taken out of it, and installed.

    A converter that writes more besides looks for room itself.
    """
    if isinstance(source, HubCheckpointSource):
        return (source.size_bytes or F16_BYTES * model.parameters) + model.installed_bytes + MARGIN_BYTES
    extracted = source.size_bytes or model.installed_bytes
    return model.download_bytes + extracted + model.installed_bytes + MARGIN_BYTES


def compose_manifest(model: CatalogModel, source: Source, built: Built) -> Manifest:
    """The manifest of the files in the built directory. Raises ImportFailed where no OpenVINO is installed."""
    versions = installed_versions()
    if versions is None:
        raise ImportFailed(f"{model.id}: openvino and openvino-genai are not installed here")
    converted = built.converted
    how = (
        f"{converted.recipe} of {source.quantization}" if converted.recipe else f"{source.quantization} as in the GGUF"
    )
    manifest = Manifest(
        id=model.id,
        title=model.title,
        licence=model.licence,
        source=SourceRecord(
            kind=_kind(source),
            name=source.name,
            revision=built.source_revision,
            file=source.file,
            sha256=built.source_sha256,
        ),
        quantization=f"{how}: {converted.weights}" if source.quantization else converted.weights,
        recipe=converted.recipe,
        languages=model.languages,
        context_tokens=model.context_tokens,
        parameters=converted.parameters or model.parameters,
        eos_token_ids=converted.eos_token_ids,
        generation=model.generation,
        files={file.name: file_record(file) for file in sorted(built.directory.iterdir())},
        openvino=versions,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
    )
    return sealed(manifest)


def _kind(source: Source) -> str:
    return str(source.__struct_config__.tag)


def _no_importer(source: Source) -> str:
    return f"this version has no importer for {_kind(source)} sources yet"


def _without_name(model_id: str, error: ModelError) -> str:
    return str(error).removeprefix(f"{model_id}: ")
