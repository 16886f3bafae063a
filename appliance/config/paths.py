"""Where settings and state live on this host. Reads the environment, touches no file's content."""

import os
from pathlib import Path

import platformdirs

SYSTEM_CONFIG = Path("/etc/appliance/appliance.toml")
SYSTEM_STATE = Path("/var/lib/appliance")


def config_candidates() -> list[Path]:
    """The files that are looked for without --config; the first that exists is the one that is read."""
    return [SYSTEM_CONFIG, platformdirs.user_config_path("appliance") / "appliance.toml"]


def state_directory() -> Path:
    """STATE_DIRECTORY under systemd, /var/lib/appliance for root on an installed host, else the XDG data dir."""
    from_systemd = os.environ.get("STATE_DIRECTORY")
    if from_systemd:
        return Path(from_systemd.split(":", 1)[0])
    if SYSTEM_STATE.is_dir() and os.access(SYSTEM_STATE, os.W_OK):
        return SYSTEM_STATE
    return platformdirs.user_data_path("appliance")


def store_directory(configured: str) -> Path:
    """The model store: `models.directory` where it is set, else `models` in the state directory."""
    return Path(configured).expanduser() if configured else state_directory() / "models"
