"""TLS as an operator has it: files, the daemon as a process, commands that ask it, a renewal."""

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from appliance.client import Message, connect
from tests.integration.test_activation import listening
from tests.support.certificates import Site, break_files
from tests.support.process import Served, environment, serving


@pytest.fixture
def site(tmp_path: Path) -> Site:
    directory = tmp_path / "tls"
    directory.mkdir()
    made = Site(directory)
    made.issue()
    return made


@pytest.fixture
def config(tmp_path: Path, site: Site) -> Path:
    """Settings with a certificate."""
    file = tmp_path / "appliance.toml"
    write(file, site)
    return file


def write(file: Path, site: Site, *more: str) -> None:
    lines = [
        f'tls_certificate_file = "{site.directory}/server.pem"',
        f'tls_key_file = "{site.directory}/server-key.pem"',
    ]
    file.write_text("\n".join(["[engine]", 'pipeline = "fake"', "[server]", *lines, *more]) + "\n")


def serve(home: Path, config: Path, **options: Any) -> AbstractContextManager[Served]:
    return serving(home, "--config", str(config), **options)


@pytest.fixture
def served(tmp_path: Path, config: Path) -> Iterator[Served]:
    with serve(tmp_path, config) as started:
        started.worker_pid()
        yield started


def appliance(
    home: Path, *arguments: str | Path, variables: dict[str, str] | None = None, **settings: object
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "appliance", *map(str, arguments)]
    return subprocess.run(
        command, env=environment(home, **settings) | (variables or {}), cwd=home, capture_output=True, text=True,
        timeout=90, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def port_of(served: Served) -> int:
    return int(served.url.rpartition(":")[2])


def presented(served: Served) -> str:
    """What a new connection gets."""
    return ssl.get_server_certificate(("127.0.0.1", port_of(served)), timeout=10)


def trusting(site: Site) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=site.ca)


# ---- asking it ---------------------------------------------------------------------------------------------


