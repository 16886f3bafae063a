"""Why a hub gives no file, in one line with the remedy. Knows huggingface_hub's errors; asks nobody anything."""

import re
from typing import Literal

import httpx
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from appliance.models.hub.wire import Failed, Request

MOST_REASON = 300  # characters of a library's own words

_CREDENTIALS = re.compile(r"(?<=//)[^/@\s]+@")
_QUERY = re.compile(r"\?[^\s'\"]+")  # signed addresses carry what opens them there


class Refused(Exception):
    """There will be no file."""

    def __init__(self, reason: str, kind: Literal["unavailable", "mismatch"] = "unavailable") -> None:
        super().__init__(reason)
        self.failed = Failed(kind, reason)


class Busy(Exception):
    """The hub said that it can't now."""

    def __init__(self, status: int, wait_s: float | None) -> None:
        """`wait_s`: what it asks to be given, where it says so."""
        super().__init__(f"HTTP {status}")
        self.status = status
        self.wait_s = wait_s


class Refusals:
    """The words, for one request to one hub."""

    def __init__(self, request: Request, host: str, token: str) -> None:
        """`token`: what no line may hold; empty where none is sent."""
        self._request = request
        self._host = host
        self._token = token

    def of(self, error: BaseException) -> Refused:
        """Why, where huggingface_hub raised `error`."""
        if isinstance(error, Refused):
            return error
        if isinstance(error, Busy):
            return self.busy(error)
        if isinstance(error, HfHubHTTPError):
            if error.response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return self.too_short()
            return Refused(self._http(error))
        if isinstance(error, FileMetadataError):
            return self.no_hub()
        if isinstance(error, httpx.TooManyRedirects):
            return Refused(f"{self._host} redirects without end; check HF_ENDPOINT")
        if isinstance(error, httpx.TransportError | httpx.InvalidURL):
            return Refused(
                f"{self._asked(error)} can't be reached: {self.words(error)}; check the network, or set HF_ENDPOINT to "
                "a mirror"
            )
        return Refused(f"{self._host}: {type(error).__name__}: {self.words(error)}")

    def no_connection(self, error: BaseException) -> Failed:
        """Nothing can be asked at all: no such certificates, a proxy's address that is none."""
        return Failed(
            "settings",
            f"no connection to {self._host} can be set up: {self.words(error)}; check SSL_CERT_FILE, SSL_CERT_DIR, "
            "HTTPS_PROXY, HTTP_PROXY and ALL_PROXY (environment)",
        )

    def busy(self, error: Busy) -> Refused:
        """The hub can't now, and nobody wants to wait that long."""
        again = f"in {error.wait_s:.0f} s" if error.wait_s is not None else "later"
        if error.status == httpx.codes.TOO_MANY_REQUESTS:
            remedy = "" if self._token else ", or set HF_TOKEN for a higher limit"
            return Refused(f"{self._host} is asked too often from here (HTTP 429); try again {again}{remedy}")
        return Refused(f"{self._host} can't answer now (HTTP {error.status}); try again {again}")

    def no_file(self, names: list[str]) -> Refused:
        """The repository has other files only."""
        request = self._request
        models = [name for name in names if name.endswith((".gguf", ".safetensors"))]
        has = f"; it has {', '.join(models[:8])}" if models else "; it has neither GGUF files nor safetensors"
        at = f" at {request.revision}" if request.revision else ""
        file = f"file {request.file}" if request.file else "*.safetensors"
        return Refused(f"{self._host} has no {file} in {request.repository}{at}{has}: correct the catalog")

    def broken(self, error: BaseException) -> Refused:
        """The download began, and does not go on."""
        return Refused(
            f"the download from {self._host} breaks off again and again ({self.words(error)}); what came is kept: run "
            "it again to go on"
        )

    def too_short(self) -> Refused:
        """There is no byte after the last one that came, and there should be."""
        return Refused(
            f"{self._host} has fewer bytes of {self._request.file or 'the checkpoint'} than it announced; "
            "try again later, or set HF_ENDPOINT to another mirror",
            "mismatch",
        )

    def no_hub(self) -> Refused:
        """What answered is something else."""
        return Refused(
            f"{self._host} does not answer as a model hub does (a login page?); check the network and HF_ENDPOINT"
        )

    def words(self, error: BaseException) -> str:
        """What a library says, in one line without the token, passwords and signed addresses."""
        text = " ".join(str(error).split())
        if self._token:
            text = text.replace(self._token, "…")
        return _QUERY.sub("", _CREDENTIALS.sub("", text))[:MOST_REASON] or type(error).__name__

    def _asked(self, error: Exception) -> str:
        """Whose answer did not come: files often lie on another host than the hub."""
        request = getattr(error, "_request", None)
        return host_of(request.url) if isinstance(request, httpx.Request) else self._host

    def _http(self, error: HfHubHTTPError) -> str:
        request, host = self._request, self._host
        status = error.response.status_code
        if isinstance(error, GatedRepoError):
            return (
                f"{request.repository} is gated: accept its terms at {host}/{request.repository} and set HF_TOKEN to a "
                f"token of the account that did (HTTP {status})"
            )
        if isinstance(error, RevisionNotFoundError):
            return f"{host} has no revision {request.revision} of {request.repository}; correct the catalog"
        if isinstance(error, RemoteEntryNotFoundError):
            file = f"file {request.file}" if request.file else "such file of a checkpoint"
            return f"{host} has no {file} in {request.repository}; correct the catalog"
        if status == httpx.codes.UNAUTHORIZED and self._token:
            return f"{host} does not take the token (HTTP 401); set HF_TOKEN to a valid one, or unset it"
        if status == httpx.codes.UNAUTHORIZED:
            return (
                f"{host} has no repository {request.repository}, or shows it to known accounts only (HTTP 401); "
                "correct the catalog, or set HF_TOKEN"
            )
        if isinstance(error, RepositoryNotFoundError):
            return (
                f"{host} has no repository {request.repository}, or hides it; correct the catalog, or set HF_TOKEN to "
                "a token that may read it"
            )
        if status == httpx.codes.FORBIDDEN:
            return f"{host} forbids {request.repository} (HTTP 403); set HF_TOKEN to a token that may read it"
        return f"{host} answers HTTP {status} for {request.repository}; check HF_ENDPOINT and the catalog"


def host_of(url: httpx.URL) -> str:
    """Name and port, without a password."""
    return f"{url.host}:{url.port}" if url.port else url.host
