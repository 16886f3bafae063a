"""What a host does to the service: its disk is full, its clock jumps. The fake engine, under the very units."""

import asyncio
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
import pytest

from appliance.models.bundle.writing import write_bundle
from appliance.models.fake import install_fake
from appliance.models.progress import Silent
from appliance.models.store import Store
from appliance.observability.events import Event
from tests.deploy.conftest import WHEELS, NewHost
from tests.support.daemon import Peer
from tests.support.hosts import Host, Lab
from tests.support.hosts.machine import wait_until
from tests.support.units import add_optional, drop_in, install_units

APPLIANCE = "/opt/appliance/current/bin/appliance"
SETTINGS = "/etc/appliance/appliance.toml"
STATE = "/var/lib/appliance"
FAKE = '[engine]\npipeline = "fake"\n'
WAIT_S = 60.0
PORT = 8080

# The clock of daemon and worker is the host's and what this file says; what counts from a start goes on by itself.
OFFSET = "/etc/appliance/clock-offset"
FAKETIME = """
[Service]
WatchdogSec=8s
Environment=LD_PRELOAD=/usr/local/lib/real-sleep.so:{library}
Environment=FAKETIME_TIMESTAMP_FILE=/etc/appliance/clock-offset
Environment=FAKETIME_DONT_FAKE_MONOTONIC=1
Environment=FAKETIME_CACHE_DURATION=1
"""
# libfaketime 0.9.10 takes a time of the monotonic clock to sleep until for one of the clock that it shifts.
REAL_SLEEP = """
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
  return syscall(SYS_clock_nanosleep, clock, flags, until, left) == 0 ? 0 : errno;
}
"""
ONE_AT_A_TIME = """
[engine]
pipeline = "fake"
max_running_requests = 1
stall_timeout_s = 10
canary_interval_s = 1
"""
JUMPS_S = {"an hour on": 3600, "an hour back": -3600, "a day on": 86_400, "a day back": -86_400}
NEAR_S = 900


def shown(host: Host, name: str) -> str:
    return host.ask(f"systemctl show --value -p {name} appliance.service")


def journal(host: Host, *matches: str) -> list[dict[str, str]]:
    lines = host.ask(["journalctl", "--quiet", "-u", "appliance.service", "-o", "json", *matches])
    return [json.loads(line) for line in lines.splitlines()]


def told(host: Host, event: Event) -> list[dict[str, str]]:
    return journal(host, f"MESSAGE_ID={event.message_id}")


def wait_told(host: Host, event: Event) -> dict[str, str]:
    """The newest entry of that event, once there is one."""
    wait_until(lambda: bool(told(host, event)), WAIT_S, lambda: f"no {event}: {host.ask('journalctl -u appliance')}")
    return told(host, event)[-1]


# ---- a full disk -----------------------------------------------------------------------------------------


def appliance(host: Host, command: str) -> tuple[int, str]:
    """Exit status, and what it said on stderr."""
    done = host.run(f"{APPLIANCE} {command} --config {SETTINGS}", check=False)
    return done.returncode, done.stderr


def put_store(host: Host, directory: Path) -> None:
    """Models `old` and `new`, of which `new` is used; and a bundle of a third."""
    store = Store(directory / "models")
    for name in ("old", "new"):
        install_fake(store, name)
    packed = directory / "models.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(store.directory, "models")
    host.put(packed, "/root/models.tar")
    host.run(f"tar -xf /root/models.tar -C {STATE} && chown -R appliance: {STATE}")
    third = install_fake(Store(directory / "elsewhere"), "third", os.urandom(1 << 20))
    write_bundle(third, directory / "third.tar", Silent())
    host.put(directory / "third.tar", "/root/third.tar")
    for name in ("old", "new"):
        assert appliance(host, f"models use {name} --no-canary") == (0, "")


