"""What becomes of a measurement: the front, tables, a file, a page."""

import io
import json
import re
import xml.etree.ElementTree as ET

import pytest

from appliance.bench.scatter import Point, scatter_chart, x_range
from appliance.cli.measure.html import html_report
from appliance.cli.measure.tables import print_measurement
from appliance.models.measuring.figures import encode_measurement, pareto_front
from tests.support.bench import HOST
from tests.support.measure import SPEED, measured, measurement


def front_of(*figures: tuple[float | None, float]) -> list[str]:
    artefacts = [measured(str(number), *pair) for number, pair in enumerate(figures)]
    return [one.name for one in pareto_front(artefacts)]


def test_the_front_is_what_nothing_else_beats_in_both() -> None:
    assert front_of((300, 0.1), (260, 0.12), (320, 0.11), (330, 0.09)) == ["1", "0", "3"]
    assert front_of((300, 0.1)) == ["0"]


def test_of_two_that_read_the_same_the_nearer_is_on_the_front() -> None:
    assert front_of((300, 0.1), (300, 0.09)) == ["1"]
    assert front_of((300, 0.1), (290, 0.1)) == ["1"]


def test_what_reads_an_unknown_number_of_bytes_is_on_no_front() -> None:
    assert front_of((None, 0.01), (300, 0.1)) == ["1"]


def test_a_table_for_a_pipe_is_plain_and_aligned() -> None:
    out = io.StringIO()
    print_measurement(measurement(notes=("the reference is itself dequantized",)), out)
    lines = out.getvalue().splitlines()
    assert lines[0] == "held-out.jsonl: 10 samples, 100 positions"
    rows = {line.split()[0]: line for line in lines if line[:2].strip().isdigit() or re.match(r"\d\*", line)}
    assert list(rows) == ["1*", "2", "3*"]
    assert re.search(r"1\* +small +260\.0 +0\.1200 ± 0\.0120 +0\.600 +80\.0% +11\.00 +120 +22\.0 +900$", rows["1*"])
    assert rows["3*"].endswith("-")
    assert any(re.match(r" +f16 \(reference\) +- +- +- +- +10\.00", line) for line in lines)
    assert any(re.match(r"kind chat +100 +0\.2400 +0\.3400 +0\.1800$", line) for line in lines)
    assert lines[-1] == "note: the reference is itself dequantized"
    assert "\x1b" not in out.getvalue()


def test_speed_is_the_median_of_the_answers() -> None:
    assert (SPEED.ttft_ms, SPEED.ms_per_token, SPEED.prompt_tokens, SPEED.answers) == (120.0, 22.0, 251, 3)


def test_the_file_has_everything_and_the_machine() -> None:
    content = json.loads(encode_measurement(measurement(), HOST))
    assert (content["schema"], content["schema_version"]) == ("appliance-measure", 1)
    assert content["host"]["cpu_model"] == "Intel(R) N100"
    assert [one["name"] for one in content["artefacts"]] == ["small", "worse", "near"]
    assert content["artefacts"][0]["quality"]["mean_kl"] == 0.12
    assert content["artefacts"][2]["speed"] is None


def test_the_page_needs_nothing_but_itself() -> None:
    page = html_report(measurement(notes=("the reference is itself dequantized",)), HOST)
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|@import", page)
    assert page.count("<svg") == 1
    assert "the reference is itself dequantized" in page
    assert page.count("<circle") == 3


def test_a_name_can_not_break_the_page() -> None:
    page = html_report(measurement(measured("<script>alert(1)</script>", 300, 0.1)), HOST)
    assert "<script>" not in page


def test_a_page_without_known_bytes_is_a_page() -> None:
    assert "<svg" not in html_report(measurement(measured("a", None, 0.1)), HOST)


@pytest.mark.parametrize("ys", [(0.1, 0.2), (0.0, 0.0), (0.1,)])
def test_a_scatter_chart_is_well_formed(ys: tuple[float, ...]) -> None:
    points = [Point(str(place), "<t>", 300.0 + place, y, True) for place, y in enumerate(ys)]
    chart = ET.fromstring(scatter_chart("a & b", "x", "y", points))  # noqa: S314 # our own text
    xs = [float(mark.attrib["cx"]) for mark in chart.iter("circle")]
    assert xs == sorted(set(xs))
    assert all(58 <= x <= 740 for x in xs)


@pytest.mark.parametrize("values", [[300.0], [260.0, 330.0], [0.0, 0.0], [5.0, 1000.0]])
def test_an_axis_holds_its_values(values: list[float]) -> None:
    begin, end = x_range(values)
    assert begin < min(values)
    assert max(values) < end
