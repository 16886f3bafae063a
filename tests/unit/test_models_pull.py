"""pull: which model is taken, what is said of the others, and what a repeat does. No network, no engine."""

import errno
import hashlib
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from appliance.errors import ConfigError
from appliance.models.catalog import Catalog, CatalogModel, HubSource, Source, WheelSource
from appliance.models.errors import DigestMismatch, DiskFull, ManifestTooNew, ModelError, SourceUnavailable
from appliance.models.fake import FakeImporter, fake_model
from appliance.models.importers import Built
from appliance.models.manifest import MODEL_FILES
from appliance.models.progress import Lines, Progress
from appliance.models.pull import Puller, needed_bytes
from appliance.models.store import Store

HUB = HubSource(repository="some/where", file="model.gguf")


class Failing:
    """An importer that raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def build(self, model: CatalogModel, source: Source, scratch: Path, progress: Progress) -> Built:
        (scratch / "half").write_bytes(b"half")
        raise self.error


class Bench:
    """A store, a catalog with a hub model and two wheel models, and what was said."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory)
        self.importer = FakeImporter()
        self.said: list[str] = []
        models = [fake_model("far", HUB), fake_model("near"), fake_model("other")]
        self.puller = Puller(
            store=self.store,
            catalog=Catalog({model.id: model for model in models}),
            importers={"wheel": self.importer},
            progress=Lines(self.said.append),
            wait_s=5,
        )

    def failing(self, error: Exception) -> Puller:
        return replace(self.puller, importers={"wheel": Failing(error)})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "store")


def test_the_first_preferred_that_can_be_had_is_installed(bench: Bench) -> None:
    pulled = bench.puller.pull_preferred(["far", "near", "other"])
    assert (pulled.outcome, pulled.model.id) == ("installed", "near")
    assert bench.said[0] == "far: this version has no importer for hub sources yet"
    assert bench.store.choose(["far", "near"]) == pulled.model


def test_a_source_without_importer_does_not_wait_for_the_store(bench: Bench) -> None:
    with pytest.raises(SourceUnavailable, match=r"\Afar: this version has no importer for hub sources yet\Z"):
        bench.puller.pull("far")
    assert not bench.store.directory.exists()


def test_an_installed_model_is_taken_with_no_lock_and_no_import(bench: Bench) -> None:
    bench.puller.pull("other")
    (bench.store.directory / ".lock").unlink()
    pulled = bench.puller.pull_preferred(["far", "near", "other"])
    assert (pulled.outcome, pulled.model.id) == ("present", "other")
    assert not (bench.store.directory / ".lock").exists()
    assert bench.importer.builds == 1


def test_pull_again_does_nothing_and_force_imports(bench: Bench) -> None:
    first = bench.puller.pull("near")
    assert bench.puller.pull("near").outcome == "present"
    assert bench.importer.builds == 1
    forced = bench.puller.pull("near", force=True)
    assert (forced.outcome, bench.importer.builds) == ("unchanged", 2)
    assert forced.model == first.model


def test_force_replaces_a_damaged_copy_of_the_same_digest(bench: Bench) -> None:
    first = bench.puller.pull("near").model
    (first.directory / "openvino_model.bin").write_bytes(b"wrong")
    forced = bench.puller.pull("near", force=True)
    assert (forced.outcome, forced.model.directory) == ("replaced", first.directory)
    assert (first.directory / "openvino_model.bin").read_bytes() == b"weights"


def test_a_copy_whose_manifest_is_damaged_is_imported_again(bench: Bench) -> None:
    first = bench.puller.pull("near").model
    (first.directory / "manifest.json").write_text("{", "utf-8")
    pulled = bench.puller.pull_preferred(["near"])
    assert (pulled.outcome, pulled.model.directory) == ("replaced", first.directory)
    assert bench.store.find("near") == pulled.model


def test_a_manifest_of_a_newer_appliance_is_not_touched(bench: Bench) -> None:
    first = bench.puller.pull("near").model
    (first.directory / "manifest.json").write_text('{"format": 9}', "utf-8")
    with pytest.raises(ManifestTooNew):
        bench.puller.pull_preferred(["near", "other"])
    assert bench.importer.builds == 1


