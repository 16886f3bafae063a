"""What mends something that is missing, on a host with an installation and on one without."""

import sys

import pytest

from appliance.cli.address import in_words
from appliance.client import ConnectFailed
from appliance.config.remedies import extra_remedy, is_installed_for_the_system, start_remedy


def test_a_program_of_its_own_is_mended_by_pip_and_started_by_hand() -> None:
    assert not is_installed_for_the_system()
    assert extra_remedy("quantize") == "pip install 'edge-chat-appliance[quantize]'"
    assert start_remedy() == "appliance serve"


def test_a_release_is_mended_by_its_installation_and_started_by_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/opt/appliance/releases/1.2.3")
    assert extra_remedy("quantize") == "appliance install --system --extras systemd,quantize"
    assert start_remedy() == "systemctl start appliance"
    assert "Start it with: systemctl start appliance, or say where it is: --url" in in_words(ConnectFailed("no"))
