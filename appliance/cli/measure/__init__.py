"""`appliance models measure`: options, files and exit statuses of comparing artefacts. Measures nothing itself."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.files import require_writable, write
from appliance.cli.operation import ConfigOption, interruptible, open_progress, open_store, tell
from appliance.config.remedies import extra_remedy
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.models.measuring.artefacts import Artefact
    from appliance.models.measuring.figures import Measurement
    from appliance.models.store import Store
    from appliance.models.texts import Sample

NO_REFERENCE = (
    "measure needs something to compare with: --reference FILE.gguf, or a directory with an IR, of the same weights in "
    "FP16; a quantized GGUF is dequantized, and distances are then those to it"
)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("measure")(measure)


def measure(
    artefacts: Annotated[
        list[str], typer.Argument(metavar="ARTEFACT…", help="Installed ID or ID@DIGEST, directory with an IR, or GGUF.")
    ],
    reference: Annotated[
        str | None, typer.Option(metavar="ARTEFACT", help="The same weights in FP16; a GGUF is dequantized.")
    ] = None,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="Held-out text (JSONL) of your own.")] = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Time to first token, ms a token, memory.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything here.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a report here.")] = None,
    config: ConfigOption = None,
) -> None:
    """Compare quantized artefacts with a reference: KL divergence, agreement, perplexity, bytes, speed here."""
    effective, store = open_store(config)
    if reference is None:
        raise ConfigError(NO_REFERENCE)
    require_writable(json_file, html_file)

    from appliance.models.measuring.measure import Plan
    from appliance.models.measuring.measure import measure as measure_plan
    from appliance.models.measuring.scratch import open_scratch, scratch_place

    samples, name = _samples(text)
    plan = Plan(
        reference=_found([reference], store)[0],
        artefacts=_found(artefacts, store),
        samples=samples,
        text_file=name,
        engine=effective.settings.engine,
        speed=speed,
    )
    if any(artefact.source == "gguf" for artefact in (plan.reference, *plan.artefacts)):
        _require_gguf()
    with (
        interruptible("nothing is left"),
        open_scratch(scratch_place()) as scratch,
        open_progress() as progress,
    ):
        measurement = measure_plan(plan, scratch, progress)
    _show(measurement, json_file, html_file)


def _show(measurement: "Measurement", json_file: Path | None, html_file: Path | None) -> None:
    """Tables on standard output, and the files that were asked for. Raises StartError where one can't be written."""
    from appliance.bench.host import describe_host
    from appliance.cli.measure.html import html_report
    from appliance.cli.measure.tables import print_measurement
    from appliance.models.measuring.figures import encode_measurement

    print_measurement(measurement, sys.stdout)
    host = describe_host(bandwidth=False)
    for file, content in (
        (json_file, encode_measurement(measurement, host)),
        (html_file, html_report(measurement, host).encode()),
    ):
        write(file, content)
        if file is not None:
            tell(f"written: {file}")


def _found(named: "Sequence[str]", store: "Store") -> "list[Artefact]":
    from appliance.models.measuring.artefacts import find_artefact, with_clear_names

    return with_clear_names([find_artefact(name, store) for name in named], named)


def _samples(file: Path | None) -> "tuple[list[Sample], str]":
    """The held-out text, and what people call it. Raises ConfigError."""
    from appliance.models.texts import read_samples, read_shipped

    if file is None:
        return read_shipped("held-out"), "held-out.jsonl"
    try:
        return read_samples(file.read_bytes(), str(file)), file.name
    except OSError as error:
        raise ConfigError(f"the held-out text {file} can't be read: {error.strerror}; name a file of samples") from None


def _require_gguf() -> None:
    """Raises ConfigError where the `gguf` package, which dequantizes, is not installed."""
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ConfigError(f"GGUF files are dequantized with gguf; run: {extra_remedy('quantize')}")
