"""Nothing is left of a measurement: not by one that ended, and not for long by one that was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.models.measuring.scratch import PREFIX, open_scratch, scratch_place

HOLD = """
import sys
from pathlib import Path
from appliance.models.measuring.scratch import open_scratch
with open_scratch(Path(sys.argv[1])) as directory:
    (directory / "big").write_bytes(b"x")
    print(directory, flush=True)
    sys.stdin.read()
"""


def test_it_is_gone_at_the_end_of_the_block_whatever_ends_it(tmp_path: Path) -> None:
    def interrupted() -> None:
        with open_scratch(tmp_path) as directory:
            (directory / "model").mkdir()
            (directory / "model" / "big").write_bytes(b"x")
            assert directory.stat().st_mode & 0o777 == 0o700
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_one_left_is_removed_by_the_next_and_what_lives_is_not(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "other")
    (tmp_path / f"{PREFIX}file").write_text("not ours")
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        with open_scratch(tmp_path):
            assert (held / "big").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert held.exists()
    with open_scratch(tmp_path):
        assert not held.exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {"other", f"{PREFIX}link", f"{PREFIX}file"}


def test_where_none_can_be_made_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set TMPDIR to a directory with room"), open_scratch(tmp_path / "missing"):
        pass


def test_the_place_is_tmpdir_where_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert scratch_place() == tmp_path
    monkeypatch.delenv("TMPDIR")
    assert scratch_place() == Path("/var/tmp")
    assert os.access(scratch_place(), os.W_OK)