def test_a_full_disk_is_told_costs_nothing_that_was_kept_and_ends_with_room(
    new_appliance: NewHost, tmp_path: Path
) -> None:
    host = new_appliance()
    host.put(FAKE + '[models]\npreferred = ["new", "old"]\n', SETTINGS)
    host.run(f"mount -t tmpfs -o size=80M,mode=750,uid=appliance,gid=appliance tmpfs {STATE}")
    put_store(host, tmp_path)
    weights = host.ask(f"ls {STATE}/models/new/*/openvino_model.bin")
    host.run(f"printf x | dd of={weights} conv=notrunc status=none")
    host.run(f"cat /dev/zero >{STATE}/filler", check=False)
    files = f"cd {STATE} && find . -type f ! -name filler -exec sha256sum {{}} + | sort"
    before = host.ask(files)
    assert host.ask(f"df --output=avail {STATE}").split()[-1] == "0"

    # It starts, on the model that is whole; that the other is damaged it can't keep, and says so.
    host.run("systemctl start appliance.service")
    assert "ready · old" in shown(host, "StatusText")
    entry = wait_told(host, Event.DISK_FULL)
    assert "No space left on device" in entry["REASON"]
    assert told(host, Event.MODEL_FALLBACK)
    assert told(host, Event.MODEL_MARKED_BAD) == []
    answer = f"{APPLIANCE} chat --max-tokens 2 'yes indeed'"
    assert host.ask(answer) == "yes indeed"

    # Whoever wants to keep something hears why not, in one line; and it goes on.
    refused = {
        "models use old": (78, "can't be written: No space left on device; make room there"),
        "models install /root/third.tar": (1, "disk full: "),
    }
    for command, (status, words) in refused.items():
        done = appliance(host, command)
        assert done[0] == status, done
        assert words in done[1]
        assert f"{STATE}/models" in done[1]
    found = json.loads(host.run(f"{APPLIANCE} doctor --json", check=False).stdout)
    disk = next(finding for finding in found["findings"] if finding["check"] == "disk")
    assert disk["status"] == "red"
    assert host.ask(answer) == "yes indeed"
    assert host.ask(files) == before
    assert shown(host, "NRestarts") == "0"

    # With room it is as it would have been.
    host.run(f"rm {STATE}/filler")
    host.run("systemctl restart appliance.service")
    assert wait_told(host, Event.MODEL_MARKED_BAD)["MODEL"].startswith("new@")
    marked = json.loads(host.get(f"{STATE}/models/slots.json"))["bad"]
    assert [mark["slot"]["id"] for mark in marked] == ["new"]
    assert appliance(host, "models install /root/third.tar")[0] == 0
    assert appliance(host, "models use third")[0] == 0
    assert host.ask(answer) == "yes indeed"
    wait_until(lambda: "ready · third" in shown(host, "StatusText"), WAIT_S, lambda: shown(host, "StatusText"))


# ---- a clock that jumps ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clock(lab: Lab, installed: Path, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host whose service has a clock of its own, for `set_clock`."""
    library = tmp_path_factory.mktemp("clock") / "real-sleep.so"
    compiler = ["gcc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"]
    subprocess.run(compiler, input=REAL_SLEEP, text=True, check=True, timeout=60)
    host = lab.host("clock", over=[installed], shared={wheels: WHEELS}).start()
    install_units(host)
    add_optional(host, "appliance.socket.d/lan.conf")
    host.put(ONE_AT_A_TIME, SETTINGS)
    host.put("+0\n", OFFSET)
    host.put(library, "/usr/local/lib/real-sleep.so")
    drop_in(host, "appliance.service", FAKETIME.format(library=host.ask("ls /usr/lib/*/faketime/libfaketimeMT.so.1")))
    host.run("systemctl start appliance.socket appliance.service")
    yield host
    lab.remove(host)


def off_by_s(host: Host) -> float:
    """How far the daemon's clock is from this machine's."""
    (date,) = [line for line in host.ask(f"curl -sD- http://127.0.0.1:{PORT}/healthz").splitlines() if "Date:" in line]
    return (parsedate_to_datetime(date.partition(":")[2].strip()) - datetime.now(UTC)).total_seconds()


