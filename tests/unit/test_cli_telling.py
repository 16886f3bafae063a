"""The level that errors and warnings of commands have where systemd reads stderr, and that people see none."""

import os
import subprocess
import sys
from pathlib import Path

from appliance.models.fake import install_fake
from appliance.models.store import Store
from tests.support.process import environment


def said(home: Path, *command: str, to_journal: bool) -> str:
    with (home / "stderr").open("w+b") as stderr:
        of = os.fstat(stderr.fileno())
        stream = {"JOURNAL_STREAM": f"{of.st_dev}:{of.st_ino}"} if to_journal else {}
        words = [sys.executable, "-m", "appliance", *command]
        env = environment(home, models__directory=home / "models") | stream
        subprocess.run(words, env=env, stderr=stderr, timeout=60, check=False)
        return (home / "stderr").read_text("utf-8")


def test_an_error_of_a_command_is_an_error_in_the_journal(tmp_path: Path) -> None:
    command = ("config", "check", "--config", "/nowhere/appliance.toml")
    plain = said(tmp_path, *command, to_journal=False)
    assert plain.startswith("appliance: --config /nowhere/appliance.toml: no such file")
    assert said(tmp_path, *command, to_journal=True) == f"<3>{plain}"


def test_a_damaged_model_and_a_warning_have_their_levels(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    model = install_fake(store, "tiny")
    (model.directory / "openvino_model.bin").write_bytes(b"damaged")
    (store.directory / "slots.json").write_text("{")
    assert said(tmp_path, "models", "verify", to_journal=True).startswith("<3>appliance: ")
    assert said(tmp_path, "models", "list", to_journal=True).startswith("<4>appliance: warning: ")
