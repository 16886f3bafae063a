"""Where a release comes from: a directory of wheels, or the running installation. Knows wheels; knows no layout."""

import base64
import hashlib
import sys
import zipfile
from importlib import metadata
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Protocol

import appliance
from appliance import __version__
from appliance.config.shipped import shipped
from appliance.installing.errors import InstallError
from appliance.installing.running import attempt, last_words

PROJECT = "edge-chat-appliance"
WHEEL_STEM = "edge_chat_appliance"
WHEEL_TIMEOUT_S = 600.0
LEFT_OUT = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}  # what pip adds when it installs a wheel


class Source(Protocol):
    """What a release is made of."""

    @property
    def version(self) -> str:
        """Of the release."""

    @property
    def shown(self) -> str:
        """Where it comes from, in words."""

    @property
    def pip_options(self) -> list[str]:
        """Where pip finds what the project needs."""

    def units(self) -> Traversable:
        """The files for systemd, as they are before there is a release."""

    def wheel(self, scratch: Path) -> Path:
        """The project's wheel, made in `scratch` where there is none. Raises InstallError."""


class WheelDirectory:
    """A directory with the wheels of the project and of all that it needs: no network is asked."""

    def __init__(self, directory: Path) -> None:
        """Raises InstallError where it has no wheel of the project, or several."""
        self.directory = directory.resolve()
        if not directory.is_dir():
            raise InstallError(f"--wheels {directory} is no directory")
        found = sorted(directory.glob(f"{WHEEL_STEM}-*.whl"))
        if not found:
            raise InstallError(f"a wheel is missing in {directory}: {WHEEL_STEM}-VERSION-py3-none-any.whl")
        if len(found) > 1:
            names = ", ".join(wheel.name for wheel in found)
            raise InstallError(f"{directory} holds several releases ({names}); leave the one that is to be installed")
        self._wheel = found[0].resolve()
        self.version = self._wheel.name.split("-")[1]
        self.shown = f"the wheels in {directory}"
        # --isolated: settings of pip that name an index mean another place than this.
        self.pip_options = ["--isolated", "--no-index", "--no-cache-dir", "--find-links", str(self.directory)]

    def units(self) -> Traversable:
        """As in the wheel. Raises InstallError."""
        try:
            return zipfile.Path(self._wheel) / "appliance" / "data" / "systemd"
        except (OSError, zipfile.BadZipFile) as error:
            raise InstallError(f"{self._wheel} can't be read: {error}") from None

    def wheel(self, scratch: Path) -> Path:  # noqa: ARG002, by the Protocol
        """The one in the directory."""
        return self._wheel

    def wheel_sha256(self) -> str:
        """What tells it from another of the same version."""
        return hashlib.sha256(self._wheel.read_bytes()).hexdigest()


class RunningInstallation:
    """The code that runs now; what it needs comes from where pip is set to find it."""

    version = __version__
    shown = "the running installation"

    @property
    def pip_options(self) -> list[str]:
        """As pip is set."""
        return []

    def units(self) -> Traversable:
        """The checkout's, or the installed ones."""
        return shipped("systemd")

    def wheel(self, scratch: Path) -> Path:
        """Built from the checkout, or packed again from what is installed."""
        checkout = Path(appliance.__file__).parent.parent
        if not (checkout / "pyproject.toml").is_file():
            return repack(metadata.distribution(PROJECT), scratch)
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-input", "--no-deps"]
        done = attempt([*build, "--wheel-dir", scratch, checkout], WHEEL_TIMEOUT_S)
        if done.returncode != 0:
            raise InstallError(f"no wheel could be built of {checkout}: {last_words(done)}")
        return next(scratch.glob(f"{WHEEL_STEM}-*.whl"))


def repack(distribution: metadata.Distribution, directory: Path) -> Path:
    """A wheel in `directory` of what is installed: pure Python, its scripts made anew by pip. Raises InstallError."""
    stem = f"{WHEEL_STEM}-{distribution.version}"
    wheel = directory / f"{stem}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in distribution.files or []:
            name = _name_in_wheel(file, stem)
            if name is None:
                continue
            try:
                content = Path(str(file.locate())).read_bytes()
            except OSError as error:
                raise InstallError(f"the running installation is not whole: {file}: {error.strerror}") from None
            archive.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}\n")
        name = f"{stem}.dist-info/RECORD"
        archive.writestr(name, "".join([*record, f"{name},,\n"]))
    if not record:
        raise InstallError("the running installation has no list of its files; install from --wheels DIR")
    return wheel


def _name_in_wheel(file: metadata.PackagePath, stem: str) -> str | None:
    if file.name in LEFT_OUT or "__pycache__" in file.parts:
        return None
    if file.parts[0] != "..":
        return file.as_posix()
    outside = [part for part in file.parts if part != ".."]
    return f"{stem}.data/data/{'/'.join(outside)}" if outside[0] == "share" else None
