"""What people read of a run: the same tables on a terminal and on the page."""

import io

import msgspec
from rich.console import Console

from benchmarks.cells import BARE, DAEMON, Q4_0
from benchmarks.report import markdown, show, spread
from benchmarks.results import Results
from benchmarks.targets import judge
from tests.support.benchmark import chat, level, prefill, results


def whole() -> Results:
    found = results(
        clients_8=[
            {DAEMON: level(tokens_per_s=120.0), BARE: level(tokens_per_s=100.0)},
            {DAEMON: level(tokens_per_s=110.0), BARE: level(tokens_per_s=100.0, failed=2), Q4_0: level(tpot_ms=None)},
        ]
    )
    found.chats = [chat(DAEMON, 150.0, 100.0)]
    found.prefills = [prefill(64, 200.0), prefill(128, 400.0), prefill(64, 300.0)]
    found.memory_bytes = {"front": 58_000_000, "worker": 700_000_000}
    found.verdicts = judge(found, 128)
    return found


def test_a_figure_has_its_spread_where_there_are_several() -> None:
    assert spread([], 1) == "–"
    assert spread([1234.56], 0) == "1,235"
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0–3.0)"


def test_the_page_has_every_contender_with_its_ratio_to_the_daemon() -> None:
    lines = markdown(whole()).splitlines()
    daemon = next(line for line in lines if line.startswith("| clients-8 | daemon |"))
    bare = next(line for line in lines if line.startswith("| clients-8 | bare loop"))
    assert "115.0 (110.0–120.0)" in daemon
    assert "(2 requests failed)" in bare
    assert bare.endswith("| 1.20 |")  # the round with failures has no throughput


def test_the_page_tells_method_verdicts_chat_and_steps() -> None:
    page = markdown(whole())
    assert "AVX2_VNNI" in page
    assert "`-fa on`" in page
    assert "front 58 MB, worker 700 MB" in page
    assert "| stall of a stream by a 2,000-token prompt | at most 300 ms | 400 | MISSED |" in page
    assert "| memory of the front process | at most 80 MB | 58 | met |" in page
    assert "| TTFT over llama.cpp's, 33 prompt tokens | at most 0.65 | – | not measured |" in page
    assert "| daemon, 500 to 570 prompt tokens, 70 new | 2000 | 150 | 100 | 50 |" in page
    assert "| 64 | 250 (200–300) | 26 (26–26) | 6,000 (6,000–6,000) |" in page


def test_every_table_of_the_page_is_shown_too() -> None:
    text = io.StringIO()
    show(whole(), Console(file=text))
    titles = [line.removeprefix("## ") for line in markdown(whole()).splitlines() if line.startswith("## ")]
    assert len(titles) == 4
    assert all(title in text.getvalue() for title in titles)


def test_results_can_be_read_back() -> None:
    found = whole()
    assert msgspec.json.decode(msgspec.json.encode(found), type=Results) == found
