"""`appliance support-bundle` as operators run it, beside a real daemon with the fake engine."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

from appliance.client import Message, connect
from tests.support.process import environment, serving

PLANTED = "pl4nted-s3cret"
SAID = "unmistakable-prompt-of-a-client"


def bundle(home: Path, *arguments: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    variables = environment(home, engine__pipeline="fake", **settings)
    variables |= {"HTTPS_PROXY": f"http://u:{PLANTED}@proxy:3128", "HF_TOKEN": f"hub-{PLANTED}"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "appliance", "support-bundle", *arguments],
        env=variables, cwd=home, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


async def test_an_archive_of_a_running_appliance_has_no_secret_and_no_prompt(tmp_path: Path) -> None:
    with serving(tmp_path, engine__pipeline="fake") as daemon:
        daemon.worker_pid()
        async with connect(daemon.url) as client, client.stream([Message("user", SAID)], max_tokens=8) as answer:
            assert SAID in "".join([text async for text in answer])
        done = bundle(tmp_path, "out.tar.gz", server__port=daemon.url.rpartition(":")[2])
    assert done.returncode == 0, done.stderr
    file = tmp_path / "out.tar.gz"
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as tar:
        tar.extractall(tmp_path / "x", filter="data")
    (directory,) = (tmp_path / "x").iterdir()
    contents = {path.name: path.read_text() for path in directory.rglob("*") if path.is_file()}
    assert [name for name, content in contents.items() if PLANTED in content or SAID in content] == []
    assert json.loads(contents["status.json"])["model"]["id"] == "fake"
    assert "appliance_requests_total" in contents["metrics.txt"]
    checks = [finding["check"] for finding in json.loads(contents["doctor.json"])["findings"]]
    assert checks[:3] == ["settings", "daemon", "port"]
    assert json.loads(contents["settings.json"])["settings"]["engine"]["pipeline"] == "fake"
    manifest = json.loads(contents["MANIFEST.json"])
    assert (manifest["schema"], manifest["schema_version"]) == ("appliance-support-bundle", 1)
    for item in manifest["left_out"]:
        assert f"left out: {item['name']}: " in done.stderr


def test_without_a_name_it_is_called_after_host_and_time_and_nothing_is_overwritten(tmp_path: Path) -> None:
    done = bundle(tmp_path, server__port=1)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("appliance-support-*.tar.gz")
    assert done.stdout.startswith(f"{file.name}: ")
    again = bundle(tmp_path, file.name, server__port=1)
    assert again.returncode == 1
    assert "name another file" in again.stderr


def test_wrong_settings_are_in_the_archive_without_their_secrets(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(f'[hub]\ntoken = "{PLANTED}"\nurl = "https://mirror.example"\n')
    done = bundle(tmp_path, "out.tar.gz", "--config", str(file))
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        texts = {Path(member.name).name: tar.extractfile(member).read().decode() for member in tar.getmembers()}  # type: ignore[union-attr]
    assert json.loads(texts["settings-file.json"]) == {"hub": {"token": "[redacted]", "url": "https://mirror.example"}}
    assert [name for name, content in texts.items() if PLANTED in content] == []
    findings = {finding["check"]: finding["finding"] for finding in json.loads(texts["doctor.json"])["findings"]}
    assert "unknown section 'hub'" in findings["settings"]