def test_an_unknown_preferred_id_is_a_mistake_in_the_settings(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'nera'; did you mean near\?"):
        bench.puller.pull_preferred(["nera", "other"])
    assert bench.importer.builds == 0


def test_where_none_can_be_had_each_reason_is_one_line(bench: Bench) -> None:
    puller = bench.failing(SourceUnavailable("no answer"))
    with pytest.raises(ModelError, match=r"none of far, near \(models.preferred\) could be installed"):
        puller.pull_preferred(["far", "near"])
    assert bench.said == ["far: this version has no importer for hub sources yet", "near: no answer"]


@pytest.mark.parametrize("error", [SourceUnavailable("away"), DigestMismatch("bytes"), KeyboardInterrupt()])
def test_a_failed_import_leaves_nothing(bench: Bench, error: Exception) -> None:
    with pytest.raises((ModelError, KeyboardInterrupt)):
        bench.failing(error).pull("near")
    assert [entry.name for entry in bench.store.directory.iterdir()] == [".lock"]


def test_a_full_disk_is_named_with_what_is_needed(bench: Bench) -> None:
    with pytest.raises(DiskFull, match=f"disk full: {bench.store.directory} needs more than the \\d+ MB"):
        bench.failing(OSError(errno.ENOSPC, "No space left on device")).pull("near")
    assert [entry.name for entry in bench.store.directory.iterdir()] == [".lock"]


def test_a_disk_without_room_is_refused_before_anything_is_fetched(bench: Bench) -> None:
    big = replace(fake_model("near"), installed_bytes=10**17)
    puller = replace(bench.puller, catalog=Catalog({"near": big}))
    with pytest.raises(DiskFull, match=re.escape("needs about 200000000064 MB, has ")):
        puller.pull("near")
    assert bench.importer.builds == 0


def test_what_is_needed_counts_download_file_and_installed() -> None:
    source = WheelSource(package="p", revision="1", file="f", size_bytes=20_000_000)
    model = replace(fake_model("m", source), download_bytes=10_000_000, installed_bytes=30_000_000)
    assert needed_bytes(model, source) == 124_000_000


def test_the_next_source_is_tried(bench: Bench) -> None:
    model = replace(fake_model("near"), source=(HUB, fake_model().source[0]))
    puller = replace(bench.puller, catalog=Catalog({"near": model}))
    assert puller.pull("near").outcome == "installed"


def test_the_manifest_says_what_was_seen(bench: Bench) -> None:
    manifest = bench.puller.pull("near").model.manifest
    assert manifest.source.kind == "wheel"
    assert manifest.source.name == "fake-model"
    assert manifest.source.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert f"near: the catalog knows no digest; this one was seen: {manifest.source.sha256}" in bench.said
    assert sorted(manifest.files) == sorted(MODEL_FILES)
    assert manifest.files["openvino_model.bin"].size_bytes == 7
    assert manifest.eos_token_ids == (2,)
    assert manifest.generation.top_k == 20
    assert manifest.created_at.endswith("+00:00")


def test_lines_come_at_quarters_and_never_closer_than_two_seconds() -> None:
    now = [0.0]
    said: list[str] = []
    lines = Lines(said.append, lambda: now[0])
    lines.stage("m: downloading", 100_000_000)
    for done in range(0, 101):
        now[0] += 0.0625
        lines.advance(done * 1_000_000, 100_000_000)
    assert said == [
        "m: downloading (100.0 MB)",
        "m: downloading 31.0 of 100.0 MB",
        "m: downloading 63.0 of 100.0 MB",
        "m: downloading 95.0 of 100.0 MB",
    ]
    lines.stage("m: converting")
    now[0] += 10
    lines.advance()
    assert said[-2:] == ["m: converting", "m: converting, 10 s"]


def test_what_is_counted_comes_in_percent() -> None:
    now = [0.0]
    said: list[str] = []
    lines = Lines(said.append, lambda: now[0])
    lines.stage("m: reading calibration text")
    for done in range(0, 64):
        now[0] += 0.5
        lines.count(done, 64)
    assert said == [
        "m: reading calibration text",
        "m: reading calibration text, 25%",
        "m: reading calibration text, 50%",
        "m: reading calibration text, 75%",
    ]
