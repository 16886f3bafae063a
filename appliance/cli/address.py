"""Which appliance a command asks, and what to say where nobody is there. Opens nothing."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from appliance.config.remedies import start_remedy
from appliance.errors import ConfigError

if TYPE_CHECKING:
    import ssl

    from appliance.client import ClientError
    from appliance.client.address import Address

UrlOption = Annotated[
    str | None, typer.Option(help="The appliance; without it the one of this host's settings.", metavar="URL")
]
# readable=False: that it can be read is found out by reading it, which says what to do, with exit status 78.
ConfigOption = Annotated[
    Path | None, typer.Option(help="Settings file that names the default URL.", metavar="FILE", readable=False)
]


def default_url(config: Path | None) -> "Address":
    """Of this host's own appliance, which is known by the certificate that the settings name. Raises ConfigError."""
    from appliance.client.address import parse_address
    from appliance.config import load

    server = load(config).settings.server
    if server.port == 0:
        raise ConfigError("server.port = 0 takes a free port, which only the daemon's log tells; name it with --url")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 # told apart, not bound
    file = server.tls_certificate_file
    place = f"[{host}]:{server.port}" if ":" in host else f"{host}:{server.port}"
    if not file:
        return parse_address(f"http://{place}")
    return replace(parse_address(f"https://{place}"), tls=_own_certificate(Path(file).expanduser()))


def _own_certificate(file: Path) -> "ssl.SSLContext":
    from appliance.client.tls import trusting

    try:
        return trusting(file)
    except OSError as error:  # ssl.SSLError among it
        reason = getattr(error, "reason", None) or error.strerror
        raise ConfigError(
            f"server.tls_certificate_file: {file} can't be read: {reason}; as root: chmod 644 {file}, "
            "or say where the appliance is: --url"
        ) from None


def in_words(error: "ClientError") -> str:
    """One line for people, with the remedy where there is one."""
    from appliance.client import ConnectFailed, RequestFailed, TlsFailed, UnsupportedProtocol

    retry_after_s = error.retry_after_s if isinstance(error, ConnectFailed | RequestFailed) else None
    if retry_after_s is not None:
        return f"{error}; try again in {math.ceil(retry_after_s)} s"
    if isinstance(error, ConnectFailed) and not isinstance(error, UnsupportedProtocol | TlsFailed):
        return f"{error}; is it running there? Start it with: {start_remedy()}, or say where it is: --url"
    return str(error)
