"""`appliance models` bundle, install, keygen: what they print and with which status they end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from appliance.cli import app
from appliance.errors import ConfigError
from appliance.models.errors import BundleRefused, NotInstalled
from appliance.models.fake import install_fake
from appliance.models.store import Store
from tests.support.bundle import good_bundle, signer_in

Run = Callable[..., Result]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("APPLIANCE__MODELS__DIRECTORY", str(tmp_path / "store"))
    return Store(tmp_path / "store")


@pytest.fixture
def run(tmp_path: Path, store: Store) -> Run:
    """A command of `appliance models` with a settings file of its own."""
    file = tmp_path / "appliance.toml"
    file.write_text("", "utf-8")

    def run(*arguments: str | Path) -> Result:
        command, *rest = map(str, arguments)
        config = [] if command == "keygen" else ["--config", str(file)]
        return CliRunner().invoke(app, ["models", command, *rest, *config])

    return run


def test_from_one_store_to_another(tmp_path: Path, store: Store, run: Run) -> None:
    model = install_fake(store)
    made = run("bundle", "fake", tmp_path / "fake.tar")
    assert (made.exit_code, made.stdout) == (0, f"fake: {tmp_path}/fake.tar (0.0 MB, not signed)\n")
    run("remove", "fake", "--yes")
    installed = run("install", tmp_path / "fake.tar")
    assert (installed.exit_code, installed.stdout) == (0, f"fake: installed (0.0 MB, {model.directory})\n")
    assert f"appliance: {tmp_path}/fake.tar is not signed\n" in installed.stderr
    assert run("install", tmp_path / "fake.tar").stdout.startswith("fake: is installed (0.0 MB")
    assert run("install", "--force", tmp_path / "fake.tar").stdout.startswith("fake: is installed, and sound; it stays")
    assert run("verify").stdout == f"fake: sound ({model.directory})\n"


def test_signed_and_told_as_json(tmp_path: Path, store: Store, run: Run) -> None:
    install_fake(store)
    public_key = run("keygen", tmp_path / "key.pem").stdout.strip()
    assert run("keygen", "--public", tmp_path / "key.pem").stdout.strip() == public_key
    made = json.loads(run("bundle", "fake", tmp_path / "fake.tar", "--sign-key", tmp_path / "key.pem", "--json").stdout)
    assert made["signed_by"]["public_key"] == public_key
    assert made["size_bytes"] == (tmp_path / "fake.tar").stat().st_size
    assert [member["name"] for member in made["index"]["members"]][:2] == ["LICENSE", "manifest.json"]
    run("remove", "fake", "--yes")
    would = json.loads(run("install", "--dry-run", "--json", tmp_path / "fake.tar").stdout)
    assert (would["would_be"], would["signed_by"]["key_id"]) == ("installed", made["signed_by"]["key_id"])
    assert store.entries() == []
    installed = run("install", tmp_path / "fake.tar", "--json")
    assert json.loads(installed.stdout)["outcome"] == "installed"
    assert f"is signed by key {made['signed_by']['key_id']}\n" in installed.stderr


def test_a_dry_run_shows_what_is_in_it_and_what_would_be(tmp_path: Path, store: Store, run: Run) -> None:
    bundle = good_bundle(tmp_path)
    shown = run("install", "--dry-run", bundle)
    assert shown.exit_code == 0
    assert shown.stdout.startswith("fake: Fake, Apache-2.0; not signed\n  digest ")
    assert "  7  openvino_model.bin\n" in shown.stdout
    assert shown.stdout.endswith(f"{bundle} is sound; it can be installed; nothing was done\n")
    assert not store.directory.exists()
    run("install", bundle)
    assert "; it is installed; nothing was done" in run("install", "--dry-run", bundle).stdout
    assert "; it is installed, and sound; nothing" in run("install", "--dry-run", "--force", bundle).stdout
    (next(iter(store.list())).directory / "openvino_model.bin").unlink()
    assert "; it can be installed; nothing" in run("install", "--dry-run", "--force", bundle).stdout


def test_trusted_keys_refuse_in_one_line(
    tmp_path: Path, store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = good_bundle(tmp_path)
    monkeypatch.setenv("APPLIANCE__MODELS__TRUSTED_KEYS", signer_in(tmp_path).public_key)
    for arguments in (["install", bundle], ["install", "--dry-run", bundle], ["install", "--force", bundle]):
        result = run(*arguments)
        assert isinstance(result.exception, BundleRefused)
        assert "is not signed, and models.trusted_keys asks for a signature by" in str(result.exception)
        assert result.stdout == ""
    assert not store.directory.exists()


def test_what_is_missing_is_told(tmp_path: Path, store: Store, run: Run) -> None:
    assert isinstance(run("bundle", "fake", tmp_path / "x.tar").exception, NotInstalled)
    install_fake(store)
    for option in ("--sign-key", "--licence-file"):
        result = run("bundle", "fake", tmp_path / "x.tar", option, tmp_path / "none")
        assert isinstance(result.exception, ConfigError)
        assert "No such file" in str(result.exception)
    (tmp_path / "empty").write_text(" \n", "utf-8")
    result = run("bundle", "fake", tmp_path / "x.tar", "--licence-file", tmp_path / "empty")
    assert "is empty or has more than" in str(result.exception)
    assert not (tmp_path / "x.tar").exists()
