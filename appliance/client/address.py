"""From what a person types to the WebSocket's URL. Opens nothing."""

import ssl
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

from appliance.client.errors import BadAddress

WEBSOCKET_PATH = "/v1/ws"
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class Address(Struct, frozen=True):
    """Where to connect, and how to name it without the credentials that a URL may carry."""

    url: str
    shown: str
    tls: ssl.SSLContext | None = None
    """Whom to trust; None: whom this system trusts."""


def parse_address(url: str | Address) -> Address:
    """The address in `url`: `http(s)://HOST[:PORT][/PREFIX]` or `ws(s)://HOST[:PORT]/PATH`; one that is parsed stays.

    An http(s) URL names the appliance and gets the WebSocket's path; a ws(s) URL with a path is taken as it is.
    Raises BadAddress.
    """
    if isinstance(url, Address):
        return url
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise BadAddress(f"{url!r} is not a URL: {error}") from None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise BadAddress(f"{url!r} is not the URL of an appliance; expected one such as http://127.0.0.1:8080")
    path = parts.path.rstrip("/")
    if not path.endswith(WEBSOCKET_PATH) and (parts.scheme.startswith("http") or not path):
        path += WEBSOCKET_PATH
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = host if port is None else f"{host}:{port}"
    credentials, _, _ = parts.netloc.rpartition("@")
    return Address(
        url=urlunsplit(
            (_SCHEMES[parts.scheme], f"{credentials}@{shown}" if credentials else shown, path, parts.query, "")
        ),
        shown=urlunsplit((_SCHEMES[parts.scheme], shown, path, "", "")),
    )
