"""`appliance` drain, undrain, reload: a running daemon out of service and back, its settings anew. Knows terminals."""

import time
from typing import Annotated, Any

import typer

from appliance.cli.operation import ConfigOption, JsonOption, interruptible, print_json
from appliance.config import load
from appliance.config.paths import SYSTEM_RUNTIME, control_socket, service_is_hidden
from appliance.config.remedies import start_remedy
from appliance.errors import StartError

POLL_S = 0.2

WaitOption = Annotated[
    float | None, typer.Option("--wait", min=0, metavar="S", help="Return when nothing runs, or fail after S seconds.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("drain")(drain)
    app.command("undrain")(undrain)
    app.command("reload")(reload)


def drain(wait: WaitOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Have the daemon refuse new requests and finish those that it has; `undrain` or a restart ends it."""
    ask = _Asking(config)
    standing = ask("drain")
    if wait is not None:
        standing = _wait(ask, standing, wait)
    if as_json:
        print_json(standing)
    else:
        typer.echo(f"drained; {_left(standing)}")
    if wait is not None and _live(standing):
        raise StartError(f"not done after {wait:g} s; the appliance stays drained (appliance undrain)")


def undrain(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Have the daemon take requests again."""
    standing = _Asking(config)("undrain")
    if as_json:
        print_json(standing)
    else:
        typer.echo("requests are taken again")


def reload(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Have the daemon read its settings again; says what it took up, and what needs a restart."""
    changes = _Asking(config)("reload")
    if as_json:
        print_json(changes)
        return
    until = changes["certificate_until"]
    if changes["changed"] or not until:
        typer.echo(f"changed: {', '.join(changes['changed'])}" if changes["changed"] else "nothing has changed")
    if until:
        typer.echo(f"new connections get the renewed certificate, valid until {until}")
    if changes["needs_restart"]:
        typer.echo(f"needs a restart: {', '.join(changes['needs_restart'])}")
    if changes["socket_decides"]:
        names = ", ".join(changes["socket_decides"])
        typer.echo(
            f"without effect, as appliance.socket decides where it listens: {names} (systemd.md, Who may connect)"
        )


class _Asking:
    """Asks the daemon of this host. Raises StartError where none runs, ControlFailed."""

    def __init__(self, config: Any) -> None:
        self._configured = load(config).settings.server.control_socket
        self._path = control_socket(self._configured)

    def __call__(self, route: str, *, change: bool = True) -> dict[str, Any]:
        from appliance.control.client import NoDaemon, ask  # aiohttp: not for `appliance --help`

        try:
            return ask(self._path, f"/v1/{route}", change=change)
        except NoDaemon:
            raise StartError(self._nobody()) from None

    def _nobody(self) -> str:
        if not self._configured and service_is_hidden():
            return f"the service's socket is in {SYSTEM_RUNTIME}, which only root may enter: run it with sudo"
        remedy = f"start it with: {start_remedy()}, or name its socket (server.control_socket)"
        return f"no daemon answers on {self._path}; {remedy}"


def _wait(ask: _Asking, standing: dict[str, Any], wait_s: float) -> dict[str, Any]:
    ends_at = time.monotonic() + wait_s
    with interruptible("the appliance stays drained"):
        while _live(standing) and (left_s := ends_at - time.monotonic()) > 0:
            time.sleep(min(POLL_S, left_s))
            standing = ask("drain", change=False)
    return standing


def _live(standing: dict[str, Any]) -> int:
    live: int = standing["running"] + standing["waiting"]
    return live


def _left(standing: dict[str, Any]) -> str:
    return f"{standing['running']} running, {standing['waiting']} waiting" if _live(standing) else "nothing runs"
