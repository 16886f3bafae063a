"""What records of measurements, all made up here, say of the newest; and which of them are kept."""

import json
from pathlib import Path

import msgspec
import pytest

from appliance.cli import self_benchmark
from appliance.cli.self_benchmark import EXIT_REGRESSION, keep, tell_verdict
from appliance.errors import StartError
from appliance.observability.logs import fields_of
from appliance.observability.self_benchmark import (
    RECORDS_MAX,
    SelfBenchmark,
    Verdict,
    history_names,
    judge,
    read_history,
)
from tests.support.self_benchmark import FINGERPRINT, measured, write_history

UPGRADED = msgspec.structs.replace(FINGERPRINT, engine={"openvino": "2026.5.0"})
SLOW = Verdict(regression=True)


def test_the_baseline_is_the_median_of_earlier_ones_of_the_same_fingerprint() -> None:
    earlier = [measured(1, 19), measured(2, 20), measured(3, 60), measured(4, 99, fingerprint=UPGRADED)]
    verdict = judge(measured(5, 18, ttft_ms=500), earlier)
    assert verdict.of == 3
    assert verdict.baseline is not None
    assert (verdict.baseline.tokens_per_s, verdict.baseline.ttft_ms) == (20, 400)
    assert verdict.ratios is not None
    assert (verdict.ratios.tokens_per_s, verdict.ratios.first_token) == (0.9, 0.8)
    assert not verdict.regression


@pytest.mark.parametrize(("tokens_per_s", "ttft_ms"), [(15.9, 400), (20, 501)])
def test_slower_tokens_and_a_slower_first_token_are_both_a_regression(tokens_per_s: float, ttft_ms: float) -> None:
    verdict = judge(measured(5, tokens_per_s, ttft_ms=ttft_ms), [measured(day) for day in (1, 2, 3)])
    assert verdict.regression


def test_nights_that_were_too_slow_do_not_become_the_measure() -> None:
    earlier = [measured(day) for day in range(3)] + [measured(day, 10, verdict=SLOW) for day in range(3, 60)]
    verdict = judge(measured(60, 10), earlier)
    assert (verdict.of, verdict.regression) == (3, True)


def test_two_nights_are_no_baseline() -> None:
    assert judge(measured(3, 1), [measured(1), measured(2)]) == Verdict(of=2)


def test_what_an_upgrade_did_to_speed_is_told_until_there_is_a_baseline_again() -> None:
    earlier = [measured(day) for day in range(5)]
    verdict = judge(measured(6, 10, fingerprint=UPGRADED), earlier)
    assert (verdict.of, verdict.changed, verdict.regression) == (0, ("engine",), False)
    assert verdict.since_change is not None
    assert verdict.since_change.tokens_per_s == 0.5


def test_another_model_is_no_measure() -> None:
    other = msgspec.structs.replace(FINGERPRINT, model="another")
    assert judge(measured(6, 1, fingerprint=other), [measured(day) for day in range(5)]) == Verdict()


def test_a_history_is_read_in_order_without_what_is_damaged(tmp_path: Path) -> None:
    write_history(tmp_path, measured(9, 9), measured(2, 2))
    (tmp_path / "20260105T033000Z.json").write_text("{")
    later = json.loads((tmp_path / measured(2).file_name).read_text()) | {"schema_version": 2}
    (tmp_path / "20260106T033000Z.json").write_text(json.dumps(later))
    told: list[str] = []
    assert [record.figures.tokens_per_s for record in read_history(tmp_path, told.append)] == [2, 9]
    assert ["20260105T033000Z" in told[0], "knows appliance-self-benchmark 1" in told[1]] == [True, True]
    assert read_history(tmp_path / "none", told.append) == []


def test_the_newest_ninety_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    directory = tmp_path / "benchmarks"
    write_history(directory, *(measured(day) for day in range(RECORDS_MAX + 2)))
    file = keep(measured(RECORDS_MAX + 2))
    names = history_names(directory)
    assert len(names) == RECORDS_MAX
    assert names[-1] == file.name
    assert measured(0).file_name not in names
    assert [left.name for left in directory.iterdir() if left.suffix != ".json"] == []


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").write_text("a file")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    with pytest.raises(StartError, match="benchmarks can't be written"):
        keep(measured(1))


def slower() -> SelfBenchmark:
    slow = measured(5, 10)
    return msgspec.structs.replace(slow, verdict=judge(slow, [measured(day) for day in (1, 2, 3)]))


def test_a_regression_is_a_warning_and_a_status_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")  # of another process's stderr
    assert tell_verdict(slower(), Path("x.json")) == EXIT_REGRESSION
    shown = capsys.readouterr()
    assert "10.0 tokens/s" in shown.out
    assert shown.err.startswith("appliance: warning: this host is slower than it was: tokens/s 0.50, ")
    assert tell_verdict(measured(5), Path("x.json")) == 0
    assert capsys.readouterr().err == ""


def test_in_the_journal_a_regression_is_an_event(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_benchmark, "stderr_is_journal", lambda: True)
    assert tell_verdict(slower(), Path("x.json")) == EXIT_REGRESSION
    (told,) = caplog.records
    assert told.levelname == "WARNING"
    assert fields_of(told)["reason"].startswith("tokens/s 0.50, ")
