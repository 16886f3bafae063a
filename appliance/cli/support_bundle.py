"""`appliance support-bundle`: where the archive goes, and what is told of it. Gathers nothing itself."""

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.operation import ConfigOption, interruptible, tell
from appliance.errors import StartError

SUFFIX = ".tar.gz"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("support-bundle")(support_bundle)


def support_bundle(
    out: Annotated[
        Path | None,
        typer.Argument(metavar="OUT.tar.gz", help="A new file; without it one is named after host and time."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Put what whoever helps will ask for into one archive, without secrets, prompts or answers.

    Its MANIFEST.json says what is in it, and what could not be read and why. Nothing is sent anywhere.
    """
    from appliance import __version__
    from appliance.doctor.examination import examine
    from appliance.doctor.support.archive import directory_name, pack, write
    from appliance.doctor.support.gathering import gather, known_secrets
    from appliance.doctor.support.redacting import Redactor
    from appliance.doctor.support.sources import sources
    from appliance.doctor.surroundings import look

    at, host = datetime.now(UTC).isoformat(timespec="seconds"), platform.node() or "unknown"
    file = out or Path(directory_name(at, host) + SUFFIX)
    with interruptible("nothing was written"):
        here = look(config)
        redactor = Redactor(known_secrets(config))
        parts, left_out = gather(sources(here, examine(here)), redactor)
        content = pack(parts, left_out, at=at, host=host, version=__version__)
        try:
            write(file, content)
        except OSError as error:
            raise StartError(f"{file} can't be written: {error.strerror}; name another file") from error
    for item in left_out:
        tell(f"left out: {item.name}: {item.reason.strip().splitlines()[0][:200]}")
    typer.echo(f"{file}: {len(parts)} files, {len(content) / 1000:,.0f} kB, {redactor.count} secrets taken out")
