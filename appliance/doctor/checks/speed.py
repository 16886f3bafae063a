"""Speed against this host's own past, from what `appliance bench --self` has kept. Measures nothing."""

from datetime import UTC, datetime

from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.surroundings import TIMER, Surroundings
from appliance.models.errors import ManifestTooNew, SlotsDamaged
from appliance.models.slots import read_slots
from appliance.observability.self_benchmark import REGRESSION_RATIO, Ratios, SelfBenchmark, read_history

SEVERE_RATIO = 0.5  # of the baseline: no longer what was rolled out
OLD_DAYS = 8  # the timer runs every night; a week of busy nights is no fault
MEASURE = "appliance bench --self, or every night: systemctl enable --now appliance-bench.timer"
LOOK = "see heat, frequency, memory and swap here; what else runs: top"


def check_speed(here: Surroundings) -> Finding:
    """The newest measurement, its verdict, and its age."""
    told: list[str] = []
    try:
        records = read_history(here.benchmarks, told.append)
    except OSError as error:
        return unknown("speed", f"{here.benchmarks} can't be read: {error.strerror}", "run it as root, or as the "
                       "service's account")  # fmt: skip
    if not records:
        damaged = f" ({len(told)} files of no use)" if told else ""
        return unknown("speed", f"never measured here{damaged}{_canary(here)}", MEASURE)
    last = records[-1]
    days = (datetime.now(UTC) - datetime.fromisoformat(last.at)).total_seconds() / 86_400
    facts = _facts(last, len(records), days)
    shown = f"{last.figures.tokens_per_s:.1f} tokens/s, first token {last.figures.ttft_ms:.0f} ms on {last.at[:10]}"
    model = here.of_status("model", "digest")
    if model is not None and model != last.fingerprint.digest:
        return unknown("speed", f"{shown}, with another model ({last.fingerprint.model})", MEASURE, **facts)
    verdict = last.verdict
    if days > OLD_DAYS:
        on = (here.units or {}).get(TIMER, {}).get("ActiveState") == "active"
        why = "; the timer is on, so look why: journalctl -u appliance-bench" if on else ""
        return unknown("speed", f"{shown}: {days:.0f} days old", MEASURE + why, **facts)
    if verdict.ratios is not None:
        return _judged(shown, verdict.ratios, verdict.of, facts)
    if verdict.since_change is not None and verdict.since_change.worst < REGRESSION_RATIO:
        change = f"{_ratios(verdict.since_change)} of before a change ({', '.join(verdict.changed)})"
        return yellow("speed", f"{shown}: {change}", f"appliance tune, or go back to what was before; {LOOK}", **facts)
    return unknown("speed", f"{shown}; no baseline yet ({verdict.of} before it)", MEASURE, **facts)


def _judged(shown: str, ratios: Ratios, of: int, facts: dict[str, object]) -> Finding:
    against = f"{shown}: {_ratios(ratios)} of the median of {of} before"
    if ratios.worst < SEVERE_RATIO:
        return red("speed", against, LOOK, **facts)
    if ratios.worst < REGRESSION_RATIO:
        return yellow("speed", against, LOOK, **facts)
    return green("speed", against, **facts)


def _facts(last: SelfBenchmark, records: int, days: float) -> dict[str, object]:
    return {
        "at": last.at,
        "age_days": round(days, 1),
        "records": records,
        "tokens_per_s": last.figures.tokens_per_s,
        "ttft_ms": last.figures.ttft_ms,
        "throttled": last.throttled,
        "verdict": last.verdict,
    }


def _canary(here: Surroundings) -> str:
    """What the last good canary of `models use` brought; it is no measurement of now."""
    try:
        measured = read_slots(here.store.directory).measured
    except (SlotsDamaged, ManifestTooNew):
        return ""
    if measured is None:
        return ""
    return f"; the canary of {measured.slot} brought {measured.tokens_per_s:.1f} tokens/s on {measured.at[:10]}"


def _ratios(ratios: Ratios) -> str:
    return f"tokens/s {ratios.tokens_per_s:.2f}, first token {ratios.first_token:.2f}"
