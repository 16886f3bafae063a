"""`appliance version`: what is installed, read from package metadata. Imports none of what it names."""

import json
import platform
from importlib import metadata
from typing import Annotated

import typer

DISTRIBUTIONS = {
    "appliance": "edge-chat-appliance",
    "openvino": "openvino",
    "openvino-genai": "openvino-genai",
    "openvino-tokenizers": "openvino-tokenizers",
    "aiohttp": "aiohttp",
}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("version")(version)


def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the versions of the appliance and of what it runs on."""
    found = installed_versions()
    if as_json:
        typer.echo(json.dumps(found))
        return
    width = max(map(len, found))
    for name, number in found.items():
        typer.echo(f"{name:{width}}  {number or 'not installed'}")


def installed_versions() -> dict[str, str | None]:
    """Version by name; None where a distribution is not installed."""
    found: dict[str, str | None] = {"appliance": None, "python": platform.python_version()}
    for name, distribution in DISTRIBUTIONS.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
