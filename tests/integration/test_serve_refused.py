"""A daemon that can't start, or can't go on: exit status, the reason in one line, and the command that mends it."""

import asyncio
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest

from appliance.models.fake import install_fake
from appliance.models.manifest import OpenVinoVersions, encode_manifest, sealed
from appliance.models.store import Installed, Store
from tests.support.daemon import connect
from tests.support.process import run, serving


def test_a_port_in_use_is_named_with_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(tmp_path, "serve", "--pipeline", "fake", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert "server.port" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_not_here_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "serve", "--pipeline", "fake", "--port", "0", "--host", "192.0.2.1")
    assert done.returncode == 1
    assert "can't listen on 192.0.2.1" in done.stderr
    assert "server.host" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_model_it_says_which_command_to_run(tmp_path: Path) -> None:
    done = run(tmp_path, "serve", "--port", "0")
    assert done.returncode == 78
    assert "appliance models pull --preferred" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[server]\nprot = 1", ["server.prot", "did you mean port", "appliance.toml"]),
        ("[server]\nport = 'x'", ["server.port", "a whole number from 0 to 65535", "appliance.toml"]),
        ("[servers]\n", ["servers", "did you mean server"]),
        ("server = ", ["not valid TOML"]),
    ],
)
def test_bad_settings_end_with_78_and_one_line(tmp_path: Path, toml: str, words: list[str]) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text(toml)
    done = run(tmp_path, "serve", "--config", str(file))
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in words), done.stderr


def test_an_engine_that_never_gets_ready_ends_with_1(tmp_path: Path) -> None:
    settings = {"engine__start_attempts": 1, "engine__load_timeout_s": 0.005}
    done = run(tmp_path, "serve", "--pipeline", "fake", "--port", "0", **settings)
    assert done.returncode == 1
    assert "did not get ready in 1 attempts" in done.stderr
    assert "engine.load_timeout_s" in done.stderr
    assert "Traceback" not in done.stderr


def damage_a_missing_file(model: Installed) -> str:
    (model.directory / "openvino_tokenizer.xml").unlink()
    return "openvino_tokenizer.xml is missing"


def damage_a_byte(model: Installed) -> str:
    file = model.directory / "openvino_model.bin"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    return "openvino_model.bin is damaged: sha256"


def damage_the_manifest(model: Installed) -> str:
    file = model.directory / "manifest.json"
    file.chmod(0o644)
    file.write_text(file.read_text().replace('"context_tokens": 2048', '"context_tokens": 4096'))
    return "manifest.json is damaged"


@pytest.mark.parametrize("damage", [damage_a_missing_file, damage_a_byte, damage_the_manifest])
def test_a_damaged_model_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, damage: Callable[[Installed], str]
) -> None:
    found = damage(install_fake(Store(tmp_path / "models")))
    done = run(tmp_path, "serve", "--port", "0", "--model", "fake", models__directory=tmp_path / "models")
    assert done.returncode == 78
    assert found in done.stderr
    assert "run: appliance models pull --force fake" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_model_of_a_newer_openvino_is_refused_and_of_an_older_one_is_told(tmp_path: Path) -> None:
    model = install_fake(Store(tmp_path / "models"))
    for version, words in (("2099.1.0", ["2099.1", "newer"]), ("2020.1.0", ["warning", "2020.1"])):
        versions = OpenVinoVersions(version, version)
        manifest = sealed(msgspec.structs.replace(model.manifest, openvino=versions, id="other"))
        directory = tmp_path / "models/other" / manifest.directory_name
        shutil.copytree(model.directory, directory)
        (directory / "manifest.json").chmod(0o644)
        (directory / "manifest.json").write_bytes(encode_manifest(manifest))
        settings = {"models__directory": tmp_path / "models", "engine__start_attempts": 1}
        done = run(tmp_path, "serve", "--port", "0", "--model", "other", **settings)
        # The fake's files are no IR, so the one that is let through ends with the engine's words, status 1.
        assert done.returncode == (78 if "newer" in words else 1)
        assert all(word in done.stderr for word in words), done.stderr
        shutil.rmtree(directory)


async def test_a_request_that_waits_when_the_engine_is_given_up_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "models"
    install_fake(Store(broken))  # its files are no IR: the engine never gets ready
    with serving(tmp_path, "--model", "fake", models__directory=broken, engine__start_attempts=2) as served:
        async with aiohttp.ClientSession() as session:
            peer = await connect(session, served.url)
            await peer.chat("r1", "hello")
            messages = await peer.until("error", "done")
            assert (messages[-1]["id"], messages[-1]["code"]) == ("r1", "shutting_down")
        assert await asyncio.to_thread(served.end) == 1


async def test_a_model_that_is_damaged_under_a_running_daemon_ends_it_with_the_command_that_mends_it(
    tmp_path: Path,
) -> None:
    model = install_fake(Store(tmp_path / "models"))  # its files are no IR, so that the worker fails and is replaced
    store = tmp_path / "models"
    with serving(tmp_path, "--model", "fake", models__directory=store, engine__start_attempts=100) as served:
        served.wait_for("engine worker lost")
        damage_a_byte(model)
        assert await asyncio.to_thread(served.end) == 78
    assert any("run: appliance models pull --force fake" in line for line in served.plain), served.plain
