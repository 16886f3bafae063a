"""The limits of the service's control group, from the memory budget."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.config.shipped import shipped
from appliance.engine.limits import MemoryLimits, memory_limits
from appliance.engine.memory import MIB, OVERHEAD_BYTES, MemoryBudget, require_room
from appliance.models.fake import install_fake
from appliance.models.store import Store

QWEN = MemoryBudget(
    weights_bytes=329_624_846, kv_cache_bytes=7296 * 32_768, overhead_bytes=OVERHEAD_BYTES, kv_bytes_per_token=7296
)


def test_where_there_is_room_a_worker_may_warm_up_beside_the_other() -> None:
    assert memory_limits(800 * MIB, 8000 * MIB) == MemoryLimits(1600 * MIB, 1800 * MIB, successor=True)


def test_where_there_is_not_one_worker_has_some_to_spare() -> None:
    assert memory_limits(800 * MIB, 2000 * MIB) == MemoryLimits(1000 * MIB, 1200 * MIB, successor=False)


@pytest.mark.parametrize("machine_bytes", [1 << 30, 2 << 30, 8 << 30])
def test_a_daemon_starts_within_them(machine_bytes: int) -> None:
    require_room(QWEN, 32_768, memory_limits(QWEN.total_bytes, machine_bytes).max_bytes)


def test_the_drop_in_that_ships_is_that_of_the_preferred_model() -> None:
    limits = memory_limits(QWEN.total_bytes, 8 * 10**9)
    text = (Path(str(shipped("systemd"))) / "optional/appliance.service.d/memory.conf").read_text("utf-8")
    assert f"MemoryHigh={limits.high_bytes // MIB}M\n" in text
    assert f"MemoryMax={limits.max_bytes // MIB}M\n" in text


def config_memory(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {"HOME": str(tmp_path), "LANG": "C.UTF-8", "APPLIANCE__MODELS__DIRECTORY": str(tmp_path / "models")}
    command = [sys.executable, "-m", "appliance", "config", "memory"]
    environment = {"PATH": os.environ["PATH"], **own, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_command_prints_a_drop_in_for_what_would_be_served(tmp_path: Path) -> None:
    model = install_fake(Store(tmp_path / "models"), "tiny")
    done = config_memory(tmp_path, APPLIANCE__MODELS__PREFERRED='["tiny"]')
    assert (done.returncode, done.stderr) == (0, "")
    assert f"for tiny@{model.directory.name}, engine.kv_cache_tokens = 32768" in done.stdout
    assert "[Service]\n" in done.stdout
    assert "\nMemoryHigh=" in done.stdout
    assert "\nMemoryMax=" in done.stdout


def test_without_a_model_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = config_memory(tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert "appliance models pull" in done.stderr
