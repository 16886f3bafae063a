"""Whether a URL leads to this machine."""

import psutil
import pytest

from appliance.bench.server import is_this_host


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.0.0.7:8080", True),
        ("http://[::1]:8080", True),
        ("http://localhost:8080", True),
        ("http://192.0.2.1:8080", False),
        ("http://no-such-host.invalid:8080", False),
    ],
)
def test_an_address_of_this_machine(url: str, here: bool) -> None:
    assert is_this_host(url) == here


def test_loopback_is_known_where_interfaces_may_not_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> dict[str, list[object]]:
        raise PermissionError

    monkeypatch.setattr(psutil, "net_if_addrs", refused)
    assert is_this_host("http://127.0.0.1:8080")
