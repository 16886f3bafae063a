"""When drafting is given up, and when it is taken up again."""

from appliance.engine.lookup_mode import LEAST_BETWEEN_S, LOSS_PATIENCE_S, WIN_SAVED_S, LookupMode

STEP_S = 0.05


def seconds_until_change(mode: LookupMode, gain: float, now_s: float, most_s: float = 500.0) -> float | None:
    """Seconds of steps with one gain after which the mode should change; None where it never should."""
    for step in range(round(most_s / STEP_S)):
        if mode.watch(gain, STEP_S, now_s + step * STEP_S):
            return step * STEP_S
    return None


def test_drafting_is_given_up_soon_where_it_costs_and_kept_where_it_does_not() -> None:
    assert (seconds_until_change(LookupMode(drafting=True), 0.8, 0) or 0) <= LOSS_PATIENCE_S + STEP_S
    assert seconds_until_change(LookupMode(drafting=True), 0.99, 0) is None
    assert seconds_until_change(LookupMode(drafting=True), 1.5, 0) is None


def test_drafting_is_taken_up_where_it_brings_clearly_more() -> None:
    assert seconds_until_change(LookupMode(drafting=False), 1.15, 0) is None
    little, much = (seconds_until_change(LookupMode(drafting=False), gain, 0) for gain in (1.5, 3.0))
    assert little is not None
    assert much is not None
    assert abs(little - 3 * WIN_SAVED_S) < 2 * STEP_S, "a third of each step would have been saved"
    assert abs(much - 1.5 * WIN_SAVED_S) < 2 * STEP_S, "two thirds of each step would have been saved"


def test_a_short_burst_changes_nothing() -> None:
    mode = LookupMode(drafting=True)
    for _ in range(100):
        assert seconds_until_change(mode, 0.8, 0, LOSS_PATIENCE_S / 2) is None
        assert seconds_until_change(mode, 1.2, 0, STEP_S) is None


def test_drafting_is_taken_up_again_seldom_and_given_up_at_any_time() -> None:
    mode = LookupMode(drafting=True)
    mode.changed(10.0)
    assert not mode.drafting
    again = seconds_until_change(mode, 2.0, 10.0)
    assert again is not None
    assert again >= LEAST_BETWEEN_S - STEP_S
    mode.changed(200.0)
    assert (seconds_until_change(mode, 0.8, 200.0) or 0) <= LOSS_PATIENCE_S + STEP_S
