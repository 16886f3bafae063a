"""What becomes of a result: a file, a comparison, a roofline, a page."""

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from msgspec.structs import replace

from appliance.bench.charts import Series, line_chart, nice_ceiling
from appliance.bench.compare import compare
from appliance.bench.errors import NoResult
from appliance.bench.html import html_report
from appliance.bench.results import Result, encode_result, read_result, write_file
from appliance.bench.tables import print_comparison, print_result
from tests.support.bench import HOST, SERVER, result, run

# ---- files -------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    written = result(run("free", 1), run("chat", 8, failed=3))
    write_file(file, encode_result(written))
    assert read_result(file) == written
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no JSON", "no result"),
        (b"[]", "no result"),
        (b'{"schema": "another", "schema_version": 1}', "no result"),
        (b'{"schema": "appliance-bench", "schema_version": 2}', "upgrade the appliance"),
        (b'{"schema": "appliance-bench", "schema_version": 1}', "no result"),
        (b"[" * 100_000, "no result"),
    ],
)
def test_a_file_that_is_no_result_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(NoResult, match=reason) as caught:
        read_result(file)
    assert str(file) in str(caught.value)
    assert caught.value.exit_status == 78


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoResult, match="No such file"):
        read_result(tmp_path / "missing.json")


# ---- comparison --------------------------------------------------------------------------------------------


def test_a_comparison_gives_b_over_a_and_says_which_is_better() -> None:
    rows = {
        row.metric: row for row in compare(result(run("free", 1)), result(run("free", 1, ttft_ms=50.0, tokens=22))).rows
    }
    assert (rows["tokens/s"].ratio, rows["tokens/s"].better) == (2.0, "B")
    assert (rows["TTFT p50 ms"].ratio, rows["TTFT p50 ms"].better) == (0.5, "B")
    assert (rows["gap p50 ms"].ratio, rows["gap p50 ms"].better) == (1.0, "even")
    assert (rows["failed"].ratio, rows["failed"].better) == (None, "even")


def test_what_fails_more_is_worse() -> None:
    (row,) = [r for r in compare(result(run("free", 1)), result(run("free", 1, failed=2))).rows if r.metric == "failed"]
    assert (row.a, row.b, row.better) == (0, 2, "A")


def test_like_results_are_compared_without_a_warning() -> None:
    assert compare(result(), replace(result(), seed=2)).warnings == []


def test_other_hosts_models_settings_and_workloads_are_warned_of() -> None:
    other = result(
        replace(run("free", 1), warm_up=2),
        run("code", 4),
        host=replace(HOST, governor="performance", memory_bandwidth=None),
        server=replace(
            SERVER,
            model=replace(SERVER.model, digest="cd" * 32),
            engine=replace(SERVER.engine, settings={"kv_cache_tokens": 1024}),
        ),
    )
    warnings = "\n".join(compare(result(), other).warnings)
    for wanted in (
        "hosts differ in governor: powersave and performance",
        "models differ in digest",
        "engine.kv_cache_tokens: 32768 and 1024",
        "only B has code at 4",
        "workloads differ in warm_up (free at 1): 1 and 2",
    ):
        assert wanted in warnings


# ---- roofline ----------------------------------------------------------------------------------------------


def test_the_roofline_share_is_weights_times_tokens_over_bandwidth() -> None:
    roof = result().roofline
    assert roof.share == pytest.approx(200e6 * 10 / 20e9)
    assert roof.why_not is None


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (result(run("free", 2)), "no single free stream"),
        (result(same_host=False), "another machine"),
        (result(host=replace(HOST, memory_bandwidth=None)), "bandwidth"),
        (result(server=replace(SERVER, model=replace(SERVER.model, weights_read_bytes=None))), "does not tell"),
    ],
)
def test_the_share_is_left_out_where_it_is_not_known(made: Result, reason: str) -> None:
    roof = made.roofline
    assert roof.share is None
    assert reason in (roof.why_not or "")


# ---- tables ------------------------------------------------------------------------------------------------


def test_a_table_for_a_pipe_is_plain_and_aligned() -> None:
    out = io.StringIO()
    print_result(result(run("free", 1), run("grounded", 10, failed=2)), out)
    lines = out.getvalue().splitlines()
    table = [line for line in lines if line.startswith(("kind", "free ", "grounded "))]
    assert len(table) == 3
    assert len({len(line) for line in table}) == 1
    assert "grounded, 10 clients, failed: 2 × queue_full" in lines
    assert "\x1b" not in out.getvalue()
    assert lines[-1].startswith("roofline share: 10% = 200 MB a token")


def test_a_comparison_is_a_table_too() -> None:
    out = io.StringIO()
    print_comparison(compare(result(), result(run("free", 1, tokens=22))), out)
    assert re.search(r"^free +1 +tokens/s +20 +40 +2\.000  B$", out.getvalue(), re.MULTILINE)


# ---- the page ----------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_but_itself() -> None:
    page = html_report(result(run("free", 1), run("free", 8), run("code", 8)))
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|@import", page)
    assert page.count("<svg") == 5
    assert "prefers-color-scheme: dark" in page


def test_the_charts_of_a_page_are_well_formed() -> None:
    page = html_report(result(run("free", 1), run("chat", 1, failed=1)))
    for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(chart)  # noqa: S314 # our own text


def test_what_a_server_says_of_itself_can_not_break_the_page() -> None:
    server = replace(SERVER, model=replace(SERVER.model, id="<script>alert(1)</script>"))
    assert "<script>" not in html_report(result(server=server))


def test_a_series_of_one_point_shows_its_value() -> None:
    chart = line_chart("t", "ms", "clients", ["1"], [Series("p50", [123.0])])
    assert "<polyline" not in chart
    assert ">123</text>" in chart


def test_a_chart_without_values_is_a_chart() -> None:
    series = [Series("p50", [None, None]), Series("p95", [0.0, None])]
    ET.fromstring(line_chart("t", "ms", "clients", ["1", "2"], series))  # noqa: S314 # our own text


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (1, 1), (1.1, 2), (2.2, 2.5), (3, 5), (7, 10), (101, 200), (0.03, 0.05)]
)
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    assert nice_ceiling(value) == pytest.approx(top)
