"""A measurement as one HTML page that needs nothing else: no network, no script. Knows figures, no files."""

from collections.abc import Collection, Iterator, Sequence
from html import escape

from appliance.bench.charts import STYLE as CHART_STYLE
from appliance.bench.host import Host
from appliance.bench.html import STYLE
from appliance.bench.scatter import Point, scatter_chart
from appliance.cli.measure.tables import (
    COLUMNS,
    LEFT_COLUMNS,
    artefact_rows,
    part_columns,
    part_rows,
    reference_row,
)
from appliance.models.errors import MB
from appliance.models.measuring.figures import Measurement, pareto_front


def html_report(measurement: Measurement, host: Host) -> str:
    """The whole page."""
    title = f"Distance to {measurement.reference.name}"
    text = measurement.text
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="faint">appliance models measure, {escape(measurement.created_at)}; {escape(text.file)}, '
        f"{text.samples} samples, {text.positions:,} positions</p>",
        *(f"<p><b>Note:</b> {escape(note)}.</p>" for note in measurement.notes),
        "<h2>Mean KL divergence by bytes of weights read a token</h2>",
        f'<div class="card">{_front(measurement)}</div>',
        "<h2>Figures</h2>",
        _table(COLUMNS, [reference_row(measurement), *artefact_rows(measurement)], LEFT_COLUMNS),
        "<h2>Mean KL by language and kind</h2>",
        _table(part_columns(measurement.artefacts), part_rows(measurement.artefacts), LEFT_COLUMNS),
        "<h2>How it was measured</h2>",
        _facts(measurement, host),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}: appliance models measure</title>\n"
        f"<style>{STYLE}{CHART_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _front(measurement: Measurement) -> str:
    front = pareto_front(measurement.artefacts)
    points = [
        Point(
            label=str(number),
            title=f"{one.name}: {one.weights_read_bytes / MB:.1f} MB, {one.quality.mean_kl:.4f}",
            x=one.weights_read_bytes / MB,
            y=one.quality.mean_kl,
            on_front=one in front,
        )
        for number, one in enumerate(measurement.artefacts, start=1)
        if one.weights_read_bytes is not None
    ]
    if not points:
        return "<p>Of no artefact is it known how many bytes of weights a token reads.</p>"
    return (
        scatter_chart("Mean KL divergence by MB of weights read a token", "MB a token", "mean KL, nats", points)
        + '<p class="faint">Numbers are those of the table. Filled and joined: no other reads less and is nearer to '
        "the reference.</p>"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str]) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        styles = (' class="left"' if column in left else "" for column in columns)
        return "".join(f"<{tag}{style}>{escape(value)}</{tag}>" for style, value in zip(styles, values, strict=True))

    head = cells("th", columns)
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _facts(measurement: Measurement, host: Host) -> str:
    rows = "".join(
        f'<tr><th class="left">{escape(name)}</th><td class="wide">{escape(value)}</td></tr>'
        for name, value in _fact_rows(measurement, host)
    )
    return f'<div class="card scroll"><table>{rows}</table></div>'


def _fact_rows(measurement: Measurement, host: Host) -> Iterator[tuple[str, str]]:
    reference = measurement.reference
    yield f"reference {reference.name}", f"{reference.path}: {reference.weights}"
    for number, one in enumerate(measurement.artefacts, start=1):
        digest = f", digest {one.digest[:16]}" if one.digest else ""
        yield f"{number} {one.name}", f"{one.path}{digest}: {one.weights}"
    yield "text", f"sha256 {measurement.text.sha256[:16]}"
    yield from measurement.how.items()
    yield "CPU", f"{host.cpu_model or 'unknown'}, {host.cores_usable} usable; ISA cap {host.isa_cap or 'none'}"
    packages = ", ".join(f"{name} {version}" for name, version in host.packages.items() if version is not None)
    yield "software", f"Linux {host.kernel}, Python {host.python}, {packages}"
