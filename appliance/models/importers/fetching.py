"""Files of a model hub, fetched and checked. Knows the process that fetches, and what to make of its messages.

huggingface_hub fetches, so that the operator's mirror, token, proxies and certificates are honoured.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from appliance.config.remedies import extra_remedy
from appliance.errors import ConfigError
from appliance.models.catalog import CatalogModel, HubCheckpointSource, HubSource
from appliance.models.children import Child, describe_status, open_child
from appliance.models.downloads import discard_download, download_directory, holds_bytes
from appliance.models.durable import give_to_owner_of, make_directory
from appliance.models.errors import MB, DigestMismatch, DiskFull, ImportFailed, SourceUnavailable
from appliance.models.hub.wire import Announced, Failed, Fetched, Found, Received, Request, Waiting, read_message
from appliance.models.importers.file import digest_of
from appliance.models.importers.quantizing import conversion_bytes
from appliance.models.progress import Progress

CLIENT = ("-m", "appliance.models.hub.client")
PUBLIC_HUB = "https://huggingface.co"
ANSWER_SHARE = 0.6  # of source_timeout_s, for one answer: its own reason is worth more than "no answer"
LEAST_ANSWER_S = 0.5
MOST_BYTES_PER_PARAMETER = 4  # F32
MARGIN_BYTES = 64 * MB  # for a vocabulary and the rest of a header
F16_BYTES = 2
EXTRA = {"huggingface_hub": "huggingface_hub", "gguf": "gguf", "nncf": "nncf"}  # module and what pip calls it
GIT_DIGITS = 40  # of a SHA-1

_ENDPOINT = re.compile(r"https?://[^\s]+")
_TRUE = {"1", "ON", "YES", "TRUE"}

Require = Callable[[int], None]
"""Is told how many bytes are still to come before they do, and raises where there is no room for them."""


class HubFetcher:
    """Fetches one file, or a checkpoint's, and checks the digests against the hub's and the catalog's."""

    def __init__(self, *, store: Path, source_timeout_s: float, download_timeout_s: float) -> None:
        """`store`: keeps what came of a download that broke off, so that the next one goes on with it.

        `source_timeout_s`: from the start to the hub's answer, and from that to the first byte;
        `download_timeout_s`: from the start to the last.
        """
        self._store = store
        self._source_timeout_s = source_timeout_s
        self._download_timeout_s = download_timeout_s

    def get(
        self, model: CatalogModel, source: HubSource | HubCheckpointSource, require: Require, progress: Progress
    ) -> tuple[Path, Found]:
        """The file, or the directory that has the checkpoint's, and what the hub says of it.

        Raises SourceUnavailable, DigestMismatch, ConfigError for an HF_ENDPOINT or HF_TOKEN that can't be one, OSError,
        and what `require` does.
        """
        place, found = self._fetch(model, source, require, progress)
        wrong = wrong_file(model, place, found, progress)
        if wrong and found.kept_bytes:  # a power cut can leave zeros at the end of what was kept
            progress.note(f"{model.id}: the kept part of the download was damaged; beginning anew")
            discard_download(self._store, model.id)
            place, found = self._fetch(model, source, require, progress)
            wrong = wrong_file(model, place, found, progress)
        if wrong:
            discard_download(self._store, model.id)
            file, digest = wrong
            kind = "sha1 (git)" if len(digest) == GIT_DIGITS else "sha256"
            raise DigestMismatch(
                f"{file.name} of {source.repository} arrived with another digest than the hub announced: {kind} "
                f"{digest}, expected {file.digest}; nothing was installed: try again, or set HF_ENDPOINT to another "
                "mirror"
            )
        if not source.revision:
            progress.note(f"{model.id}: the catalog pins no revision; this commit was taken: {found.commit}")
        return place, found

    def _fetch(
        self, model: CatalogModel, source: HubSource | HubCheckpointSource, require: Require, progress: Progress
    ) -> tuple[Path, Found]:
        """What is wanted, as it came. Raises as `get` does."""
        environ = hub_environ(os.environ)
        host = host_of(environ.get("HF_ENDPOINT", PUBLIC_HUB))
        place = download_directory(self._store, model.id)
        make_directory(place)
        progress.stage(f"{model.id}: asking {host} for {source.repository}")
        arguments = [*CLIENT, msgspec.json.encode(self._request(model, source, place)).decode()]
        watch = _Watch(model, host, self._source_timeout_s, self._download_timeout_s, require)
        try:
            with open_child(arguments, {**environ, "HF_HOME": str(place)}) as child:
                ending = watch.follow(child, progress)
        finally:
            if not holds_bytes(place):
                discard_download(self._store, model.id)
            for path in (place, *place.rglob("*")) if place.exists() else ():
                give_to_owner_of(self._store, path)  # what is kept must not keep the store's owner out
        if isinstance(ending, Failed):
            raise self._error(model, source, ending, watch.found)
        if watch.found is None:
            raise SourceUnavailable(f"{source.repository}: the hub client told nothing of the file")
        return Path(ending.path), watch.found

    def _request(self, model: CatalogModel, source: HubSource | HubCheckpointSource, place: Path) -> Request:
        return Request(
            repository=source.repository,
            revision=source.revision,
            file=source.file,
            directory=str(place),
            sha256=source.sha256 if source.file else "",  # a checkpoint's is that of all files together
            size_bytes=source.size_bytes,
            most_bytes=MOST_BYTES_PER_PARAMETER * model.parameters + MARGIN_BYTES,
            answer_timeout_s=max(LEAST_ANSWER_S, self._source_timeout_s * ANSWER_SHARE),
            source_timeout_s=self._source_timeout_s,
            download_timeout_s=self._download_timeout_s,
        )

    def _error(
        self, model: CatalogModel, source: HubSource | HubCheckpointSource, failed: Failed, found: Found | None
    ) -> Exception:
        """What to raise. Keeps what came for the next time, where that may go on with it."""
        if failed.kind == "settings":
            return ConfigError(failed.reason)
        if failed.kind == "unavailable":
            return SourceUnavailable(f"{source.repository}: {failed.reason}")
        discard_download(self._store, model.id)
        if failed.kind == "mismatch":
            return DigestMismatch(f"{source.repository}: {failed.reason}")
        if failed.errno in (errno.ENOSPC, errno.EDQUOT) and found is not None:
            needed = found.size_bytes + conversion_bytes(F16_BYTES * model.parameters)
            return DiskFull(self._store, needed, shutil.disk_usage(self._store).free)
        return OSError(failed.errno, failed.reason)


