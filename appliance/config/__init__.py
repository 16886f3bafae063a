"""Settings: what they are (settings), where they come from (loading), where files live (paths)."""

from appliance.config.loading import Effective, load
from appliance.config.settings import (
    DispatchSettings,
    EngineSettings,
    LimitSettings,
    LoggingSettings,
    ModelSettings,
    ServerSettings,
    Settings,
)

__all__ = [
    "DispatchSettings",
    "Effective",
    "EngineSettings",
    "LimitSettings",
    "LoggingSettings",
    "ModelSettings",
    "ServerSettings",
    "Settings",
    "load",
]
