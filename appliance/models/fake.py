"""Models without a model: small files with the store's form, for tests and for trying clients. Fetches nothing."""

from pathlib import Path

from appliance.models.catalog import Catalog, CatalogModel, Source, WheelSource
from appliance.models.importers import Built, Converted
from appliance.models.manifest import MODEL_FILES, FileRecord
from appliance.models.progress import Progress, Silent
from appliance.models.pull import Puller
from appliance.models.store import Installed, Store
from appliance.models.verification import file_record
from appliance.types import GenerationDefaults

FAKE_ID = "fake"


def fake_model(model_id: str = FAKE_ID, source: Source | None = None) -> CatalogModel:
    """A catalog entry; its source is one that only FakeImporter can serve."""
    return CatalogModel(
        id=model_id,
        title="Fake",
        licence="Apache-2.0",
        parameters=1,
        context_tokens=2048,
        eos_tokens=("</s>",),
        generation=GenerationDefaults(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1),
        source=(source or WheelSource(package="fake-model", revision="1.0", file="fake/model.gguf"),),
    )


def convert_fake(gguf: Path, directory: Path, model: CatalogModel, progress: Progress) -> Converted:
    """A Converter: `gguf` itself is the weights."""
    progress.stage(f"{model.id}: converting")
    for name in MODEL_FILES:
        (directory / name).write_bytes(b"<net/>" if name.endswith(".xml") else b"numbers")
    (directory / "openvino_model.bin").write_bytes(gguf.read_bytes())
    return Converted(eos_token_ids=(2,), weights="INT4 asymmetric group 32 (1 M weights)")


class FakeImporter:
    """An Importer that makes `content` the weights of every model."""

    def __init__(self, content: bytes = b"weights") -> None:
        self.content = content
        self.builds = 0

    def build(self, model: CatalogModel, source: Source, scratch: Path, progress: Progress) -> Built:
        """See Importer."""
        self.builds += 1
        gguf = scratch / "model.gguf"
        gguf.write_bytes(self.content)
        directory = scratch / "model"
        directory.mkdir()
        record: FileRecord = file_record(gguf)
        converted = convert_fake(gguf, directory, model, progress)
        return Built(
            directory=directory,
            source_sha256=record.sha256,
            source_revision=source.revision,
            converted=converted,
        )


def install_fake(store: Store, model_id: str = FAKE_ID, content: bytes = b"weights") -> Installed:
    """Install a fake model with the weights `content`, over whatever is there of that id."""
    puller = Puller(
        store=store,
        catalog=Catalog({model_id: fake_model(model_id)}),
        importers={"wheel": FakeImporter(content)},
        progress=Silent(),
        wait_s=10.0,
    )
    return puller.pull(model_id, force=True).model
