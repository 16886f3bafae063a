"""What a service manager hears of a real daemon: ready, status, watchdog, end."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from appliance.api.status_line import status_line
from appliance.cli.serve import FAKE_MODEL
from tests.support.daemon import connect, running, settings
from tests.support.notify import Manager, Told
from tests.support.process import Served, environment, serving

ENDLESS = "again and again fake:step-ms=5"


@pytest.fixture
def served(tmp_path: Path, manager: Manager) -> Iterator[Served]:
    with serving(tmp_path, "--pipeline", "fake") as started:
        yield started


def ready(told: Told) -> bool:
    return told.get("READY") == "1"


def test_ready_comes_once_after_the_warm_up_and_stopping_before_the_end(served: Served, manager: Manager) -> None:
    told = manager.wait_for(ready)
    assert told["STATUS"].startswith("ready · fake · 0 running, 0 waiting · 0 tok/s · ")
    before = manager.told[:-1]
    assert before[0]["STATUS"] == "reading the model"
    assert all("STATUS" in told or "EXTEND_TIMEOUT_USEC" in told for told in before)
    served.wait_for("engine ready")
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == 0
    rest = manager.drain()
    assert next(told for told in rest if "STOPPING" in told)["EXTEND_TIMEOUT_USEC"] == "35000000"
    assert not [told for told in rest if "READY" in told]


async def test_the_status_tells_of_requests_and_figures(served: Served, manager: Manager) -> None:
    url = served.url
    await asyncio.to_thread(manager.wait_for, ready)
    async with aiohttp.ClientSession() as session:
        peer = await connect(session, url)
        await peer.chat("r1", ENDLESS, params={"max_tokens": 4000})
        await asyncio.to_thread(manager.status, "ready", "1 running, 0 waiting")
        await peer.send(type="cancel", id="r1")
        await peer.until("done")
    status = await asyncio.to_thread(manager.status, "0 running", "TTFT p95")
    assert status.endswith(" GB")


async def test_the_status_names_the_models_weights_in_a_word() -> None:
    made_of = "int4-asym-g64 of Q5_0, Q8_0: INT4 asymmetric group 64 (358 M weights), INT8 asymmetric per channel"
    model = msgspec.structs.replace(FAKE_MODEL, id="qwen2.5-0.5b-instruct", quantization=made_of)
    async with running(settings(), model) as appliance:
        await appliance.ready()
        line = status_line(appliance.daemon, 930_000_000)
        assert line.startswith("ready · qwen2.5-0.5b-instruct int4 · 0 running, 0 waiting · 0 tok/s · ")
        assert await appliance.get("/readyz") == (200, {"ready": True})
        appliance.daemon.dispatcher.drained = True
        assert status_line(appliance.daemon, 0).startswith("drained by the operator · qwen2.5-0.5b-instruct int4 · ")


def test_a_lost_worker_is_told_and_ready_is_not_told_again(served: Served, manager: Manager) -> None:
    manager.wait_for(ready)
    os.kill(served.worker_pid(), signal.SIGKILL)
    served.wait_for("engine ready")
    manager.drain()
    served.process.send_signal(signal.SIGTERM)
    served.end()
    manager.drain()
    assert len([told for told in manager.told if ready(told)]) == 1


def test_an_engine_that_keeps_failing_is_told_with_the_next_try(tmp_path: Path, manager: Manager) -> None:
    with serving(tmp_path, "--pipeline", "fake", engine__failures_max=1) as served:
        manager.wait_for(ready)
        os.kill(served.worker_pid(), signal.SIGKILL)
        assert "SIGKILL" in manager.status("the engine keeps failing, tried again in ")


def test_the_worker_does_not_speak_for_the_daemon(served: Served, manager: Manager) -> None:
    worker = served.worker_pid()
    variables = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    assert not [v for v in variables if v.startswith((b"NOTIFY", b"WATCHDOG", b"LISTEN"))]
    assert [v for v in variables if v.startswith(b"HOME=")]


def test_bad_settings_are_told_with_78(tmp_path: Path, manager: Manager) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[server]\nprot = 1\n")
    command = [sys.executable, "-m", "appliance", "serve", "--config", str(file)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    told = manager.wait_for(lambda told: "ERRNO" in told)
    assert told["ERRNO"] == str(errno.EINVAL)
    assert "did you mean port?" in told["STATUS"]


def test_settings_that_may_not_be_read_are_told_with_78_and_the_remedy(tmp_path: Path, manager: Manager) -> None:
    file = tmp_path / "appliance.toml"
    file.touch(0o000)
    # Root may read it all the same, unless the right to is taken away.
    before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*before, sys.executable, "-m", "appliance", "serve", "--config", str(file)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"appliance: {file} can't be read by ")
    assert line.endswith(f"Permission denied; as root: chmod 644 {file}")
    assert done.returncode == 78
    told = manager.wait_for(lambda told: "ERRNO" in told)
    assert (told["ERRNO"], told["STATUS"]) == (str(errno.EACCES), line.removeprefix("appliance: "))


def test_a_settings_file_that_is_missing_is_told_with_78(tmp_path: Path, manager: Manager) -> None:
    command = [sys.executable, "-m", "appliance", "serve", "--config", str(tmp_path / "none.toml")]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert f"{tmp_path / 'none.toml'}: no such file" in done.stderr
    assert manager.wait_for(lambda told: "ERRNO" in told)["ERRNO"] == str(errno.ENOENT)


# ---- watchdog ------------------------------------------------------------------------------------------------


def petted(told: Told) -> bool:
    return "WATCHDOG" in told


@pytest.fixture
def watched(tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    with serving(tmp_path, "--pipeline", "fake", engine__stall_timeout_s=1, engine__canary_interval_s=0.5) as started:
        yield started


def test_a_stopped_daemon_pets_nobody_and_one_that_goes_on_does(watched: Served, manager: Manager) -> None:
    manager.wait_for(ready)
    manager.wait_for(petted)
    watched.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, watched.process.pid, os.WSTOPPED)
    manager.drain()
    assert manager.read(3.0) is None
    watched.process.send_signal(signal.SIGCONT)
    manager.wait_for(petted)


def test_a_stopped_worker_is_the_supervisors_business(watched: Served, manager: Manager) -> None:
    manager.wait_for(ready)
    os.kill(watched.worker_pid(), signal.SIGSTOP)
    assert "canary" in watched.wait_for("engine worker lost")["reason"]
    watched.wait_for("engine ready")
    assert not [entry for entry in watched.log if entry["event"] == "watchdog not petted"]
    manager.drain()
    manager.wait_for(petted)
    assert watched.process.poll() is None
