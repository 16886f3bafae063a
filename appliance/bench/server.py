"""What an appliance tells over HTTP, beside its WebSocket: status and metrics. Knows no load."""

import ipaddress
import socket
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec
import psutil
from msgspec import Struct, field
from prometheus_client.parser import text_string_to_metric_families

from appliance.bench.errors import ServerUnreadable
from appliance.client.address import WEBSOCKET_PATH, Address, parse_address
from appliance.client.tls import tls_problem
from appliance.config.remedies import start_remedy

TIMEOUT_S = 10.0

T = TypeVar("T")


class ServedModel(Struct, frozen=True, kw_only=True):
    """The model that answers."""

    id: str
    digest: str = ""
    quantization: str = ""
    context_tokens: int | None = None
    weights_bytes: int | None = None
    weights_read_bytes: int | None = None
    """For each token; None where the server can't tell."""


class ServedEngine(Struct, frozen=True, kw_only=True):
    """What runs the model, and how it is set."""

    pipeline: str
    versions: dict[str, str] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    isa_cap: str | None = None


class Server(Struct, frozen=True, kw_only=True):
    """What /v1/status says that a measurement depends on."""

    version: str
    ready: bool
    reason: str | None = None
    model: ServedModel
    engine: ServedEngine


class Load(Struct, frozen=True, kw_only=True):
    """Requests that are being answered, or wait to be."""

    running: int
    waiting: int


class _Loaded(Struct):
    requests: Load


class Metrics:
    """One scrape of /metrics."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str) -> float:
        """The sum over all labels. Raises ServerUnreadable where there is none of that name."""
        values = [sample.value for sample in self._samples if sample.name == name]
        if not values:
            raise ServerUnreadable(f"/metrics has no {name}; is it an appliance of this version?")
        return sum(values)

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """Values by one label."""
        return {sample.labels[label]: sample.value for sample in self._samples if sample.name == name}


class Observer:
    """Asks one appliance over HTTP."""

    def __init__(self, session: aiohttp.ClientSession, url: str | Address) -> None:
        """`url` as for the client, `session` as of `open_session`. Raises BadAddress."""
        self._session = session
        self._url = _http_url(url)

    async def server(self) -> Server:
        """What answers. Raises ServerUnreadable."""
        return await self._status(Server)

    async def load(self) -> Load:
        """What it has to do now. Raises ServerUnreadable."""
        return (await self._status(_Loaded)).requests

    async def _status(self, shape: type[T]) -> T:
        text = await self._get("/v1/status")
        try:
            return msgspec.json.decode(text, type=shape)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ServerUnreadable(f"{self._url}/v1/status is not that of an appliance: {error}") from None

    async def metrics(self) -> Metrics:
        """One scrape. Raises ServerUnreadable."""
        text = await self._get("/metrics")
        try:
            return Metrics(text)
        except ValueError as error:
            raise ServerUnreadable(f"{self._url}/metrics can't be read: {error}") from None

    async def _get(self, path: str) -> str:
        try:
            async with self._session.get(self._url + path, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as response:
                if response.status != 200:
                    raise ServerUnreadable(f"{self._url}{path} answers HTTP {response.status}; is it an appliance?")
                return await response.text()
        except TimeoutError:
            raise ServerUnreadable(f"{self._url}{path} does not answer within {TIMEOUT_S:g} s") from None
        except aiohttp.ClientSSLError as error:
            raise ServerUnreadable(f"{self._url} can't be asked: {tls_problem(error)}") from None
        except aiohttp.ClientConnectorError as error:
            raise ServerUnreadable(
                f"{self._url} can't be reached: {error.strerror}; is it running there? Start it with: {start_remedy()}"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ServerUnreadable(f"{self._url}{path} can't be read: {error}") from None


def is_this_host(url: str | Address) -> bool:
    """Whether `url` leads to an address of this machine. Asks the resolver: call it on a thread."""
    host = urlsplit(parse_address(url).url).hostname or ""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    others = {address for address in found if not ipaddress.ip_address(address).is_loopback}
    if not others:
        return bool(found)  # without a list of all interfaces, which a sandbox may not allow
    own = {entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries}
    return others <= own


def _http_url(url: str | Address) -> str:
    parts = urlsplit(parse_address(url).url)
    scheme = "https" if parts.scheme == "wss" else "http"
    return urlunsplit((scheme, parts.netloc, parts.path.removesuffix(WEBSOCKET_PATH), "", ""))
