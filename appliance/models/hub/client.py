"""`python -m appliance.models.hub.client REQUEST`: a file or a checkpoint of a model hub, in a process of its own.

Knows huggingface_hub; knows no catalog and no store. Own process: whatever a hub does, time and memory are bounded
from outside, and nothing else of the appliance pays for the import.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import httpx
import msgspec
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined] # documented, not exported

from appliance import __version__
from appliance.engine.errand import limit
from appliance.engine.orphan import end_with_parent
from appliance.models.checkpoint.files import WEIGHTS_SUFFIX, wanted_names
from appliance.models.hub.meter import Meter
from appliance.models.hub.refusals import Busy, Refusals, Refused, host_of
from appliance.models.hub.wire import Announced, Failed, Fetched, Found, Message, Request, Waiting

CHUNK_BYTES = 1 << 18  # what a cut connection can cost; the library's own 10 MB are minutes on a slow line
MEMORY_BYTES = 1 << 29  # 60 MB are used; an answer without end must not take the machine's
MOST_REDIRECTS = 10
MOST_FAILURES = 5  # in a row, without a byte between them
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)

_BUSY = (429, 500, 502, 503, 504)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
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
    """What is wanted, from the question what it is to its last byte."""

    def __init__(self, request: Request, token: Token, refusals: Refusals) -> None:
        self._request = request
        self._token = token
        self._refusals = refusals
        self._directory = Path(request.directory)
        self._meter = Meter(_say)

    def run(self) -> Path:
        """The file, or the checkpoint's directory. Raises Refused, OSError, and what the libraries raise."""
        found = self._again_while_busy(self.find)
        _say(found)  # whoever started this knows what room there is, and ends it where that is too little
        for file in found.files:
            self._meter.expect(file.size_bytes)
            self._again_while_busy(partial(self._fetch, found.commit, file.name))
        return self._directory / self._request.file

    def find(self) -> Found:
        """What the hub says of it. Raises Refused where that is not what is wanted."""
        request = self._request
        try:
            commit, files = self._ask()
        except HfHubHTTPError:  # some are a ValueError too
            raise
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._refusals.no_hub() from None
        if not _COMMIT.fullmatch(commit) or not all(self._is_known(file) for file in files):
            raise self._refusals.no_hub()
        if _COMMIT.fullmatch(request.revision) and commit != request.revision:
            raise self._refusals.no_hub()
        found = Found(commit, files, 0)
        sha256 = files[0].digest if request.file else ""
        for name, wanted, got in (("sha256", request.sha256, sha256), ("size", request.size_bytes, found.size_bytes)):
            if wanted and got != wanted:
                raise Refused(
                    f"{request.repository} has another {request.file or 'checkpoint'} than the catalog: {name} {got}, "
                    f"expected {wanted}; nothing was downloaded: pin the revision, or correct the catalog",
                    "mismatch",
                )
        if found.size_bytes > request.most_bytes:
            raise Refused(
                f"{request.file or 'the checkpoint'} of {request.repository} has {found.size_bytes:,} bytes, more than "
                "a model of the catalog's parameters can have; correct the catalog",
                "mismatch",
            )
        return Found(commit, files, self._keep_only(files))

    def _is_known(self, file: Announced) -> bool:
        """Whether the hub said enough of a file to know it when it is here. Git has the small ones of a checkpoint."""
        small = not self._request.file and not file.name.endswith(WEIGHTS_SUFFIX)
        digest = _SHA256.fullmatch(file.digest) or (small and _SHA1.fullmatch(file.digest))
        return bool(digest) and file.size_bytes >= 0

    def _ask(self) -> tuple[str, tuple[Announced, ...]]:
        """The commit, and what is wanted of it."""
        request = self._request
        info = HfApi(library_name="edge-chat-appliance", library_version=__version__).model_info(
            request.repository,
            revision=request.revision or None,
            files_metadata=True,
            timeout=request.answer_timeout_s,
            token=self._token,
        )
        files = {entry.rfilename: entry for entry in info.siblings or ()}
        wanted = [request.file] if request.file else wanted_names(files)
        if not wanted or not files.keys() >= set(wanted):
            raise self._refusals.no_file(sorted(files))
        return str(info.sha), tuple(self._announced(str(info.sha), files[name]) for name in wanted)

    def _announced(self, commit: str, entry: RepoSibling) -> Announced:
        name = entry.rfilename
        if entry.lfs is not None:
            return Announced(name, entry.lfs.sha256, entry.lfs.size)
        if not self._request.file and entry.blob_id and entry.size is not None:
            return Announced(name, entry.blob_id, entry.size)
        url = hf_hub_url(self._request.repository, name, revision=commit)  # some mirrors leave it out above
        header = get_hf_file_metadata(url, token=self._token, timeout=self._request.answer_timeout_s)
        return Announced(name, str(header.etag), -1 if header.size is None else header.size)

    def _fetch(self, commit: str, name: str) -> None:
        hf_hub_download(
            self._request.repository,
            name,
            revision=commit,
            local_dir=self._directory,
            cache_dir=self._directory,
            token=self._token,
            etag_timeout=self._request.answer_timeout_s,
            tqdm_class=cast("Any", self._meter.begin),
            library_name="edge-chat-appliance",
            library_version=__version__,
        )

    def _keep_only(self, files: Sequence[Announced]) -> int:
        """Remove parts of other files; bytes of these that are there."""
        kept = 0
        for part in self._directory.rglob("*.incomplete"):
            size_bytes = next((file.size_bytes for file in files if f".{file.digest}." in part.name), -1)
            if part.stat().st_size <= size_bytes:
                kept += part.stat().st_size
            else:
                part.unlink()
        for file in files:
            whole = self._directory / file.name
            if whole.is_file() and whole.stat().st_size == file.size_bytes:
                kept += file.size_bytes
        return kept

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
