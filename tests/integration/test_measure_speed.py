"""Speed as `appliance models measure` takes it: through workers, here of the engine that has no model."""

from pathlib import Path

import psutil
import pytest

from appliance.config import EngineSettings
from appliance.models.measuring.asking import SpeedNotMeasured
from appliance.models.measuring.speed import measure_speed


async def test_speed_is_taken_from_one_worker_after_another() -> None:
    told: list[tuple[int, int]] = []
    speeds = await measure_speed(
        [Path("a"), Path("b")], EngineSettings(pipeline="fake"), lambda done, total: told.append((done, total))
    )
    assert [speed.answers for speed in speeds] == [6, 6]
    assert all(speed.rss_bytes > 0 and speed.ttft_ms > 0 and speed.ms_per_token > 0 for speed in speeds)
    assert told == [(done, 6) for done in range(1, 7)]
    assert psutil.Process().children() == []


async def test_a_model_that_does_not_load_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(SpeedNotMeasured, match=f"the speed of {tmp_path} can't be measured: "):
        await measure_speed([tmp_path], EngineSettings(), lambda done, total: None)
    assert psutil.Process().children() == []
