"""`appliance models pull --route export`: a repository's safetensors, with the real huggingface_hub and a hub here.

The export itself is a fake; the real one is in tests/exporting.
"""

import os
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from appliance.cli.models import app
from appliance.errors import ConfigError
from appliance.models.catalog import Catalog, CatalogModel, HubCheckpointSource, HubSource
from appliance.models.checkpoint.files import checkpoint_digest, checkpoint_files
from appliance.models.errors import ModelError
from appliance.models.fake import fake_model
from appliance.models.importers import checkpoint as importer
from appliance.models.importers.fetching import HubFetcher
from appliance.models.importers.hub import HubCheckpointImporter
from appliance.models.progress import Lines, Silent
from appliance.models.pull import Puller
from appliance.models.recipes import load_recipe
from appliance.models.store import Store
from appliance.models.verification import verify
from tests.support.checkpoint import make_safetensors, tiny_checkpoint
from tests.support.exporting import FakeSteps, fake_export
from tests.support.hub import COMMIT, REPOSITORY, Hub
from tests.support.hub_answers import fails
from tests.support.hub_pull import HALF
from tests.support.pulling import left_in

WEIGHTS_BYTES = 1_000_000
WANTED = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
CATALOG = f"""
[[model]]
id = "tiny"
title = "Tiny"
licence = "MIT"
parameters = 500_000
context_tokens = 2048
generation = {{ temperature = 1, top_p = 0.9, top_k = 50, repetition_penalty = 1.0 }}

  [[model.source]]
  kind = "hub"
  repository = "{REPOSITORY}-GGUF"
  file = "tiny.gguf"

  [[model.source]]
  kind = "hub-checkpoint"
  repository = "{REPOSITORY}"
  quantization = "F16"
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tiny_checkpoint(tmp_path / "checkpoint")
    weights = os.urandom(WEIGHTS_BYTES)
    make_safetensors(directory / "model.safetensors", {"a": ("F16", (1000, WEIGHTS_BYTES // 2000), weights)})
    return directory


@pytest.fixture
def repository(hub: Hub, checkpoint: Path) -> Hub:
    """A hub with the checkpoint, and with what many a repository has besides."""
    hub.files = {file.name: file.read_bytes() for file in sorted(checkpoint.iterdir())}
    hub.in_git = {name for name in hub.files if name != "model.safetensors"}
    besides = ("consolidated.safetensors", "onnx/model.safetensors", "pytorch_model.bin", "modeling_tiny.py")
    hub.files |= dict.fromkeys(besides, b"never asked for")
    return hub


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> FakeSteps:
    return fake_export(monkeypatch)


def model_of(**source: str | int) -> CatalogModel:
    named = {"repository": REPOSITORY, "quantization": "F16", **source}
    model = fake_model("tiny", HubCheckpointSource(**named))  # type: ignore[arg-type] # names and types are the struct's
    return replace(model, parameters=WEIGHTS_BYTES // 2)


def pull(store: Path, model: CatalogModel | None = None, said: list[str] | None = None) -> str:
    """The outcome. Raises what the puller does."""
    fetcher = HubFetcher(store=store, source_timeout_s=30, download_timeout_s=60)
    puller = Puller(
        store=Store(store),
        catalog=Catalog({"tiny": model or model_of()}),
        importers={"hub-checkpoint": HubCheckpointImporter(load_recipe(), fetcher)},
        progress=Lines((said if said is not None else []).append),
        wait_s=10,
    )
    return puller.pull("tiny", route="export").outcome


def resolved(hub: Hub) -> list[str]:
    """Names of the files that were asked for, each once."""
    paths = [request.path.partition("?")[0] for request in hub.asked if request.step in ("head", "get")]
    return list(dict.fromkeys(re.sub(".*/resolve/[^/]*/", "", path) for path in paths))


def test_a_checkpoint_comes_out_of_a_hub(repository: Hub, checkpoint: Path, steps: FakeSteps, tmp_path: Path) -> None:
    said: list[str] = []
    assert pull(tmp_path / "store", said=said) == "installed"
    model = Store(tmp_path / "store").choose(["tiny"])
    source = model.manifest.source
    assert (source.kind, source.name, source.revision, source.file) == ("hub-checkpoint", REPOSITORY, COMMIT, "")
    assert source.sha256 == checkpoint_digest(checkpoint_files(checkpoint), "", Silent())
    assert model.manifest.quantization.startswith("int4-mixed of F16: ")
    assert resolved(repository) == WANTED == steps.seen
    assert steps.asked == ["export", "compress", "prove"]
    assert left_in(tmp_path / "store") == [".lock", "tiny"]
    assert f"tiny: the catalog pins no revision; this commit was taken: {COMMIT}" in said
    assert f"tiny: the catalog knows no digest; this one was seen: {source.sha256}" in said
    (model.directory / "openvino_model.bin").write_bytes(b"x")
    problem = verify(model.manifest, model.directory).problems[0]
    assert problem.endswith("run: appliance models pull --force --route export tiny")


def test_weights_in_several_files_come_whole(
    repository: Hub, checkpoint: Path, steps: FakeSteps, tmp_path: Path
) -> None:
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, name in enumerate(parts):
        part = make_safetensors(checkpoint / name, {f"a{number}": ("F16", (2, 2), bytes([number] * 8))})
        repository.files[name] = part.read_bytes()
    del repository.files["model.safetensors"]
    assert pull(tmp_path / "store") == "installed"
    assert [name for name in resolved(repository) if "safetensors" in name] == parts


def test_a_mirror_that_names_no_digests_is_asked_for_each(repository: Hub, steps: FakeSteps, tmp_path: Path) -> None:
    repository.names_blobs = False
    assert pull(tmp_path / "store") == "installed"


def test_a_connection_that_breaks_is_resumed(repository: Hub, steps: FakeSteps, tmp_path: Path) -> None:
    repository.will("file", repository.cut(HALF + 100))
    assert pull(tmp_path / "store") == "installed"
    assert repository.ranges() == ["", f"bytes={HALF}-"]


def test_what_came_of_a_checkpoint_is_kept_for_the_next_pull(repository: Hub, steps: FakeSteps, tmp_path: Path) -> None:
    repository.will("file", repository.cut(HALF))
    repository.will("head", *[repository.resolve] * 3, fails(404, "EntryNotFound"))
    with pytest.raises(ModelError, match="has no such file of a checkpoint"):
        pull(tmp_path / "store")
    assert left_in(tmp_path / "store") == [".downloads", ".lock"]
    repository.asked.clear()
    repository.instead["head"].clear()
    said: list[str] = []
    assert pull(tmp_path / "store", said=said) == "installed"
    assert any(line.startswith("tiny: going on with a download, 0.5 of 1.0 MB") for line in said)
    assert repository.ranges() == [f"bytes={HALF}-"]
    assert left_in(tmp_path / "store") == [".lock", "tiny"]


def test_a_small_file_with_another_content_than_announced_is_refused(
    repository: Hub, steps: FakeSteps, tmp_path: Path
) -> None:
    announced = repository.files["tokenizer.json"]
    repository.spoiled["tokenizer.json"] = announced[:-1] + b" "
    with pytest.raises(
        ModelError, match=r"tokenizer\.json of .* with another digest than the hub announced: sha1 \(git\)"
    ):
        pull(tmp_path / "store")
    assert steps.asked == []
    assert left_in(tmp_path / "store") == [".lock"]


def test_weights_with_another_content_than_announced_are_refused(
    repository: Hub, steps: FakeSteps, tmp_path: Path
) -> None:
    repository.digest = "1" * 64
    repository.files = {"model.safetensors": repository.files["model.safetensors"]} | repository.files
    with pytest.raises(ModelError, match=rf"model\.safetensors of .*: sha256 [0-9a-f]{{64}}, expected {'1' * 64}"):
        pull(tmp_path / "store")
    assert left_in(tmp_path / "store") == [".lock"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"sha256": "1" * 64}, f"{REPOSITORY} has another digest: sha256 [0-9a-f]{{64}}, expected 1111"),
        ({"size_bytes": 7}, "has another checkpoint than the catalog: size 1[0-9]*, expected 7"),
        ({"revision": "v2"}, "has no revision v2"),
    ],
)
def test_another_checkpoint_than_the_catalog_names_is_refused(
    repository: Hub, steps: FakeSteps, tmp_path: Path, source: dict[str, str | int], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        pull(tmp_path / "store", model_of(**source))
    assert steps.asked == []
    assert Store(tmp_path / "store").entries() == []


def test_a_repository_without_safetensors_is_told_with_what_it_has(hub: Hub, steps: FakeSteps, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=rf"has no \*\.safetensors in {REPOSITORY}; it has tiny\.gguf: correct the catal"
    ):
        pull(tmp_path / "store")


def test_without_the_extra_one_line_tells_and_nobody_is_asked(
    repository: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "PACKAGES", ("no-such-package",))
    config = tmp_path / "appliance.toml"
    config.write_text(f'[models]\ndirectory = "{tmp_path}/store"\n', "utf-8")
    (tmp_path / "catalog.toml").write_text(CATALOG, "utf-8")
    result = CliRunner().invoke(app, ["pull", "tiny", "--route", "export", "--config", str(config)])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith("pulling by the export route needs no-such-package; on a builder, run: pip")
    assert repository.asked == []


@pytest.mark.parametrize(
    ("source", "route", "said"),
    [
        (HubSource(repository="a/b", file="c.gguf"), "export", "tiny: the catalog names no safetensors of it"),
        (HubCheckpointSource(repository="a/b"), "gguf", "run: appliance models pull --route export tiny"),
    ],
)
def test_a_route_that_the_catalog_does_not_have_is_told(
    tmp_path: Path, source: HubSource | HubCheckpointSource, route: str, said: str
) -> None:
    catalog = Catalog({"tiny": fake_model("tiny", source)})
    puller = Puller(store=Store(tmp_path), catalog=catalog, importers={}, progress=Silent(), wait_s=1)
    with pytest.raises(ModelError, match=said):
        puller.pull("tiny", route="export" if route == "export" else "gguf")


def test_the_export_route_is_for_one_model(tmp_path: Path) -> None:
    assert "for one model" in CliRunner().invoke(app, ["pull", "--preferred", "--route", "export"]).output
