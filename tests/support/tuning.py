"""Records of tunings that never were, for tests of what reads them."""

from pathlib import Path

from appliance.cli.serve import FAKE_MODEL
from appliance.models.tuning.record import Evidence, Figures, Key, Tuned, Value, host_key, write_tuning

FIGURES = Figures(ttft_ms=100, ms_per_token=20, tokens_per_s=40)


def record(key: Key | None = None, **settings: Value) -> Tuned:
    """A choice of `settings`, on this host for the fake engine where no other `key` is given."""
    return Tuned(
        key=key or host_key("fake", FAKE_MODEL.digest),
        model="fake@0000000000000000",
        profile="interactive",
        settings=settings,
        at="2026-01-01T00:00:00+00:00",
        took_s=60.0,
        evidence=Evidence(
            tried=(), left_out=(), default=(FIGURES,), best=(FIGURES,), gain_ratio=0.1, noise_ratio=0.03, why="faster"
        ),
    )


def write_record(state: Path, written: Tuned) -> Path:
    """`written` alone in the tuning file of `state`, which is made."""
    state.mkdir(exist_ok=True)
    file = state / "tuning.json"
    write_tuning(file, written, ())
    return file
