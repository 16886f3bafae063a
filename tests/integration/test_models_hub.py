"""Models out of a hub, with the real huggingface_hub and a hub on this host. More faults: tests/hub."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from appliance.models.catalog import Catalog
from appliance.models.fake import fake_model
from appliance.models.hub.client import CHUNK_BYTES
from appliance.models.store import Store
from appliance.models.verification import verify
from tests.support.hub import COMMIT, FILE_NAME, REPOSITORY, SHA256, WEIGHTS, Hub, use_hub
from tests.support.hub_answers import redirects
from tests.support.hub_pull import HALF, PROGRAM, SECRET, break_off, failure, make_puller, tiny_model, wait_for_bytes
from tests.support.pulling import left_in, start, wait_for_line

CATALOG = """
[[model]]
id = "tiny"
title = "Tiny"
licence = "MIT"
parameters = 10
context_tokens = 2048
generation = { temperature = 1, top_p = 0.9, top_k = 50, repetition_penalty = 1.0 }

  [[model.source]]
  kind = "hub"
  repository = "Tiny/Tiny-GGUF"
  file = "tiny.gguf"
"""


def test_a_model_comes_out_of_a_hub(hub: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    pulled = make_puller(tmp_path / "store", said=said).pull("tiny")
    assert pulled.outcome == "installed"
    manifest = pulled.model.manifest
    assert (manifest.source.kind, manifest.source.name, manifest.source.file) == ("hub", REPOSITORY, FILE_NAME)
    assert (manifest.source.revision, manifest.source.sha256, manifest.licence) == (COMMIT, SHA256, "Apache-2.0")
    assert (pulled.model.directory / "openvino_model.bin").read_bytes() == WEIGHTS
    assert verify(manifest, pulled.model.directory).sound
    assert left_in(tmp_path / "store") == [".lock", "tiny"]
    host = hub.url.removeprefix("http://")
    assert said == [
        f"tiny: asking {host} for {REPOSITORY}",
        "tiny: downloading (1.0 MB)",
        "tiny: checking (1.0 MB)",
        f"tiny: the catalog pins no revision; this commit was taken: {COMMIT}",
        "tiny: converting",
        f"tiny: the catalog knows no digest; this one was seen: {SHA256}",
        "tiny: installing",
    ]
    assert hub.steps() == ["api", "head", "file"]


def test_nothing_is_written_outside_the_store_and_nothing_else_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".cache/huggingface").mkdir(parents=True)
    (home / ".cache/huggingface/token").write_text(SECRET, "utf-8")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    before = sorted(home.rglob("*"))
    make_puller(tmp_path / "store").pull("tiny")
    assert sorted(home.rglob("*")) == before
    assert len(hub.asked) == 3
    for request in hub.asked:
        assert "Authorization" not in request.headers
        assert SECRET not in str(request.headers)
        assert request.headers["User-Agent"].startswith("edge-chat-appliance/")
        assert "torch" not in request.headers["User-Agent"]


@pytest.mark.parametrize("where", ["HF_TOKEN", "HF_TOKEN_PATH"])
def test_the_token_goes_to_the_hub_and_not_to_the_store_of_files(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n", "utf-8")
    monkeypatch.setenv(where, SECRET if where == "HF_TOKEN" else str(file))
    said: list[str] = []
    make_puller(tmp_path / "store", said=said).pull("tiny")
    sent = {request.step: request.headers.get("Authorization") for request in hub.asked}
    assert sent == {"api": f"Bearer {SECRET}", "head": f"Bearer {SECRET}", "file": None}
    assert SECRET not in "".join(said)


@pytest.mark.parametrize("step", ["api", "head", "get"])
def test_a_token_does_not_follow_a_redirect_to_another_host(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The hub itself redirects files only; a mirror may do so with anything."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    hub.xet = step == "get"  # such a file is asked of the hub, which redirects
    if step != "get":
        hub.will(step, redirects(f"{hub.store_url}/elsewhere"), for_ever=True)
        failure(tmp_path / "store")
    else:
        make_puller(tmp_path / "store").pull("tiny")
    sent = {request.step: request.headers.get("Authorization") for request in hub.asked}
    assert sent.pop("file", None) is None
    assert set(sent.values()) == {f"Bearer {SECRET}"}
    assert step in sent


def test_the_next_preferred_model_is_taken_where_the_hub_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9")
    said: list[str] = []
    puller = make_puller(tmp_path / "store", said=said)
    puller = replace(puller, catalog=Catalog({"tiny": tiny_model(), "near": fake_model("near")}))
    assert puller.pull_preferred(["tiny", "near"]).model.id == "near"
    told = [line for line in said if "can't be reached" in line]
    assert len(told) == 1
    assert told[0].startswith(f"tiny: {REPOSITORY}: 127.0.0.1:9 can't be reached")


def run_cli(tmp_path: Path, *arguments: str, endpoint: str) -> "subprocess.CompletedProcess[str]":
    """`appliance models pull` with a catalog that has a hub's model only."""
    config = tmp_path / "appliance.toml"
    config.write_text(f'[models]\ndirectory = "{tmp_path}/store"\npreferred = ["tiny"]\n', "utf-8")
    (tmp_path / "catalog.toml").write_text(CATALOG, "utf-8")
    command = [sys.executable, "-m", "appliance", "models", "pull", *arguments, "--config", str(config)]
    environ = {**os.environ, "HF_ENDPOINT": endpoint}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "endpoint", "status", "said"),
    [
        (["tiny"], "http://127.0.0.1:9", 1, "appliance: tiny: Tiny/Tiny-GGUF: 127.0.0.1:9 can't be reached"),
        (["--preferred"], "http://127.0.0.1:9", 1, "appliance: none of tiny (models.preferred) could be installed"),
        (["tiny"], "no address", 78, "appliance: HF_ENDPOINT (environment): expected an address"),
    ],
)
def test_the_command_ends_with_one_line_and_a_status(
    tmp_path: Path, arguments: list[str], endpoint: str, status: int, said: str
) -> None:
    ended = run_cli(tmp_path, *arguments, endpoint=endpoint)
    assert (ended.returncode, ended.stdout) == (status, "")
    told = [line for line in ended.stderr.splitlines() if line.startswith("appliance: ")]
    assert len(told) == 1
    assert told[0].startswith(said)


