"""`appliance bench --self`: keeps the measurement, tells the verdict, sets the exit status. Measures nothing."""

import logging
import os
from pathlib import Path

from appliance.cli.telling import tell_warning
from appliance.config.paths import benchmarks_directory
from appliance.errors import StartError
from appliance.models.durable import FILE_MODE, give_to_owner_of, make_directory, open_replacement
from appliance.observability.events import Event, event
from appliance.observability.journal import stderr_is_journal
from appliance.observability.log_writer import open_log
from appliance.observability.self_benchmark import (
    RECORDS_MAX,
    REGRESSION_RATIO,
    Ratios,
    SelfBenchmark,
    encode_record,
    history_names,
    read_history,
)

EXIT_REGRESSION = 3

log = logging.getLogger(__name__)


def read_earlier() -> list[SelfBenchmark]:
    """The history so far, the oldest first. Raises StartError."""
    try:
        return read_history(benchmarks_directory(), tell_warning)
    except OSError as error:
        raise _unusable("read", error) from error


def keep(record: SelfBenchmark) -> Path:
    """Put `record` into the history, and the oldest out where there are too many; returns its file.

    What root writes has the directory's owner: the service's account writes the next. Raises StartError.
    """
    directory = benchmarks_directory()
    file = directory / record.file_name
    try:
        make_directory(directory)
        with open_replacement(file) as content:
            content.write(encode_record(record))
            os.fchmod(content.fileno(), FILE_MODE)
        give_to_owner_of(directory, file)
        for name in history_names(directory)[:-RECORDS_MAX]:
            (directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise _unusable("written", error) from error
    return file


def tell_verdict(record: SelfBenchmark, file: Path) -> int:
    """The figures on standard output, a regression on standard error; the exit status."""
    verdict, figures = record.verdict, record.figures
    print(f"{record.fingerprint.model}: {figures.tokens_per_s:.1f} tokens/s, first token {figures.ttft_ms:.0f} ms")
    if verdict.ratios is not None and verdict.baseline is not None:
        print(f"against the median of {verdict.of} before: {_shown(verdict.ratios)}")
    elif verdict.since_change is not None:
        print(f"first since a change ({', '.join(verdict.changed)}): {_shown(verdict.since_change)} of the last before")
    else:
        print(f"no baseline yet: {verdict.of} before it with the same CPU, releases and model")
    print(f"written: {file}")
    if not verdict.regression or verdict.ratios is None:
        return 0
    heat = f"; throttled for heat {record.throttled} times meanwhile" if record.throttled else ""
    _tell_regression(f"{_shown(verdict.ratios)} of its baseline, expected at least {REGRESSION_RATIO:g}{heat}")
    return EXIT_REGRESSION


def _tell_regression(reason: str) -> None:
    """To the journal as an event, which `journalctl -x` explains; else a line on standard error."""
    if not stderr_is_journal():
        tell_warning(f"this host is slower than it was: {reason}; run: appliance doctor")
        return
    with open_log("warning", "auto"):
        log.warning("this host is slower than it was", extra=event(Event.BENCHMARK_REGRESSED, reason=reason))


def _unusable(how: str, error: OSError) -> StartError:
    remedy = "run it as the service's account, or make room"
    return StartError(f"{benchmarks_directory()} can't be {how}: {error.strerror}; {remedy}")


def _shown(ratios: Ratios) -> str:
    return f"tokens/s {ratios.tokens_per_s:.2f}, first token {ratios.first_token:.2f}"
