"""Settings read again by a running daemon: on SIGHUP, and by `appliance reload`."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.daemon import Peer
from tests.support.notify import Manager
from tests.support.process import Served, run, serving


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "appliance.toml"
    path.write_text("[limits]\nmax_tokens = 5\n")
    return path


@pytest.fixture
def served(tmp_path: Path, manager: Manager, file: Path) -> Iterator[Served]:
    with serving(tmp_path, "--pipeline", "fake", "--config", str(file)) as started:
        manager.wait_for(lambda told: "READY" in told)
        yield started


def reload(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run(home, "reload", *arguments)


async def hello(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session:
        peer = Peer(await session.ws_connect(f"{url}/v1/ws"))
        return (await peer.until("hello"))[0]


def max_tokens(served: Served) -> object:
    return asyncio.run(hello(served.url))["limits"]["max_tokens"]


def test_what_can_change_does_and_the_rest_is_named(
    tmp_path: Path, served: Served, file: Path, manager: Manager
) -> None:
    assert max_tokens(served) == 5
    file.write_text('[limits]\nmax_tokens = 6\n[engine]\nthreads = 3\n[logging]\nlevel = "debug"\n')
    done = reload(tmp_path)
    assert done.stdout.splitlines() == ["changed: limits.max_tokens, logging.level", "needs a restart: engine.threads"]
    assert done.returncode == 0
    assert max_tokens(served) == 6
    logged = served.wait_for("settings reloaded")
    assert (logged["changed"], logged["needs_restart"]) == ("limits.max_tokens logging.level", "engine.threads")
    served.wait_for("connection closed")  # which is logged at debug
    told = manager.wait_for(lambda told: "RELOADING" in told)
    assert int(told["MONOTONIC_USEC"]) > 0
    manager.wait_for(lambda told: "READY" in told)
    again = json.loads(reload(tmp_path, "--json").stdout)
    assert again == {
        "changed": [],
        "needs_restart": ["engine.threads"],
        "socket_decides": [],
        "certificate_until": None,
    }


def test_bad_settings_are_refused_with_the_reason_and_the_old_ones_stay(
    tmp_path: Path, served: Served, file: Path, manager: Manager
) -> None:
    file.write_text('[limits]\nmax_tokens = 6\n[logging]\nlevel = "loud"\n')
    done = reload(tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert "logging.level" in done.stderr
    assert "one of debug, error, info, warning" in done.stderr
    assert "logging.level" in served.wait_for("settings not reloaded, the old ones stay")["reason"]
    assert max_tokens(served) == 5
    manager.wait_for(lambda told: "RELOADING" in told)
    manager.wait_for(lambda told: "READY" in told)


def test_sighup_does_it_too(served: Served, file: Path, manager: Manager) -> None:
    file.write_text("[limits]\nmax_tokens = 7\n")
    served.process.send_signal(signal.SIGHUP)
    assert served.wait_for("settings reloaded")["changed"] == "limits.max_tokens"
    assert max_tokens(served) == 7
    file.write_text("[limits\n")
    served.process.send_signal(signal.SIGHUP)
    assert "not valid TOML" in served.wait_for("settings not reloaded, the old ones stay")["reason"]
    assert max_tokens(served) == 7
    assert served.process.poll() is None


def test_what_a_flag_says_stays(tmp_path: Path, file: Path) -> None:
    with serving(tmp_path, "--pipeline", "fake", "--config", str(file), "--level", "debug") as served:
        served.worker_pid()
        file.write_text('[logging]\nlevel = "error"\n[limits]\nmax_tokens = 5\n')
        assert reload(tmp_path).stdout == "nothing has changed\n"


def test_where_no_daemon_runs_it_says_so(tmp_path: Path) -> None:
    done = reload(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no daemon answers on" in done.stderr


async def test_bounds_of_requests_already_connected_change_too(served: Served, file: Path, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        peer = Peer(await session.ws_connect(f"{served.url}/v1/ws"))
        await peer.until("hello")
        bounds = "[limits]\nmax_tokens = 5\nmax_messages = 1\n[dispatch]\nmax_deadline_s = 2\n"
        await asyncio.to_thread(file.write_text, bounds)
        assert (await asyncio.to_thread(reload, tmp_path)).returncode == 0
        await peer.chat("r1", "hello", deadline_s=3)
        assert "at most 2" in (await peer.until("error"))[-1]["message"]
        await peer.send(type="chat", id="r2", messages=[{"role": "user", "content": "x"}] * 2)
        assert "at most 1 (limits.max_messages)" in (await peer.until("error"))[-1]["message"]
