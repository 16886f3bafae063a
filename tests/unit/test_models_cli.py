"""`appliance models`: what it prints and with which status it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance.cli.models import app
from appliance.config import paths
from appliance.errors import ConfigError
from appliance.models.errors import NotInstalled
from appliance.models.fake import install_fake
from appliance.models.store import Store

runner = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "appliance.toml"
    file.write_text('[models]\npreferred = ["fake"]\n', "utf-8")
    return str(file)


def test_list_shows_what_is_installed_and_what_is_not(store: Store, config: str) -> None:
    model = install_fake(store)
    result = runner.invoke(app, ["list", "--config", config])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"fake  {model.directory.name}  installed")
    assert "smollm2-135m-instruct  not installed (source: wheel, hub-checkpoint)" in result.stdout


def test_list_as_json(store: Store, config: str) -> None:
    model = install_fake(store)
    (install_fake(store, "broken").directory / "manifest.json").unlink()
    shown = json.loads(runner.invoke(app, ["list", "--json", "--config", config]).stdout)
    assert shown["store"] == str(store.directory)
    assert shown["preferred"] == ["fake"]
    assert [(entry["id"], entry["directory"]) for entry in shown["installed"]] == [("fake", str(model.directory))]
    assert "broken" in shown["unreadable"][0]["error"]
    assert {entry["id"] for entry in shown["available"]} >= {"smollm2-135m-instruct"}


def test_a_catalog_beside_the_settings_is_read(store: Store, config: str) -> None:
    extra = Path(config).parent / "catalog.toml"
    extra.write_text("[[model]]\nid = 1\n", "utf-8")
    result = runner.invoke(app, ["list", "--config", config])
    assert isinstance(result.exception, ConfigError)
    assert str(extra) in str(result.exception)


def test_the_operators_catalogs_are_read_in_order(store: Store, config: str) -> None:
    entry = (
        '[[model]]\nid = "{}"\ntitle = "{}"\nlicence = "MIT"\nparameters = 1\ncontext_tokens = 128\n'
        "generation = {{ temperature = 1, top_p = 1, top_k = 0, repetition_penalty = 1 }}\n"
        '[[model.source]]\nkind = "file"\npath = "/x.gguf"\n'
    )
    beside = Path(config).parent
    more = beside / "catalog.d"
    more.mkdir()
    (beside / "catalog.toml").write_text(entry.format("mine", "First") + entry.format("qwen3-0.6b", "Ours"), "utf-8")
    (more / "20.toml").write_text(entry.format("mine", "Third"), "utf-8")
    (more / "10.toml").write_text(entry.format("mine", "Second") + entry.format("other", "Other"), "utf-8")
    (more / "30.toml.disabled").write_text("nonsense", "utf-8")
    listed = runner.invoke(app, ["list", "--config", config]).stdout
    for line in ("mine  not installed (source: file)  Third, MIT", "other  not", "(source: file)  Ours, MIT"):
        assert line in listed
    (more / "30.toml").write_text("nonsense", "utf-8")
    assert str(more / "30.toml") in str(runner.invoke(app, ["list", "--config", config]).exception)


def test_without_a_settings_file_the_catalogs_where_it_would_be_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / name / "appliance.toml" for name in ("system", "own")]
    monkeypatch.setattr(paths, "config_candidates", lambda: places)
    assert paths.catalog_files(None) == []
    for place in reversed(places):
        (place.parent / "catalog.d").mkdir(parents=True)
        file = place.parent / "catalog.d" / "more.toml"
        file.write_text("", "utf-8")
        assert paths.catalog_files(None) == [file]


def test_pull_preferred_of_an_installed_model_says_so(store: Store, config: str) -> None:
    install_fake(store)
    result = runner.invoke(app, ["pull", "--preferred", "--config", config])
    assert result.exit_code == 0
    assert result.stdout.startswith("fake: is installed")
    shown = json.loads(runner.invoke(app, ["pull", "--preferred", "--json", "--config", config]).stdout)
    assert (shown["outcome"], shown["id"], len(shown["digest"])) == ("present", "fake", 64)


@pytest.mark.parametrize("arguments", [[], ["fake", "--preferred"]])
def test_pull_takes_an_id_or_preferred(store: Store, arguments: list[str]) -> None:
    assert runner.invoke(app, ["pull", *arguments]).exit_code == 2


def test_verify_tells_damage_and_ends_with_1(store: Store) -> None:
    good = install_fake(store, "good")
    bad = install_fake(store, "bad")
    assert runner.invoke(app, ["verify"]).exit_code == 0
    (bad.directory / "openvino_model.bin").write_bytes(b"Weights")
    result = runner.invoke(app, ["verify"])
    assert result.exit_code == 1
    assert result.stdout == f"good: sound ({good.directory})\n"
    assert result.stderr.startswith(f"appliance: {bad.directory}/openvino_model.bin is damaged")
    shown = json.loads(runner.invoke(app, ["verify", "bad", "--json"]).stdout)
    assert shown["sound"] is False
    assert len(shown["models"][0]["problems"]) == 1


def test_verify_of_what_is_not_installed_is_an_error(store: Store) -> None:
    assert isinstance(runner.invoke(app, ["verify", "nothing"]).exception, NotInstalled)


def test_remove_needs_yes_where_nobody_can_be_asked(store: Store) -> None:
    model = install_fake(store)
    assert isinstance(runner.invoke(app, ["remove", "fake"]).exception, ConfigError)
    assert store.find("fake") == model
    result = runner.invoke(app, ["remove", "fake", "--yes"])
    assert (result.exit_code, result.stdout) == (0, f"removed {model.directory}\n")
    assert store.find("fake") is None


def test_no_engine_and_no_server_is_imported() -> None:
    script = (
        "import sys, appliance.cli.models\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('openvino', 'openvino_genai', 'aiohttp')])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