def wrong_file(model: CatalogModel, place: Path, found: Found, progress: Progress) -> tuple[Announced, str] | None:
    """The first file that is another than the hub announced, with the digest that it has.

    `place`: the one file, or the directory of all. Raises ImportFailed where one can't be read.
    """
    for file in found.files:
        path = place / file.name if place.is_dir() else place
        git = len(file.digest) == GIT_DIGITS
        digest = git_digest(path) if git else digest_of(path, f"{model.id}: checking", progress)
        if digest != file.digest:
            return file, digest
    return None


def git_digest(file: Path) -> str:
    """The SHA-1 by which git knows a file, which is all that a hub announces of a small one."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ImportFailed(f"{file} can't be read: {error.strerror}") from None
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


class _Watch(Struct):
    """Reads the process that fetches, and ends it when its time is up."""

    model: CatalogModel
    host: str
    source_timeout_s: float
    download_timeout_s: float
    require: Callable[[int], None]
    found: Found | None = None
    found_at_s: float = 0.0
    begun: bool = False
    waits_for: str = ""
    words: str = ""

    def follow(self, child: Child, progress: Progress) -> Fetched | Failed:
        """The last message. Raises SourceUnavailable where there is none, or not in time."""
        for line in child.lines():
            message = read_message(line or "")
            if isinstance(message, Fetched | Failed):
                return message
            if message is not None:
                self._tell(message, child.age_s, progress)
            elif line:
                self.words = line.strip()
            elif self.begun:
                progress.advance()
            self._check(child.age_s)
        status = child.wait()
        raise SourceUnavailable(f"{self.host}: the hub client failed ({describe_status(status)}): {self.words}")

    def _tell(self, message: Found | Received | Waiting, age_s: float, progress: Progress) -> None:
        if isinstance(message, Found):
            self.found, self.found_at_s = message, age_s
            self.require(message.size_bytes - message.kept_bytes)
            if message.kept_bytes:
                kept, size = message.kept_bytes / MB, message.size_bytes / MB
                progress.note(f"{self.model.id}: going on with a download, {kept:.1f} of {size:.1f} MB are here")
            progress.stage(f"{self.model.id}: downloading", message.size_bytes)
        elif isinstance(message, Received):
            self.begun = True
            progress.advance(message.bytes, self.found.size_bytes if self.found else None)
        else:
            self.waits_for = message.reason

    def _check(self, age_s: float) -> None:
        if not self.begun and age_s - self.found_at_s > self.source_timeout_s:
            reason = f": {self.waits_for}" if self.waits_for else "; check the network, or set HF_ENDPOINT to a mirror"
            raise SourceUnavailable(
                f"nothing from {self.host} within {self.source_timeout_s:g} s (models.source_timeout_s){reason}"
            )
        if age_s > self.download_timeout_s:
            raise SourceUnavailable(
                f"not downloaded from {self.host} within {self.download_timeout_s:g} s (models.download_timeout_s); "
                "what came is kept: run it again to go on"
            )


def require_client() -> None:
    """Raises SourceUnavailable where the extra is not installed, or the hub is not to be asked."""
    missing = [name for module, name in EXTRA.items() if find_spec(module) is None]
    if missing:
        raise SourceUnavailable(f"a model of a hub needs {' and '.join(missing)}; run: {extra_remedy('quantize')}")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in _TRUE:
            raise SourceUnavailable(
                f"the hub is not asked, as {name} is set; unset it, or run: appliance models import FILE.gguf"
            )


def hub_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The operator's own settings of the hub, without what this program decides.

    Raises ConfigError for an HF_ENDPOINT that is no address: the better model must not quietly be left out for that.
    """
    endpoint = environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    if endpoint and (not _ENDPOINT.fullmatch(endpoint) or not host_of(endpoint)):
        raise ConfigError(f"HF_ENDPOINT (environment): expected an address such as {PUBLIC_HUB}")  # may hold a password
    kept = {name: value for name, value in environ.items() if name not in ("HF_ENDPOINT", "HUGGINGFACE_CO_STAGING")}
    return {
        **kept,
        **({"HF_ENDPOINT": endpoint} if endpoint else {}),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_XET": "1",  # it fetches from hosts that no mirror stands for, and does not go on after a cut
        "HF_HUB_VERBOSITY": "critical",
        "HF_DEBUG": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }


def host_of(endpoint: str) -> str:
    """Name and port of an address, without a password; "" where it has none."""
    try:
        parts = urlsplit(endpoint)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f"{parts.hostname}{port}" if parts.hostname else ""