def test_chat_asks_it_by_the_systems_trust_and_says_what_is_wrong_with_it(
    tmp_path: Path, served: Served, site: Site
) -> None:
    assert served.url.startswith("https://127.0.0.1:")
    done = appliance(tmp_path, "chat", "hello", "--url", served.url, variables={"SSL_CERT_FILE": str(site.ca)})
    assert (done.returncode, bool(done.stdout.strip())) == (0, True), done.stderr
    done = appliance(tmp_path, "chat", "hello", "--url", served.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "SSL_CERT_FILE" in done.stderr
    wrong = appliance(tmp_path, "chat", "hello", "--url", served.url, variables={"SSL_CERT_FILE": "/nowhere"})
    assert "SSL_CERT_FILE names /nowhere, which can't be read" in wrong.stderr
    assert "Start it with" not in done.stderr
    done = appliance(tmp_path, "chat", "hello", "--url", served.url.replace("https", "http"))
    assert "where it speaks TLS, ask by https://" in done.stderr


def test_commands_on_its_own_host_find_it(tmp_path: Path, served: Served, site: Site, config: Path) -> None:
    write(config, site, f"port = {port_of(served)}")
    site.issue(names=["chat.example.lan"])  # with another name, and by a CA that this host does not know
    assert appliance(tmp_path, "reload", "--config", config).returncode == 0
    asked: Sequence[Sequence[str]] = (
        ["chat", "hello"],
        ["bench", "--self"],
        ["bench", "--requests", "1", "--concurrency", "1", "--output-tokens", "4"],
    )
    for command in asked:
        done = appliance(tmp_path, *command, "--config", config)
        assert done.returncode == 0, (command, done.stderr)
    found = findings(tmp_path, config)
    assert (found["daemon"]["status"], found["tls"]["status"]) == ("green", "green"), found
    assert found["tls"]["facts"]["left_days"] == pytest.approx(90, abs=0.1)
    assert appliance(tmp_path, "support-bundle", "out.tar.gz", "--config", config).returncode == 0
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        names = {name.partition("/")[2]: name for name in tar.getnames()}
        metrics = tar.extractfile(names["metrics.txt"])
        settings = tar.extractfile(names["settings.json"])
        assert metrics is not None
        assert settings is not None
        assert b"appliance_tls_certificate_expiry_timestamp_seconds 1" in metrics.read()
        assert json.load(settings)["settings"]["server"]["tls_key_file"] == str(site.directory / "server-key.pem")


def findings(home: Path, config: Path) -> dict[str, dict[str, Any]]:
    done = appliance(home, "doctor", "--json", "--config", config)
    assert done.stderr == ""
    return {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}


async def test_sockets_from_systemd_speak_it_too(tmp_path: Path, config: Path, site: Site) -> None:
    with listening() as listener, serve(tmp_path, config, sockets=[listener]) as served:
        await asyncio.to_thread(served.worker_pid)
        assert served.url == f"https://127.0.0.1:{listener.getsockname()[1]}"
        async with connect(served.url, tls=trusting(site)) as client, client.stream([Message("user", "hi")]) as answer:
            async for _ in answer:
                pass
        assert answer.done.usage.completion_tokens > 0


async def test_a_restart_under_clients_that_stream_refuses_nobody(tmp_path: Path, config: Path, site: Site) -> None:
    """Who connects meanwhile waits before the handshake, for the next daemon."""
    with listening() as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"

        async def one(question: str, begun: asyncio.Event) -> int:
            async with connect(url, tls=trusting(site), connect_timeout_s=30) as client:
                async with client.stream([Message("user", question)], max_tokens=100) as answer:
                    async for _ in answer:
                        begun.set()
                return answer.done.usage.completion_tokens

        with serve(tmp_path, config, sockets=[listener]) as first:
            await asyncio.to_thread(first.worker_pid)
            all_begun = [asyncio.Event() for _ in range(8)]
            before = [asyncio.create_task(one("fine fake:step-ms=10", begun)) for begun in all_begun]
            await asyncio.gather(*(begun.wait() for begun in all_begun))
            first.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(first.wait_for, "draining")
            after = [asyncio.create_task(one("fine", asyncio.Event())) for _ in range(8)]
            assert await asyncio.gather(*before) == [100] * 8
            assert await asyncio.to_thread(first.end) == 0
        with serve(tmp_path, config, sockets=[listener]):
            assert await asyncio.gather(*after) == [100] * 8


async def test_a_drain_with_open_sockets_and_handshakes_ends_in_time(
    tmp_path: Path, served: Served, site: Site
) -> None:
    place = ("127.0.0.1", port_of(served))
    with socket.create_connection(place), socket.create_connection(place) as begun:
        begun.sendall(b"\x16\x03\x01")
        async with connect(served.url, tls=trusting(site)) as client:
            question = [Message("user", "hello fake:step-ms=20")]
            async with client.stream(question, max_tokens=50) as answer:
                async for _ in answer:
                    served.process.send_signal(signal.SIGTERM)
                    break
                async for _ in answer:
                    pass
            assert answer.done.usage.completion_tokens == 50
            assert client.going_away is not None
            assert await asyncio.to_thread(served.end) == 0
    assert served.plain == []


# ---- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["no certificate", "another key"])
def test_files_that_are_of_no_use_end_with_78_and_one_line(tmp_path: Path, config: Path, site: Site, how: str) -> None:
    named = break_files(site, how)
    for command in (["serve"], ["config", "check"]):
        done = appliance(tmp_path, *command, "--config", config)
        assert (done.returncode, done.stdout) == (78, ""), done
        (line,) = done.stderr.splitlines()
        assert str(named) in line


def test_one_without_the_other_is_wrong(tmp_path: Path, site: Site) -> None:
    done = appliance(tmp_path, "config", "check", server__tls_key_file=site.directory / "server-key.pem")
    assert done.returncode == 78
    assert "server.tls_key_file (environment APPLIANCE__SERVER__TLS_KEY_FILE) is set and " in done.stderr
    assert "server.tls_certificate_file is not" in done.stderr


def test_an_expired_certificate_is_served_with_a_warning(tmp_path: Path, config: Path, site: Site) -> None:
    site.issue(from_days=-10, days=-1)
    done = appliance(tmp_path, "config", "check", "--config", config)
    assert (done.returncode, "warning: clients will refuse the certificate" in done.stderr) == (0, True)
    with serve(tmp_path, config) as served:
        assert "expired on" in served.wait_for("clients will refuse the certificate")["reason"]
        assert presented(served)
        write(config, site, f"port = {port_of(served)}")
        finding = findings(tmp_path, config)["tls"]
    assert finding["status"] == "red"
    assert finding["remedy"].endswith("systemctl reload appliance")


# ---- renewal -----------------------------------------------------------------------------------------------


def test_a_reload_takes_the_renewed_certificate_up(tmp_path: Path, served: Served, config: Path, site: Site) -> None:
    assert appliance(tmp_path, "reload").stdout == "nothing has changed\n"
    before = presented(served)
    site.issue(days=200)
    assert presented(served) == before
    write(config, site, f"port = {port_of(served)}")
    finding = findings(tmp_path, config)["tls"]
    assert (finding["status"], finding["remedy"]) == ("yellow", "systemctl reload appliance")
    write(config, site)
    done = appliance(tmp_path, "reload")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("new connections get the renewed certificate, valid until ")
    until = datetime.fromisoformat(line.rpartition(" ")[2])
    assert (until - datetime.now(UTC)).days in (199, 200)
    assert presented(served) != before
    assert served.wait_for("settings reloaded")["certificate_until"] is None
    assert served.wait_for("settings reloaded")["certificate_until"] == until.isoformat()


@pytest.mark.parametrize("how", ["another key", "no key", "passphrase"])
def test_a_bad_pair_is_refused_and_the_old_one_stays(
    tmp_path: Path, served: Served, config: Path, site: Site, how: str
) -> None:
    before = presented(served)
    site.issue(days=200)
    break_files(site, how)
    write(config, site, "[limits]", "max_tokens = 7")
    done = appliance(tmp_path, "reload")
    assert (done.returncode, done.stdout) == (78, "")
    assert "server-key.pem" in done.stderr
    assert "server-key.pem" in served.wait_for("settings not reloaded, the old ones stay")["reason"]
    assert presented(served) == before
    finding = findings(tmp_path, config)["tls"]
    assert finding["status"] == "red", finding


def test_to_and_from_tls_or_to_other_files_wants_a_restart(
    tmp_path: Path, served: Served, config: Path, site: Site
) -> None:
    before = presented(served)
    config.write_text(f'[engine]\npipeline = "fake"\n[server]\nport = {port_of(served)}\n')
    for name in ("server.pem", "server-key.pem"):
        (site.directory / name).unlink()
    done = appliance(tmp_path, "reload")
    assert "needs a restart: server.tls_certificate_file, server.tls_key_file" in done.stdout, done
    assert presented(served) == before
    finding = findings(tmp_path, config)["tls"]
    assert (finding["status"], finding["remedy"]) == ("yellow", "systemctl restart appliance")


def test_a_daemon_that_is_older_than_the_settings_is_told(tmp_path: Path, site: Site) -> None:
    with serving(tmp_path, "--pipeline", "fake") as served:
        served.worker_pid()
        config = tmp_path / "later.toml"
        write(config, site, f"port = {port_of(served)}")
        found = findings(tmp_path, config)
    assert found["daemon"]["status"] == "green"
    assert (found["tls"]["status"], found["tls"]["remedy"]) == ("yellow", "systemctl restart appliance")
