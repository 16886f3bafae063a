"""Every answer that a hub can give instead of a file: one line with the remedy, or the next try."""

import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from appliance.errors import ConfigError
from appliance.models.errors import ModelError
from tests.support.hub import COMMIT, FILE_NAME, MIRROR_PATH, REPOSITORY, SHA256, WEIGHTS, Hub, use_hub
from tests.support.hub_answers import Answer, endless, fails, redirects, says, silence
from tests.support.hub_pull import SECRET, break_off, failure, make_puller, part, tiny_model
from tests.support.pulling import left_in, listening_socket


def test_what_is_pinned_is_asked_for_and_nothing_is_said_of_it(hub: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    model = tiny_model(revision=COMMIT, sha256=SHA256, size_bytes=len(WEIGHTS))
    assert make_puller(tmp_path / "store", model, said=said).pull("tiny").outcome == "installed"
    assert f"/revision/{COMMIT}" in hub.asked[0].path
    assert [line for line in said if "catalog" in line] == []


def test_a_branch_is_asked_for_and_its_commit_recorded(hub: Hub, tmp_path: Path) -> None:
    manifest = make_puller(tmp_path / "store", tiny_model(revision="main")).pull("tiny").model.manifest
    assert manifest.source.revision == COMMIT


def test_a_mirror_that_describes_no_files_is_asked_for_the_digest(hub: Hub, tmp_path: Path) -> None:
    hub.names_blobs = False
    assert make_puller(tmp_path / "store").pull("tiny").model.manifest.source.sha256 == SHA256
    assert hub.steps() == ["api", "head", "head", "file"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HF_TOKEN", f"{SECRET}\nX-Evil: 1", "HF_TOKEN holds characters that no token has"),
        ("HF_TOKEN_PATH", "/no/such/token", "HF_TOKEN_PATH: /no/such/token can't be read: No such file"),
        ("HF_ENDPOINT", f"hub.example/{SECRET}", "HF_ENDPOINT (environment): expected an address"),
        ("HF_ENDPOINT", "http://[::1", "HF_ENDPOINT (environment): expected an address"),
    ],
)
def test_a_setting_of_the_hub_that_is_wrong_has_to_be_mended(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        make_puller(tmp_path / "store").pull_preferred(["tiny"])
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SSL_CERT_FILE", "/no/such/certificates.pem", "No such file or directory"),
        ("SSL_CERT_FILE", __file__, "certificate"),
        ("HTTPS_PROXY", f"gopher://user:{SECRET}@proxy:1", "gopher://proxy:1"),
        ("ALL_PROXY", f"socks5://user:{SECRET}@proxy:1", "socks"),
    ],
)
def test_settings_with_which_nothing_can_be_asked_have_to_be_mended(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    kept = break_off(hub, tmp_path / "store").read_bytes()
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        make_puller(tmp_path / "store").pull_preferred(["tiny"])
    line = str(caught.value)
    assert line.startswith("no connection to 127.0.0.1")
    assert said in line
    assert line.endswith("check SSL_CERT_FILE, SSL_CERT_DIR, HTTPS_PROXY, HTTP_PROXY and ALL_PROXY (environment)")
    assert SECRET not in line
    assert part(tmp_path / "store").read_bytes() == kept
    assert hub.asked == []


@pytest.mark.parametrize("end", ["", "/"])
def test_a_mirror_need_not_be_at_the_root_of_its_host(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}{MIRROR_PATH}{end}")
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert [request.path.startswith(f"{MIRROR_PATH}/") for request in hub.asked] == [True, True, False]


def test_offline_the_hub_is_not_asked(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "not asked, as HF_HUB_OFFLINE is set; unset it, or run: appliance models import" in failure(tmp_path / "s")
    assert hub.asked == []


def test_without_the_extra_the_command_that_installs_it_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.models.importers.fetching.find_spec", lambda name: None if name == "nncf" else name)
    assert "needs nncf; run: pip install 'edge-chat-appliance[quantize]'" in failure(tmp_path / "store")


def test_a_conversion_that_cannot_fit_is_refused_before_the_download(hub: Hub, tmp_path: Path) -> None:
    model = replace(tiny_model(), parameters=10**15)
    with pytest.raises(ModelError, match=r"disk full|memory"):
        make_puller(tmp_path / "store", model).pull("tiny")
    assert hub.asked == []


def test_a_hub_that_is_not_there_is_told_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    use_hub(monkeypatch, f"http://user:{SECRET}@127.0.0.1:{port}")
    line = failure(tmp_path / "store")
    assert f"127.0.0.1:{port} can't be reached: [Errno 111] Connection refused; check the network" in line
    assert "HF_ENDPOINT" in line
    assert left_in(tmp_path / "store") == [".lock"]


def test_a_hub_that_never_answers_costs_the_source_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening_socket() as url:
        use_hub(monkeypatch, url)
        assert "can't be reached: timed out" in failure(tmp_path / "store", source_timeout_s=5)


def test_a_store_of_files_that_never_answers_costs_the_source_timeout(hub: Hub, tmp_path: Path) -> None:
    hub.will("file", silence)
    line = failure(tmp_path / "store", source_timeout_s=4)
    assert "nothing from 127.0.0.1" in line
    assert "within 4 s (models.source_timeout_s); check the network, or set HF_ENDPOINT" in line


REFUSALS = [
    ("api", fails(401), "shows it to known accounts only (HTTP 401); correct the catalog, or set HF_TOKEN"),
    ("api", fails(401, message="Invalid username or password."), "shows it to known accounts only (HTTP 401)"),
    ("api", fails(403, "GatedRepo", "no"), "is gated: accept its terms at 127.0.0.1"),
    ("head", fails(403, "GatedRepo", "no"), "is gated: accept its terms at 127.0.0.1"),
    ("api", fails(403, message="no"), "(HTTP 403); set HF_TOKEN to a token that may read it"),
    ("head", fails(404, "EntryNotFound"), f"has no file {FILE_NAME} in {REPOSITORY}; correct the catalog"),
    ("api", fails(400), "answers HTTP 400"),
    ("api", says("<html>log in here</html>"), "does not answer as a model hub does (a login page?)"),
    ("api", says("[]", "application/json"), "does not answer as a model hub does"),
    ("api", says('{"id": "x", "sha": "y"}', "application/json"), "has no file"),
    ("api", endless, "does not answer as a model hub does"),
    ("api", redirects("/api/models/Tiny/Tiny-GGUF"), "redirects without end; check HF_ENDPOINT"),
    ("head", redirects(f"/{REPOSITORY}/resolve/{COMMIT}/{FILE_NAME}"), "redirects without end"),
    ("head", redirects("ftp://127.0.0.1/x"), "does not answer as a model hub does"),
    ("file", fails(403), "(HTTP 403); set HF_TOKEN"),
    ("file", fails(404), "answers HTTP 404"),
]


@pytest.mark.parametrize(
    ("step", "answer", "said"), REFUSALS, ids=[f"{step}-{said[:30]}" for step, _, said in REFUSALS]
)
def test_a_refusal_is_one_line_with_its_remedy(hub: Hub, tmp_path: Path, step: str, answer: Answer, said: str) -> None:
    hub.will(step, answer, for_ever=True)
    assert said in failure(tmp_path / "store")
    assert left_in(tmp_path / "store") == [".lock"]


def test_a_token_that_is_not_taken_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    hub.will("api", fails(401, message=f"Invalid credentials in Authorization header: Bearer {SECRET}"))
    assert "does not take the token (HTTP 401); set HF_TOKEN to a valid one" in failure(tmp_path / "store")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"repository": "Nobody/Nothing"}, "has no repository Nobody/Nothing, or hides it; correct the catalog"),
        ({"revision": "v9"}, f"has no revision v9 of {REPOSITORY}; correct the catalog"),
        ({"file": "other.gguf"}, f"has no file other.gguf in {REPOSITORY}; it has {FILE_NAME}: correct the catalog"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub: Hub, tmp_path: Path, source: dict[str, str], said: str) -> None:
    assert said in failure(tmp_path / "store", tiny_model(**source))


