"""`appliance models import DIRECTORY`: what it takes, what it asks for, what it writes down. The steps are fakes."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from appliance.cli.models import app
from appliance.errors import ConfigError
from appliance.models.checkpoint.files import checkpoint_digest, checkpoint_files
from appliance.models.errors import ImportFailed
from appliance.models.importers import checkpoint as importer
from appliance.models.importers.quantizing import Steps
from appliance.models.progress import Silent
from appliance.models.store import Store
from appliance.models.verification import verify
from tests.support.checkpoint import make_safetensors, tiny_checkpoint
from tests.support.exporting import FakeSteps, fake_export

runner = CliRunner()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> FakeSteps:
    return fake_export(monkeypatch)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "Tiny-1.5-Chat")


def test_a_directory_is_installed_with_what_it_says_of_itself(store: Store, checkpoint: Path, steps: FakeSteps) -> None:
    (checkpoint / "modeling_tiny.py").write_text("raise SystemExit", "utf-8")
    result = runner.invoke(app, ["import", str(checkpoint), "--json"])
    assert result.exit_code == 0, result.output
    manifest = store.choose(["tiny-1.5-chat"]).manifest
    assert (manifest.title, manifest.licence, manifest.languages) == ("Tiny-1.5-Chat", "Apache-2.0", ("en", "zh"))
    assert (manifest.context_tokens, manifest.parameters, manifest.recipe) == (4096, 160, "int4-mixed")
    assert manifest.quantization == "int4-mixed of F16: INT4 asymmetric group 64"
    assert (manifest.source.kind, manifest.source.file) == ("checkpoint", "Tiny-1.5-Chat")
    assert manifest.source.sha256 == checkpoint_digest(checkpoint_files(checkpoint), "", Silent())
    assert manifest.generation.top_k == 20
    assert steps.asked == ["export", "compress", "prove"]
    assert "modeling_tiny.py" not in steps.seen
    assert "model.safetensors" in steps.seen
    assert json.loads(result.stdout)["outcome"] == "installed"


def test_the_same_directory_again_is_there_already_and_another_is_not_taken(
    store: Store, checkpoint: Path, steps: FakeSteps
) -> None:
    runner.invoke(app, ["import", str(checkpoint), "--id", "mine"])
    again = runner.invoke(app, ["import", f"{checkpoint}/", "--id", "mine"])
    assert again.stdout.startswith("mine: is installed")
    make_safetensors(checkpoint / "model.safetensors", {"a": ("F16", (2, 2), bytes(8))})
    other = runner.invoke(app, ["import", str(checkpoint), "--id", "mine"])
    assert "mine is installed from Tiny-1.5-Chat" in str(other.exception)
    assert steps.asked == ["export", "compress", "prove"]


def test_a_damaged_import_names_the_command_that_mends_it(store: Store, checkpoint: Path, steps: FakeSteps) -> None:
    runner.invoke(app, ["import", str(checkpoint), "--id", "mine"])
    model = store.choose(["mine"])
    (model.directory / "openvino_model.bin").write_bytes(b"x")
    problem = verify(model.manifest, model.directory).problems[0]
    assert problem.endswith("run: appliance models import --force --id mine Tiny-1.5-Chat")


def test_a_directory_that_changes_meanwhile_is_not_installed(
    store: Store, checkpoint: Path, steps: FakeSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(_: Steps, *arguments: Any, **options: Any) -> Any:
        (checkpoint / "config.json").write_text("{}", "utf-8")
        return steps.step(*arguments, **options)

    monkeypatch.setattr(Steps, "step", change)
    result = runner.invoke(app, ["import", str(checkpoint)])
    assert "changed while it was imported; import it again" in str(result.exception)
    assert store.entries() == []


def test_without_the_extra_the_command_that_installs_it_is_told(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "PACKAGES", ("no-such-package", "msgspec"))
    result = runner.invoke(app, ["import", str(checkpoint)])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith("importing a directory of safetensors needs no-such-package; on a builder")
    assert "pip install 'edge-chat-appliance[export]'" in str(result.exception)
    assert not store.directory.exists()


def test_what_is_no_checkpoint_is_told(store: Store, tmp_path: Path, steps: FakeSteps) -> None:
    result = runner.invoke(app, ["import", str(tmp_path)])
    assert isinstance(result.exception, ImportFailed)
    assert "can't be imported: it has no *.safetensors" in str(result.exception)
    assert not store.directory.exists()


def test_weights_of_a_checkpoint_cannot_stay_as_they_are(store: Store, checkpoint: Path, steps: FakeSteps) -> None:
    result = runner.invoke(app, ["import", str(checkpoint), "--keep-quantization"])
    assert result.exit_code == 2
    assert steps.asked == []
