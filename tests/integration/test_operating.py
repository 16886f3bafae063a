"""`appliance drain`, `undrain` on a daemon that is a process of its own."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.daemon import connect
from tests.support.process import Served, environment, run, serving

ENDLESS = "again and again fake:step-ms=5"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, "--pipeline", "fake") as started:
        started.worker_pid()
        yield started


async def get(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    async with session.get(url) as response:
        return response.status, await response.json()


async def test_a_drained_daemon_finishes_what_it_has_and_takes_nothing_new(tmp_path: Path, served: Served) -> None:
    async with aiohttp.ClientSession() as session:
        peer = await connect(session, served.url)
        await peer.chat("r1", ENDLESS, params={"max_tokens": 4000})
        await peer.until("delta")
        done = await asyncio.to_thread(run, tmp_path, "drain")
        assert (done.returncode, done.stdout) == (0, "drained; 1 running, 0 waiting\n")
        code, told = await get(session, f"{served.url}/readyz")
        assert (code, told["reason"]) == (503, "draining")
        assert "appliance undrain" in told["detail"]
        status = (await get(session, f"{served.url}/v1/status"))[1]
        assert (status["drained"], status["ready"]) == (True, False)
        other = await connect(session, served.url)
        await other.chat("r2", "too late")
        refused = (await other.until("error"))[-1]
        assert (refused["id"], refused["code"], refused["retry_after_s"]) == ("r2", "drained", 30)
        await peer.until("delta")  # it still runs
        impatient = await asyncio.to_thread(run, tmp_path, "drain", "--wait", "0.1")
        assert impatient.returncode == 1
        assert "stays drained" in impatient.stderr
        await peer.send(type="cancel", id="r1")
        patient = await asyncio.to_thread(run, tmp_path, "drain", "--wait", "30", "--json")
        assert json.loads(patient.stdout) == {"drained": True, "running": 0, "waiting": 0}
        back = await asyncio.to_thread(run, tmp_path, "undrain")
        assert (back.returncode, back.stdout) == (0, "requests are taken again\n")
        assert (await get(session, f"{served.url}/readyz"))[0] == 200
        await other.chat("r3", "fine", params={"max_tokens": 1})
        assert (await other.answer("r3"))[0] == "fine "
    served.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(served.end) == 0
    events = [entry["event"] for entry in served.log if "by the operator" in entry["event"]]
    assert events == ["drained by the operator", "undrained by the operator"]


async def test_a_drained_daemon_stops_as_any_other(tmp_path: Path, served: Served) -> None:
    assert run(tmp_path, "drain").returncode == 0
    served.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(served.end) == 0


@pytest.mark.parametrize("arguments", [["drain"], ["drain", "--wait", "1"], ["undrain"]])
def test_where_no_daemon_runs_it_says_so(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no daemon answers on" in done.stderr
    assert "start it with: appliance serve" in done.stderr
    assert "server.control_socket" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# A service's runtime directory that this account may not enter; nothing of it is seen outside of the namespace.
BESIDE_A_SERVICE = """
mount -t tmpfs none /run && mkdir -m 0 /run/appliance &&
exec setpriv --bounding-set=-dac_override,-dac_read_search "$@"
"""


@pytest.mark.parametrize("name", ["drain", "reload"])
def test_beside_a_service_an_account_without_rights_is_told_to_use_sudo(tmp_path: Path, name: str) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces can be made here")
    done = subprocess.run(
        [*namespace, "sh", "-c", BESIDE_A_SERVICE, "sh", sys.executable, "-m", "appliance", name],
        env=environment(tmp_path), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = "appliance: the service's socket is in /run/appliance, which only root may enter: run it with sudo\n"
    assert (done.returncode, done.stderr) == (1, said)
