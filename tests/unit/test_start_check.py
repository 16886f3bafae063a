"""What `appliance config check` says of a start besides the settings: memory here, files on hosts (tests/deploy)."""

import subprocess
import sys
from pathlib import Path

import pytest

from appliance.cli import start_check
from appliance.config import load
from appliance.errors import ConfigError
from appliance.models.fake import install_fake
from appliance.models.store import Store
from tests.support.process import environment


def test_a_model_that_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    install_fake(store, "one")
    fits = load(environ={}, flags={"models.preferred": ["one"]}).settings
    start_check.require_memory_of_model(fits, store)
    monkeypatch.setattr("appliance.models.served.memory_limit_bytes", lambda: 1 << 20)
    with pytest.raises(ConfigError, match=r"model one: .*kv_cache_tokens"):
        start_check.require_memory_of_model(fits, store)
    start_check.require_memory_of_model(fits, Store(tmp_path / "empty"))  # no matter of the settings


def test_files_of_another_than_the_service_are_not_tried(tmp_path: Path) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text("")
    command = [sys.executable, "-m", "appliance", "config", "check", "--config", str(file)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.startswith("ok: ")) == (0, True)