def set_clock(host: Host, offset_s: int) -> None:
    """Have it jump to that far from this machine's; returns when the daemon has seen it."""
    host.put(f"{offset_s:+d}\n", f"{OFFSET}.new")
    host.run(f"mv {OFFSET}.new {OFFSET}")
    wait_until(lambda: abs(off_by_s(host) - offset_s) < NEAR_S, WAIT_S, lambda: f"it is off by {off_by_s(host)} s")


def wait_petted(host: Host, times: int) -> None:
    """Until systemd has been told so often that the daemon is well."""
    seen = {shown(host, "WatchdogTimestampMonotonic")}

    def often() -> bool:
        seen.add(shown(host, "WatchdogTimestampMonotonic"))
        return len(seen) > times

    wait_until(often, WAIT_S, lambda: f"petted {len(seen) - 1} times: {host.ask('journalctl -u appliance')}")


async def wait_canary(session: aiohttp.ClientSession, url: str) -> None:
    """Until the idle engine has been asked for a token once more, and has answered."""

    async def answered() -> int:
        async with session.get(f"{url}/metrics") as response:
            lines = (await response.text()).splitlines()
        return int(float(next(line.split()[1] for line in lines if line.startswith("appliance_canary_seconds_count"))))

    before = await answered()
    async with asyncio.timeout(WAIT_S):
        while await answered() == before:
            await asyncio.sleep(0.1)


async def connect(session: aiohttp.ClientSession, url: str) -> Peer:
    peer = Peer(await session.ws_connect(f"{url}/v1/ws"))
    peer.hello = (await peer.until("hello"))[-1]
    return peer


@pytest.mark.parametrize("jump_s", list(JUMPS_S.values()), ids=list(JUMPS_S))
async def test_a_jump_of_the_clock_ends_no_request_and_holds_none_up(clock: Host, jump_s: int) -> None:
    await asyncio.to_thread(set_clock, clock, 0)
    processes = clock.ask("pgrep -u appliance").split()
    assert len(processes) == 2
    url = f"http://{clock.address}:{PORT}"
    async with aiohttp.ClientSession() as session:
        runs, lost, waits = [await connect(session, url) for _ in range(3)]
        await runs.chat("runs", "again and again fake:step-ms=20", params={"max_tokens": 4000}, deadline_s=600)
        await runs.until("delta")
        await lost.chat("lost", "and again", params={"max_tokens": 2}, deadline_s=600, resumable=True)
        await lost.until("queued")
        lost.cut()
        await waits.chat("waits", "fine", params={"max_tokens": 1}, deadline_s=600)
        await waits.chat("late", "never", deadline_s=3)
        await waits.until("queued", request_id="late")
        await asyncio.to_thread(set_clock, clock, jump_s)

        await runs.send(type="ping", data="after the jump")
        await runs.until("pong")
        await runs.until("delta", request_id="runs")
        assert (await waits.answer("late"))[1]["code"] == "deadline_exceeded"
        back = await connect(session, url)
        await back.send(type="resume", session=lost.hello["session"], id="lost", offset=0)
        await runs.send(type="cancel", id="runs")
        assert (await runs.until("done", "error", request_id="runs"))[-1]["finish_reason"] == "cancelled"
        assert (await back.answer("lost"))[0] == "and again "
        assert (await waits.until("done", "error", request_id="waits"))[-1]["finish_reason"] == "length"
        await wait_canary(session, url)
    await asyncio.to_thread(wait_petted, clock, 2)
    assert clock.ask("pgrep -u appliance").split() == processes
    assert shown(clock, "NRestarts") == "0"
    assert [*told(clock, Event.WORKER_LOST), *told(clock, Event.WORKER_RECYCLED)] == []
    held_up = [entry["REASON"] for entry in told(clock, Event.WATCHDOG_LATE)]
    assert [reason for reason in held_up if "the event loop is" not in reason] == []  # that may be this machine's load