def test_a_connection_that_breaks_is_resumed_from_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.will("file", hub.cut(HALF + 100), hub.cut(100), hub.cut(CHUNK_BYTES + 1))
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert hub.ranges() == ["", f"bytes={HALF}-", f"bytes={HALF}-", f"bytes={HALF + CHUNK_BYTES}-"]


def test_a_download_that_breaks_off_is_kept_and_the_next_pull_goes_on(hub: Hub, tmp_path: Path) -> None:
    break_off(hub, tmp_path / "store")
    assert left_in(tmp_path / "store") == [".downloads", ".lock"]
    said: list[str] = []
    assert make_puller(tmp_path / "store", said=said).pull("tiny").outcome == "installed"
    assert "tiny: going on with a download, 0.5 of 1.0 MB are here" in said
    assert hub.ranges()[-1] == f"bytes={HALF}-"
    assert left_in(tmp_path / "store") == [".lock", "tiny"]


def test_another_digest_than_the_hub_announced_installs_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.digest = "0" * 64
    line = failure(tmp_path / "store")
    assert f"another digest than the hub announced: sha256 {SHA256}, expected {'0' * 64}; nothing was installed" in line
    assert left_in(tmp_path / "store") == [".lock"]


def test_after_kill_9_the_next_pull_goes_on(hub: Hub, tmp_path: Path) -> None:
    store = tmp_path / "store"
    hub.go_on.clear()
    with start(PROGRAM, store) as process:
        wait_for_line(process, "tiny: downloading")
        wait_for_bytes(store)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate(timeout=30)
    assert psutil.wait_procs(children, timeout=30)[1] == []  # nobody is left that writes
    assert Store(store).entries() == []
    hub.go_on.set()
    assert make_puller(store).pull("tiny").outcome == "installed"
    assert hub.ranges() == ["", f"bytes={CHUNK_BYTES}-"]
    assert left_in(store) == [".lock", "tiny"]


def test_importing_the_client_opens_no_connection_and_writes_nothing(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "told = []\n"
        "sys.addaudithook(lambda event, arguments: told.append(event) if event in "
        "('socket.connect', 'socket.getaddrinfo', 'os.mkdir') else None)\n"
        "import appliance.models.hub.client\n"
        "print(told)"
    )
    environ = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "PYTHONDONTWRITEBYTECODE": "1"}
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environ)
    assert shown.stdout == "[]\n"
    assert not (tmp_path / "hf").exists()


def test_what_only_imports_the_importer_never_loads_huggingface_hub() -> None:
    script = (
        "import sys, appliance.cli.models, appliance.cli.serve\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('huggingface_hub', 'httpx')])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
