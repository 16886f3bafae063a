"""The daemon under systemd on a real host: what systemctl says, what is restarted by whom, what clients see of it."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.conftest import WHEELS, on_both
from tests.support.daemon import Peer
from tests.support.hosts import Host, Lab
from tests.support.hosts.machine import wait_until
from tests.support.units import add_optional, drop_in, install_units

WAIT_S = 60.0
PORT = 8080
CLIENTS = 8
FILE = "/etc/appliance/appliance.toml"
SETTINGS = """
[engine]
pipeline = "fake"
stall_timeout_s = 2
canary_interval_s = 1

[limits]
max_tokens = 4000
"""
APPLIANCE = "/opt/appliance/current/bin/appliance"
WATCHDOG = "[Service]\nWatchdogSec=4s\n"


@pytest.fixture(scope="module")
def made(lab: Lab, installed: Path, wheels: Path) -> Iterator[Host]:
    host = lab.host("daemon", over=[installed], shared={wheels: WHEELS}).start()
    install_units(host)
    add_optional(host, "appliance.socket.d/lan.conf")
    drop_in(host, "appliance.service", WATCHDOG)
    host.put(SETTINGS, FILE)
    host.run("systemctl enable appliance.socket appliance.service")
    yield host
    lab.remove(host)


@pytest.fixture
def host(made: Host) -> Host:
    """Its service runs, with the socket unit and the first settings, started anew."""
    made.put(SETTINGS, FILE)
    made.run("systemctl stop appliance.socket appliance.service; systemctl reset-failed 'appliance*'", check=False)
    started = made.run("systemctl start appliance.socket appliance.service", check=False)
    assert started.returncode == 0, made.ask("journalctl -u 'appliance*' --no-pager --lines=40")
    return made


def show(host: Host, name: str) -> str:
    return host.ask(f"systemctl show appliance.service --property={name} --value")


def wait_status(host: Host, *words: str) -> str:
    """The status line once it has all of `words`."""
    found = [""]

    def has() -> bool:
        found[0] = show(host, "StatusText")
        return all(word in found[0] for word in words)

    wait_until(has, WAIT_S, lambda: f"the status is {found[0]!r}")
    return found[0]


def wait(host: Host, holds: Callable[[], bool]) -> None:
    wait_until(holds, WAIT_S, lambda: host.ask("journalctl -u appliance.service --no-pager --lines=30"))


def gone(host: Host, pid: int) -> bool:
    return host.run(f"kill -0 {pid}", check=False).returncode != 0


def worker(host: Host) -> int:
    return int(host.ask(["pgrep", "-f", "appliance.engine.worker"]))


def url(host: Host) -> str:
    return f"http://{host.address}:{PORT}"


async def connect(session: aiohttp.ClientSession, host: Host) -> Peer:
    peer = Peer(await session.ws_connect(f"{url(host)}/v1/ws"))
    await peer.until("hello")
    return peer


async def answers(host: Host) -> bool:
    async with aiohttp.ClientSession() as session:
        peer = await connect(session, host)
        await peer.chat("r1", "fine", params={"max_tokens": 1})
        return (await peer.answer("r1"))[0] == "fine "


def restarts(host: Host) -> int:
    return int(show(host, "NRestarts"))


@on_both
async def test_start_returns_when_it_is_ready_and_the_status_says_how_it_is(host: Host) -> None:
    assert show(host, "StatusText").startswith("ready · fake · 0 running, 0 waiting · ")
    assert show(host, "SubState") == "running"
    assert host.run("curl -fs http://127.0.0.1:8080/readyz", check=False).stdout == '{"ready":true}'
    async with aiohttp.ClientSession() as session:
        peer = await connect(session, host)
        await peer.chat("r1", "again and again fake:step-ms=20", params={"max_tokens": 4000})
        await peer.until("delta")
        await asyncio.to_thread(wait_status, host, "ready", "1 running, 0 waiting", "tok/s", "GB")
    await asyncio.to_thread(wait_status, host, "0 running", "TTFT p95")
    host.run("systemctl stop appliance.socket appliance.service")
    assert (show(host, "Result"), show(host, "ExecMainStatus")) == ("success", "0")


async def test_a_killed_worker_is_the_supervisors_business(host: Host) -> None:
    before = worker(host)
    host.run(f"kill -KILL {before}")
    wait(host, lambda: gone(host, before))
    wait_status(host, "ready")
    assert await answers(host)
    assert restarts(host) == 0


async def test_a_stopped_worker_is_the_supervisors_business(host: Host) -> None:
    before = worker(host)
    host.run(f"kill -STOP {before}")
    wait(host, lambda: gone(host, before))
    wait_status(host, "ready")
    assert await answers(host)
    assert restarts(host) == 0


@on_both
@pytest.mark.parametrize(("number", "result"), [(signal.SIGKILL, "signal"), (signal.SIGSTOP, "watchdog")])
async def test_a_killed_or_stopped_daemon_is_systemds_business(host: Host, number: signal.Signals, result: str) -> None:
    daemon, left = int(show(host, "MainPID")), worker(host)
    host.run(f"kill -{int(number)} {daemon}")
    wait(host, lambda: restarts(host) == 1)
    assert f"Failed with result '{result}'" in host.ask("journalctl -u appliance.service --no-pager --quiet")
    assert await answers(host)  # whoever connects meanwhile waits
    wait_status(host, "ready")
    assert gone(host, left)


@on_both
def test_reload_takes_up_what_can_change_and_refuses_what_is_wrong(host: Host) -> None:
    daemon = show(host, "MainPID")
    host.put(SETTINGS.replace("4000", "77").replace('"fake"', '"fake"\nthreads = 2'), FILE)
    host.run("systemctl reload appliance.service")
    assert '"max_tokens":77' in hello(host)
    assert "needs a restart: engine.threads" in host.ask("journalctl -u appliance.service --no-pager --quiet")
    host.put(SETTINGS.replace("max_tokens", "max_tokenz"), FILE)
    refused = host.run("systemctl reload appliance.service", check=False)
    assert refused.returncode != 0
    assert "did you mean max_tokens?" in host.ask("journalctl -u appliance.service --no-pager --quiet")
    wait_status(host, "ready")
    assert (show(host, "ActiveState"), show(host, "MainPID")) == ("active", daemon)
    assert '"max_tokens":77' in hello(host)
    host.put(SETTINGS.replace("4000", "78"), FILE)
    host.run("systemctl kill --kill-who=main --signal=HUP appliance.service")
    wait(host, lambda: '"max_tokens":78' in hello(host))
    assert show(host, "ActiveState") == "active"


def hello(host: Host) -> str:
    async def first() -> str:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url(host)}/v1/ws") as ws:
            return str(await ws.receive_str())

    return asyncio.run(first())


async def test_a_restart_under_streaming_clients_refuses_nobody(host: Host) -> None:
    async with aiohttp.ClientSession() as session:
        peers = [await connect(session, host) for _ in range(CLIENTS)]
        for peer in peers:
            await peer.chat("r1", "again and again fake:step-ms=10", params={"max_tokens": 300})
            await peer.until("delta")
        restart = asyncio.create_task(asyncio.to_thread(host.run, "systemctl restart appliance.service"))
        for peer in peers:
            await peer.until("going_away")
        waiting = [asyncio.create_task(connect(session, host)) for _ in range(CLIENTS)]
        for peer in peers:
            done = (await peer.until("done", "error", request_id="r1"))[-1]
            assert done["usage"]["completion_tokens"] == 300
        for peer in await asyncio.gather(*waiting):
            await peer.chat("r1", "fine", params={"max_tokens": 1})
            assert (await peer.answer("r1"))[0] == "fine "
        await restart
    assert show(host, "SubState") == "running"


async def test_whoever_connects_to_a_stopped_service_starts_it(host: Host) -> None:
    host.run("systemctl stop appliance.service")
    assert await answers(host)
    wait_status(host, "ready")


async def test_it_works_without_the_socket_unit(host: Host) -> None:
    host.put(SETTINGS + f'\n[server]\nhost = "0.0.0.0"\nport = {PORT}\n', FILE)
    host.run("systemctl stop appliance.socket && systemctl restart appliance.service")
    host.run("systemctl stop appliance.socket", check=False)
    assert await answers(host)


@on_both
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("[server]\nprot = 1\n", "did you mean port?"),
        ('[models]\npreferred = ["none-such"]\n', "run: appliance models pull none-such"),
    ],
)
def test_bad_settings_end_it_with_78_and_it_stays_ended(host: Host, settings: str, words: str) -> None:
    host.run("systemctl stop appliance.socket appliance.service")
    host.put(settings, FILE)
    assert host.run("systemctl start appliance.service", check=False).returncode != 0
    assert (show(host, "SubState"), show(host, "ExecMainStatus")) == ("failed", "78")
    assert (show(host, "StatusErrno"), restarts(host)) == ("22", 0)
    assert words in show(host, "StatusText")


def test_an_operator_drains_and_undrains_it(host: Host) -> None:
    assert host.ask(f"{APPLIANCE} drain --wait 10") == "drained; nothing runs"
    wait_status(host, "drained by the operator")
    assert host.run("curl -fs http://127.0.0.1:8080/readyz", check=False).returncode != 0
    assert host.ask(f"{APPLIANCE} undrain") == "requests are taken again"
    wait_status(host, "ready")
    host.run("systemctl stop appliance.socket appliance.service")
    refused = host.run(f"{APPLIANCE} drain", check=False)
    assert refused.returncode == 1
    assert "no daemon answers on" in refused.stderr
