"""`python -m appliance.models.hub.client REQUEST`: one file of a model hub, in a process of its own.

Knows huggingface_hub; knows no catalog and no store. Own process: whatever a hub does, time and memory are bounded
from outside, and nothing else of the appliance pays for the import.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, cast

import httpx
import msgspec
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined] # documented, not exported

from appliance import __version__
from appliance.engine.errand import limit
from appliance.engine.orphan import end_with_parent
from appliance.models.hub.refusals import Busy, Refusals, Refused, host_of
from appliance.models.hub.wire import Failed, Fetched, Found, Message, Received, Request, Waiting

CHUNK_BYTES = 1 << 18  # what a cut connection can cost; the library's own 10 MB are minutes on a slow line
MEMORY_BYTES = 1 << 29  # 60 MB are used; an answer without end must not take the machine's
MOST_REDIRECTS = 10
MOST_FAILURES = 5  # in a row, without a byte between them
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
TICK_S = 0.1  # between two reports of progress

_BUSY = (429, 500, 502, 503, 504)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[\x21-\x7e]+")

T = TypeVar("T")
Token = str | Literal[False]
"""False sends none: not even one that the hub's command line left in the home directory."""


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 after Fetched, 1 after Failed."""
    end_with_parent()
    limit(data_bytes=MEMORY_BYTES)
    request = msgspec.json.decode(arguments[0], type=Request)
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    try:
        token = read_token(os.environ)
    except ValueError as error:
        return _fail(Failed("settings", str(error)))
    refusals = Refusals(request, host_of(httpx.URL(constants.ENDPOINT)), token or "")
    try:
        open_client().close()
    except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
        return _fail(refusals.no_connection(error))
    set_client_factory(open_client)
    try:
        _say(Fetched(str(Download(request, token, refusals).run())))
    except HfHubHTTPError as error:  # is an OSError too
        return _fail(refusals.of(error).failed)
    except OSError as error:
        if error.errno is not None:
            return _fail(Failed("system", os.strerror(error.errno), error.errno))
        return _fail(refusals.of(error).failed)
    except MemoryError:
        return _fail(refusals.no_hub().failed)
    except Exception as error:  # whatever a library makes of what a server says
        return _fail(refusals.of(error).failed)
    return 0


def read_token(environ: Mapping[str, str]) -> Token:
    """The token in HF_TOKEN, else in the file that HF_TOKEN_PATH names, else False.

    Raises ValueError, without the token, where it can't be one.
    """
    name, token = "HF_TOKEN", environ.get("HF_TOKEN", "").strip()
    if not token and environ.get("HF_TOKEN_PATH"):
        name, file = "HF_TOKEN_PATH", Path(environ["HF_TOKEN_PATH"]).expanduser()
        try:
            token = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ValueError(f"HF_TOKEN_PATH: {file} can't be read: {reason}") from None
    if not token:
        return False
    if not _TOKEN.fullmatch(token):  # httpx would quote it
        raise ValueError(f"{name} holds characters that no token has")
    return token


class Download:
    """One file, from the question what it is to its last byte."""

    def __init__(self, request: Request, token: Token, refusals: Refusals) -> None:
        self._request = request
        self._token = token
        self._refusals = refusals
        self._directory = Path(request.directory)
        self._meter = Meter()

    def run(self) -> Path:
        """The file. Raises Refused, OSError, and what the libraries raise."""
        found = self._again_while_busy(self.find)
        _say(found)  # whoever started this knows what room there is, and ends it where that is too little
        self._meter.most = found.size_bytes
        return self._again_while_busy(lambda: self._fetch(found))

    def find(self) -> Found:
        """What the hub says of the file. Raises Refused where that is not what is wanted."""
        request = self._request
        try:
            commit, sha256, size = self._ask()
        except HfHubHTTPError:  # some are a ValueError too
            raise
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._refusals.no_hub() from None
        if not _COMMIT.fullmatch(commit) or not _SHA256.fullmatch(sha256) or size < 0:
            raise self._refusals.no_hub()
        if _COMMIT.fullmatch(request.revision) and commit != request.revision:
            raise self._refusals.no_hub()
        for name, wanted, got in (("sha256", request.sha256, sha256), ("size", request.size_bytes, size)):
            if wanted and got != wanted:
                raise Refused(
                    f"{request.repository} has another {request.file} than the catalog: {name} {got}, expected "
                    f"{wanted}; nothing was downloaded: pin the revision, or correct the catalog",
                    "mismatch",
                )
        if size > request.most_bytes:
            raise Refused(
                f"{request.file} of {request.repository} has {size:,} bytes, more than a model of the catalog's "
                "parameters can have; correct the catalog",
                "mismatch",
            )
        return Found(commit, sha256, size, self._keep_only(sha256, size))

    def _ask(self) -> tuple[str, str, int]:
        """Commit, sha256 and size."""
        request = self._request
        info = HfApi(library_name="edge-chat-appliance", library_version=__version__).model_info(
            request.repository,
            revision=request.revision or None,
            files_metadata=True,
            timeout=request.answer_timeout_s,
            token=self._token,
        )
        files = {entry.rfilename: entry for entry in info.siblings or ()}
        if request.file not in files:
            raise self._refusals.no_file(sorted(files))
        lfs = files[request.file].lfs
        if lfs is not None:
            return str(info.sha), lfs.sha256, lfs.size
        url = hf_hub_url(request.repository, request.file, revision=str(info.sha))  # some mirrors leave it out above
        header = get_hf_file_metadata(url, token=self._token, timeout=request.answer_timeout_s)
        return str(info.sha), str(header.etag), -1 if header.size is None else header.size

    def _fetch(self, found: Found) -> Path:
        return Path(
            hf_hub_download(
                self._request.repository,
                self._request.file,
                revision=found.commit,
                local_dir=self._directory,
                cache_dir=self._directory,
                token=self._token,
                etag_timeout=self._request.answer_timeout_s,
                tqdm_class=cast("Any", self._meter.begin),
                library_name="edge-chat-appliance",
                library_version=__version__,
            )
        )

    def _keep_only(self, sha256: str, size_bytes: int) -> int:
        """Remove parts of other files; bytes of this one that are there."""
        kept = 0
        for part in self._directory.rglob("*.incomplete"):
            if f".{sha256}." in part.name and part.stat().st_size <= size_bytes:
                kept = part.stat().st_size
            else:
                part.unlink()
        whole = self._directory / self._request.file
        return size_bytes if whole.is_file() and whole.stat().st_size == size_bytes else kept

    def _again_while_busy(self, step: Callable[[], T]) -> T:
        """`step`, tried again where that may help. Raises what it raises at last."""
        failures = 0
        while True:
            before = self._meter.received
            try:
                return step()
            except Exception as raised:
                error = _cause(raised)
                failures = 1 if self._meter.received > before else failures + 1
                pause_s = self._pause_s(error, failures)
                if pause_s is None:
                    raise error from None
                if failures > MOST_FAILURES and self._meter.received:
                    raise self._refusals.broken(error) from None
                _say(Waiting(str(self._refusals.of(error))))
                time.sleep(pause_s)

    def _pause_s(self, error: BaseException, failures: int) -> float | None:
        """Seconds until it is worth another try; None: it is not."""
        begun = self._meter.received > 0
        own = PAUSES_S[min(failures, len(PAUSES_S)) - 1]
        if isinstance(error, Busy):
            pause_s = own if error.wait_s is None else error.wait_s
            most_s = self._request.download_timeout_s if begun else self._request.source_timeout_s
            return pause_s if pause_s <= most_s else None
        if not begun:
            return None
        if isinstance(error, HfHubHTTPError):
            # A signed address opens for an hour; the hub gives another. No range: there is no byte more to be had.
            elsewhere = error.response.url.netloc != httpx.URL(constants.ENDPOINT).netloc
            no_more = error.response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE
            return own if elsewhere and not no_more else None
        broken = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
        short = isinstance(error, OSError) and error.errno is None and not isinstance(error, HfHubHTTPError)
        return own if broken or short else None


class Meter:
    """What came of the file, as tqdm would be told. Raises where the hub sends more than it announced."""

    def __init__(self) -> None:
        self.most = 0
        self.received = 0
        """In this process, all tries together."""
        self._done = 0
        self._told_at = 0.0

    def begin(self, *, initial: int = 0, **_: object) -> Self:
        """In the place of tqdm's constructor."""
        self._done = initial
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def update(self, count: float = 1) -> None:
        """`count` more bytes; fewer, where the library begins anew."""
        self._done += int(count)
        self.received += max(0, int(count))
        if self._done > self.most:
            raise Refused(
                f"the hub sends more than the {self.most:,} bytes that it announced; try again, or set HF_ENDPOINT to "
                "another mirror",
                "mismatch",
            )
        if time.monotonic() - self._told_at >= TICK_S or self._done == self.most:
            self._told_at = time.monotonic()
            _say(Received(self._done))


def open_client() -> httpx.Client:
    """In the place of huggingface_hub's own: raises at once where a hub is busy or redirects in circles."""
    redirects = 0

    def look(response: httpx.Response) -> None:
        nonlocal redirects
        redirects = redirects + 1 if response.is_redirect else 0
        if redirects > MOST_REDIRECTS:
            raise httpx.TooManyRedirects("too many redirects", request=response.request)
        if response.status_code in _BUSY:
            raise Busy(response.status_code, wait_asked_s(response.headers))

    return httpx.Client(event_hooks={"response": [look]}, follow_redirects=True, timeout=None)  # noqa: S113 # each call's


def wait_asked_s(headers: httpx.Headers) -> float | None:
    """Seconds that the hub asks to be given; None where it does not say."""
    limits = parse_ratelimit_headers(headers)
    if limits is not None:
        return float(limits.reset_in_seconds)
    after = headers.get("Retry-After", "").strip()
    return float(after) if after.isdecimal() else None


def _cause(error: BaseException) -> BaseException:
    """What is behind the library's "not in the local cache"."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


def _say(message: Message) -> None:
    print(msgspec.json.encode(message).decode(), flush=True)


def _fail(failed: Failed) -> int:
    _say(failed)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
