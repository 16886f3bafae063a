"""What is gathered into the archive, in what bounds and order; sources and hosts are made up."""

import io
import json
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from appliance.doctor.asking import Said
from appliance.doctor.examination import examine
from appliance.doctor.support.archive import LeftOut, Part, directory_name, pack, write
from appliance.doctor.support.gathering import PART_MAX_BYTES, gather, known_secrets
from appliance.doctor.support.redacting import Redactor
from appliance.doctor.support.sources import JOURNAL_LINES, Content, Missing, Source, sources
from appliance.doctor.surroundings import SERVICE
from appliance.models.fake import install_fake
from appliance.models.store import Store
from tests.support.doctor import Programs, status, surroundings
from tests.support.doctor import write as write_files
from tests.support.self_benchmark import measured, write_history

AT = "2026-01-02T03:04:05+00:00"
PLANTED = "pl4nted-s3cret"


def source(name: str, value: Any = "text\n", *, cut: bool = False) -> Source:
    return Source(name, f"what {name} is", lambda: Content(value, cut))


def files(packed: bytes) -> dict[str, str]:
    """Texts by name, without the directory that all are in."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        found = {}
        for member in tar.getmembers():
            extracted = tar.extractfile(member)
            assert extracted is not None
            found[member.name.partition("/")[2]] = extracted.read().decode()
        return found


def test_the_same_content_makes_the_same_bytes_in_whatever_order() -> None:
    parts = [Part(name="b", what="x", content=b"2"), Part(name="a", what="x", content=b"1")]
    left = [LeftOut(name="d", what="x", reason="y"), LeftOut(name="c", what="x", reason="y")]
    one = pack(parts, left, at=AT, host="box", version="1")
    assert one == pack(parts[::-1], left[::-1], at=AT, host="box", version="1")
    with tarfile.open(fileobj=io.BytesIO(one)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [
        f"appliance-support-box-20260102T030405Z/{name}" for name in ("MANIFEST.json", "a", "b")
    ]
    assert {(member.mode, member.uid, member.gid, member.mtime) for member in members} == {(0o600, 0, 0, 1767323045)}
    manifest = json.loads(files(one)["MANIFEST.json"])
    assert [entry["name"] for entry in manifest["left_out"]] == ["c", "d"]
    assert manifest["files"][0]["sha256"] == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"


def test_a_host_name_stays_a_name() -> None:
    assert directory_name(AT, "../a b") == "appliance-support-..-a-b-20260102T030405Z"


def test_the_file_is_new_and_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "out.tar.gz"
    write(file, b"x")
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write(file, b"y")
    assert file.read_bytes() == b"x"
    with pytest.raises(OSError, match="No such file"):
        write(tmp_path / "none/out.tar.gz", b"x")
    assert [left.name for left in tmp_path.iterdir()] == ["out.tar.gz"]


def test_what_cannot_be_had_is_left_out_with_its_reason() -> None:
    released = threading.Event()

    def missing() -> Content:
        raise Missing(f"it said password={PLANTED}")

    def hidden() -> Content:
        raise PermissionError(13, "Permission denied", "/hidden")

    def fails() -> Content:
        raise RuntimeError("a defect")

    def hangs() -> Content:
        released.wait(60)
        return Content("late")

    made = [source("fine"), *(Source(f.__name__, "x", f) for f in (missing, hidden, fails, hangs))]
    parts, left_out = gather(made, Redactor(), source_s=0.3)
    released.set()
    assert [part.name for part in parts] == ["fine"]
    reasons = {item.name: item.reason for item in left_out}
    assert reasons == {
        "missing": "it said password=[redacted]", "hidden": "/hidden: Permission denied; run it as root",
        "fails": "RuntimeError: a defect", "hangs": "no answer within 0 s",
    }  # fmt: skip


def test_time_and_room_end_for_what_comes_last() -> None:
    parts, left_out = gather(
        [source("a", "x" * 60), source("b", "x" * 60), source("c", "x")], Redactor(), all_bytes=100
    )
    assert [part.name for part in parts] == ["a", "c"]
    assert [(item.name, item.reason) for item in left_out] == [("b", "the archive is full")]
    parts, left_out = gather([source("a")], Redactor(), all_s=-1)
    assert (parts, left_out[0].reason) == ([], "no time was left for it")


def test_of_a_long_text_the_end_is_kept() -> None:
    (part,), _ = gather([source("a", "x" * PART_MAX_BYTES + "end")], Redactor())
    assert (len(part.content), part.content[-4:], part.cut) == (PART_MAX_BYTES, b"xend", True)


def test_a_wrong_settings_file_still_tells_which_secrets_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(f'[auth]\nkeys = ["{PLANTED}"]\n')
    monkeypatch.setenv("SOME_TOKEN", "an0ther-one")
    assert {PLANTED, "an0ther-one"} <= known_secrets(file)
    file.write_text("[")
    assert PLANTED not in known_secrets(file)


UNIT = f"[Service]\nEnvironment=HUB_TOKEN={PLANTED}\nExecStart=/opt/appliance/current/bin/appliance serve\n"
LINES = f"2026-01-01T00:00:00+0000 box appliance[1]: mirror https://u:{PLANTED}@mirror.example refused {PLANTED}-2\n"


class Systemd(Programs):
    """Answers by what it is asked."""

    def __call__(self, command: Any) -> Said:
        self.asked.append(list(command))
        return Said(status=0, out=LINES if command[0] == "journalctl" else UNIT, cut=command[0] == "journalctl")


@pytest.fixture
def everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of an archive of a made-up host that has everything, with secrets planted wherever there is a place."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://u:{PLANTED}@proxy:3128")
    monkeypatch.setenv("HF_TOKEN", f"{PLANTED}-2")
    tuning = {"tuned": [], "format": 1, "hub_password": PLANTED}
    write_files(tmp_path, {"proc/meminfo": "MemTotal: 8000000 kB", "etc/os-release": "ID=debian"})
    write_files(tmp_path, {"state/tuning.json": json.dumps(tuning)})
    install_fake(Store(tmp_path / "state/models"))
    (tmp_path / "state/models/slots.json").write_text('{"format": 1, "bad": []}')
    write_history(tmp_path / "state/benchmarks", measured(1))
    programs = Systemd()
    here = surroundings(
        tmp_path, status=status(token=PLANTED), units={SERVICE: {"ActiveState": "active"}}, ask=programs
    )
    parts, left_out = gather(sources(here, examine(here)), Redactor(known_secrets(tmp_path / "none")))
    journals = [command for command in programs.asked if command[0] == "journalctl" and "--dmesg" not in command]
    assert all("--lines" in command for command in journals)
    assert any(str(JOURNAL_LINES) in command for command in journals)
    return files(pack(parts, left_out, at=AT, host="box", version="1"))


def test_no_planted_secret_is_in_any_file(everything: dict[str, str]) -> None:
    for name, content in everything.items():
        assert PLANTED not in content, name
    manifest = json.loads(everything["MANIFEST.json"])
    counts = {entry["name"]: entry["redactions"] for entry in manifest["files"]}
    for name in ("environment.json", "status.json", "tuning.json", "journal.txt", "units/cat.txt"):
        assert counts[name] > 0, name


def test_everything_that_is_asked_for_is_in_it(everything: dict[str, str]) -> None:
    assert {
        "MANIFEST.json", "doctor.json", "settings.json", "versions.json", "status.json", "slots.json", "tuning.json",
        "models.json", "benchmarks.json", "journal.txt", "journal.jsonl", "units/cat.txt", "units/show.txt",
        "host/etc-os-release", "environment.json",
    } <= set(everything)  # fmt: skip
    manifest = json.loads(everything["MANIFEST.json"])
    assert {entry["name"] for entry in manifest["files"]} == set(everything) - {"MANIFEST.json"}
    assert {entry["name"]: entry["cut"] for entry in manifest["files"]}["journal.txt"]
    left_out = {item["name"]: item["reason"] for item in manifest["left_out"]}
    assert left_out["settings-file.json"] == "there is none"
    assert left_out["metrics.txt"]  # nobody listens on this made-up host
    for name, content in everything.items():
        if name.endswith(".json"):
            json.loads(content)


def test_without_systemd_and_daemon_the_reasons_are_told(tmp_path: Path) -> None:
    here = surroundings(tmp_path)
    _, left_out = gather(sources(here, examine(here, checks={})), Redactor())
    reasons = {item.name: item.reason for item in left_out}
    assert reasons["journal.txt"] == reasons["units/cat.txt"] == "systemd does not run here"
    assert reasons["status.json"] == "Connection refused"
    assert "there is no" in reasons["slots.json"]
