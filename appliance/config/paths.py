"""Where settings and state live on this host. Reads the environment, touches no file's content."""

import os
import warnings
from pathlib import Path

import platformdirs

from appliance.errors import ConfigError

SYSTEM_CONFIG = Path("/etc/appliance/appliance.toml")
SYSTEM_STATE = Path("/var/lib/appliance")
SYSTEM_RUNTIME = Path("/run/appliance")
SYSTEM_OPT = Path("/opt/appliance")
SYSTEM_RELEASES = SYSTEM_OPT / "releases"
CONTROL_SOCKET_NAME = "control.sock"
TUNING_NAME = "tuning.json"
BENCHMARKS_NAME = "benchmarks"
CATALOG_NAME = "catalog.toml"
CATALOGS_NAME = "catalog.d"


def config_candidates() -> list[Path]:
    """The files that are looked for without --config; the first that exists is the one that is read."""
    return [SYSTEM_CONFIG, platformdirs.user_config_path("appliance") / "appliance.toml"]


def catalog_files(settings_file: Path | None) -> list[Path]:
    """The operator's own catalogs: catalog.toml and then catalog.d/*.toml by name, beside the settings file.

    Without such a file, those where the first of the candidates with any would be. Raises ConfigError.
    """
    places = [settings_file] if settings_file is not None else config_candidates()
    return next((found for place in places if (found := _catalogs_in(place.parent))), [])


def _catalogs_in(directory: Path) -> list[Path]:
    first, more = directory / CATALOG_NAME, directory / CATALOGS_NAME
    try:
        below = sorted(file for file in more.iterdir() if file.suffix == ".toml") if more.is_dir() else []
        return [first, *below] if first.is_file() else below
    except OSError as error:
        raise ConfigError(f"the catalogs in {directory} can't be read: {error.strerror}") from None


def state_directory() -> Path:
    """STATE_DIRECTORY under systemd, /var/lib/appliance for root on an installed host, else the XDG data dir."""
    from_systemd = os.environ.get("STATE_DIRECTORY")
    if from_systemd:
        return Path(from_systemd.split(":", 1)[0])
    if SYSTEM_STATE.is_dir() and os.access(SYSTEM_STATE, os.W_OK):
        return SYSTEM_STATE
    return platformdirs.user_data_path("appliance")


def tuning_file() -> Path:
    """What `appliance tune` found on this host."""
    return state_directory() / TUNING_NAME


def benchmarks_directory() -> Path:
    """What `appliance bench --self` found on this host, one file each time."""
    return state_directory() / BENCHMARKS_NAME


def store_directory(configured: str) -> Path:
    """The model store: `models.directory` where it is set, else `models` in the state directory."""
    return Path(configured).expanduser() if configured else state_directory() / "models"


def runtime_directory() -> Path:
    """RUNTIME_DIRECTORY under systemd, /run/appliance for root on an installed host, else the XDG runtime directory."""
    from_systemd = os.environ.get("RUNTIME_DIRECTORY")
    if from_systemd:
        return Path(from_systemd.split(":", 1)[0])
    if SYSTEM_RUNTIME.is_dir() and os.access(SYSTEM_RUNTIME, os.W_OK):
        return SYSTEM_RUNTIME
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that XDG_RUNTIME_DIR is not set is nothing that anybody has to mend
        return platformdirs.user_runtime_path("appliance")


def service_is_hidden() -> bool:
    """Whether a service runs here, as its runtime directory is there, and this account may not enter that."""
    return SYSTEM_RUNTIME.is_dir() and not os.access(SYSTEM_RUNTIME, os.X_OK)


def control_socket(configured: str) -> Path:
    """The control socket: `server.control_socket` where it is set, else in the runtime directory."""
    return Path(configured).expanduser() if configured else runtime_directory() / CONTROL_SOCKET_NAME
