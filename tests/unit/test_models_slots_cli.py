"""`appliance models` use, rollback, prune without a daemon: what they print and with which status they end."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from appliance.cli import app
from appliance.errors import ConfigError
from appliance.models.errors import ManifestTooNew, ModelDamaged, NotInstalled, StoreFull
from appliance.models.fake import install_fake
from appliance.models.slots import BadSlot, change_slots, fallen_back, read_slots, slot_of
from appliance.models.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("APPLIANCE__MODELS__DIRECTORY", str(tmp_path / "store"))
    monkeypatch.setenv("APPLIANCE__MODELS__PREFERRED", "fake")
    monkeypatch.setenv("APPLIANCE__SERVER__CONTROL_SOCKET", str(tmp_path / "control.sock"))
    return Store(tmp_path / "store")


def models(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


def test_use_without_a_daemon_is_for_the_next_start(store: Store, tmp_path: Path) -> None:
    fake, other = (str(slot_of(install_fake(store, name).manifest)) for name in ("fake", "other"))
    done = models("use", "other", "--no-canary")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (
        f"{other} is served from the next start on (no daemon answers on {tmp_path}/control.sock; the canary "
        f"was not asked); before: {fake}\n"
    )
    shown = json.loads(models("rollback", "--no-canary", "--json").stdout)
    assert (shown["outcome"], shown["model"], shown["previous"]) == ("next_start", fake, other)
    assert shown["canary"] is False


def test_what_can_not_be_used_is_told_and_changes_nothing(store: Store) -> None:
    bad = install_fake(store, "bad")
    (bad.directory / "openvino_model.bin").write_bytes(b"Weights")
    newer = install_fake(store, "newer")
    file = newer.directory / "manifest.json"
    file.write_text(file.read_text("utf-8").replace('"format": 1', '"format": 2'), "utf-8")
    for reference, error in (
        ("none", NotInstalled),
        ("bad", ModelDamaged),
        ("newer", ManifestTooNew),
        ("../bad", ConfigError),
        ("bad@zz", ConfigError),
    ):
        assert type(models("use", reference).exception) is error
    assert isinstance(models("rollback").exception, NotInstalled)
    assert not (store.directory / "slots.json").exists()


def test_list_tells_current_previous_and_bad(store: Store) -> None:
    fake, other, bad = (install_fake(store, name) for name in ("fake", "other", "bad"))
    models("use", "other", "--no-canary")
    mark = BadSlot(slot_of(bad.manifest), "crashed", "now")
    change_slots(store.directory, lambda slots: fallen_back(slots, (mark,), slot_of(other.manifest)))
    lines = models("list").stdout.splitlines()
    assert f"other  {other.directory.name}  installed, current  " in lines[2]
    assert f"fake  {fake.directory.name}  installed, previous  " in lines[1]
    assert f"bad  {bad.directory.name}  bad (crashed)  " in lines[0]
    slots = json.loads(models("list", "--json").stdout)["slots"]
    assert slots["current"] == {"id": "other", "digest": other.directory.name}


def test_prune_shows_first_and_needs_yes_where_nobody_can_be_asked(store: Store) -> None:
    fake, other = (install_fake(store, name) for name in ("fake", "other"))
    names = [f"{model.id}@{model.directory.name}" for model in (fake, other)]
    dry = models("prune", "--dry-run")
    assert (dry.exit_code, dry.stdout.splitlines()[:2]) == (0, [f"kept {names[0]}", f"would remove {names[1]}"])
    refused = models("prune").exception
    assert isinstance(refused, ConfigError)
    assert "needs --yes" in str(refused)
    assert len(store.list()) == 2
    done = json.loads(models("prune", "--yes", "--json").stdout)
    assert (done["kept"], done["removed"], done["dry_run"]) == ([names[0]], [names[1]], False)
    assert done["freed_bytes"] > 0
    assert store.list() == [fake]
    assert models("prune").exit_code == 0  # nothing to ask about


def test_removing_the_current_model_leaves_the_previous(store: Store) -> None:
    fake = install_fake(store)
    install_fake(store, "other")
    models("use", "other", "--no-canary")
    refused = models("remove", "other", "--yes").exception
    assert isinstance(refused, ConfigError)
    assert "is the current model; choose another first (appliance models use), or give --force" in str(refused)
    assert models("remove", "other", "--digest", "no such", "--yes").exit_code != 0
    assert len(store.list()) == 2
    assert models("remove", "other", "--yes", "--force").exit_code == 0
    slots = read_slots(store.directory)
    assert (slots.current, slots.previous) == (None, slot_of(fake.manifest))


def test_the_quota_is_that_of_the_settings(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = install_fake(store, "large", b"x" * 9000)
    bundle = str(tmp_path / "large.tar")
    assert models("bundle", "large", bundle).exit_code == 0
    models("remove", "large", "--yes")
    monkeypatch.setenv("APPLIANCE__MODELS__MAX_STORE_BYTES", "8000")
    assert isinstance(models("install", bundle).exception, StoreFull)
    assert store.list() == []
    monkeypatch.setenv("APPLIANCE__MODELS__MAX_STORE_BYTES", "80000")
    assert models("install", bundle).exit_code == 0
    assert [entry.directory for entry in store.list()] == [model.directory]


def test_a_fall_back_that_does_not_fit_in_memory_ends_the_start_with_its_name_and_the_figures(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake(store)
    damaged = install_fake(store, "other")
    models("use", "other", "--no-canary")
    (damaged.directory / "openvino_model.bin").write_bytes(b"Weights")
    monkeypatch.setattr("appliance.models.served.memory_limit_bytes", lambda: 300 << 20)
    ended = CliRunner().invoke(app, ["serve", "--port", "0"])
    assert isinstance(ended.exception, ConfigError)
    assert "openvino_model.bin is damaged" in ended.stderr
    assert re.match(r"model fake: engine\.kv_cache_tokens = \d+: serving takes .* has 300 MiB", str(ended.exception))
