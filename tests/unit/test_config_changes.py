"""Which settings a running daemon takes up."""

from typing import Any

import msgspec

from appliance.config import Settings
from appliance.config.changes import LIVE, Changes, compare, taken_up


def settings(**sections: dict[str, Any]) -> Settings:
    return msgspec.convert(sections, Settings)


def test_what_is_live_exists() -> None:
    known = {
        f"{section.name}.{setting.name}"
        for section in msgspec.structs.fields(Settings)
        for setting in msgspec.structs.fields(section.type)
    }
    assert known > LIVE


def test_changes_are_told_apart() -> None:
    old = settings(server={"port": 1}, limits={"max_tokens": 5})
    new = settings(server={"port": 2, "heartbeat_s": 5}, limits={"max_tokens": 6}, engine={"threads": 2})
    assert compare(old, new) == Changes(
        changed=["server.heartbeat_s", "limits.max_tokens"], needs_restart=["server.port", "engine.threads"]
    )
    assert compare(new, new) == Changes([], [])


def test_what_is_taken_up_is_the_live_part_alone() -> None:
    old = settings(server={"port": 1}, limits={"max_tokens": 5})
    new = settings(server={"port": 2, "heartbeat_s": 5}, limits={"max_tokens": 6}, engine={"threads": 2})
    assert taken_up(old, new) == settings(server={"port": 1, "heartbeat_s": 5}, limits={"max_tokens": 6})
    assert compare(taken_up(old, new), new).changed == []