@pytest.mark.parametrize(
    ("step", "answer"),
    [
        ("api", fails(429, Retry_After="1")),
        ("api", fails(429, RateLimit='"api";r=0;t=1')),
        ("api", fails(503)),
        ("head", fails(500)),
        ("head", fails(429, Retry_After="0")),
        ("file", fails(502)),
        ("file", fails(429)),
    ],
)
def test_a_hub_that_is_busy_is_asked_again(hub: Hub, tmp_path: Path, step: str, answer: Answer) -> None:
    hub.will(step, answer)
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert hub.steps().count(step) == 2


def test_a_hub_that_asks_for_more_time_than_there_is_is_told_so_at_once(hub: Hub, tmp_path: Path) -> None:
    hub.will("api", fails(429, Retry_After="3600"), for_ever=True)
    assert "asked too often from here (HTTP 429); try again in 3600 s, or set HF_TOKEN" in failure(tmp_path / "store")
    assert hub.steps() == ["api"]


def test_a_hub_that_stays_busy_costs_the_source_timeout(hub: Hub, tmp_path: Path) -> None:
    hub.will("api", fails(503), for_ever=True)
    line = failure(tmp_path / "store", source_timeout_s=4)
    assert "within 4 s (models.source_timeout_s): 127.0.0.1" in line
    assert line.endswith("can't answer now (HTTP 503); try again later")


def test_a_commit_that_is_another_is_not_believed(hub: Hub, tmp_path: Path) -> None:
    hub.commit = "f" * 40
    assert "does not answer as a model hub does" in failure(tmp_path / "store", tiny_model(revision=COMMIT))
