"""`appliance models show`: everything known of one model, installed or not."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from appliance.cli import app
from appliance.errors import ConfigError
from appliance.models.bundle.installing import Installer
from appliance.models.bundle.reading import open_bundle
from appliance.models.fake import install_fake
from appliance.models.progress import Silent
from appliance.models.store import Store
from tests.support.bundle import good_bundle, signer_in


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A settings file, so that nothing of this host's is read."""
    file = tmp_path / "appliance.toml"
    file.write_text("", "utf-8")
    return str(file)


def show(config: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", "show", "--config", config, *arguments])


def test_show_tells_all_of_a_model_that_is_not_installed(store: Store, config: str) -> None:
    shown = show(config, "qwen3-0.6b")
    assert shown.exit_code == 0
    for line in (
        "  licence       Apache-2.0\n",
        "  memory        about 3,060 MB while it is served\n",
        "  source        hub Qwen/Qwen3-0.6B-GGUF Qwen3-0.6B-Q8_0.gguf Q8_0\n",
        "    sha256      not known before the first pull, which records it\n",
        "not installed; run: appliance models pull qwen3-0.6b\n",
    ):
        assert line in shown.stdout
    as_json = json.loads(show(config, "qwen3-0.6b", "--json").stdout)
    assert (as_json["catalog"]["parameters"], as_json["installed"]) == (596_049_920, [])


def test_show_tells_all_of_each_copy(tmp_path: Path, store: Store, config: str) -> None:
    before = install_fake(store, content=b"before")
    with open_bundle(good_bundle(tmp_path, signer=signer_in(tmp_path))) as bundle:
        Installer(store=store, progress=Silent()).install(bundle, force=True)
    (install_fake(store, "fake", b"broken").directory / "manifest.json").write_text("{", "utf-8")
    shown = show(config, "fake").stdout
    assert [line for line in shown.splitlines() if line.endswith(":")] == [
        "installed:",
        "installed before:",
        "damaged:",
    ]
    assert "  bundle        signed by key " in shown
    assert f"  directory     {before.directory}\n" in shown
    as_json = json.loads(show(config, "fake", "--json").stdout)
    assert as_json["catalog"] is None
    assert [copy["came_in_bundle"] for copy in as_json["installed"]] == [True, False]
    assert [copy["signed_by"] is None for copy in as_json["installed"]] == [False, True]
    assert len(as_json["unreadable"]) == 1


def test_show_of_an_unknown_model_names_those_there_are(store: Store, config: str) -> None:
    result = show(config, "qwen3")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith("unknown model 'qwen3'; did you mean qwen3-0.6b")
    assert isinstance(show(config, "../x").exception, ConfigError)
