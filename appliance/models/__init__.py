"""Models: what can be had (catalog), what is there (store), how it gets there (pull, importers)."""

from appliance.models.manifest import Manifest
from appliance.models.store import Installed, Store
from appliance.models.verification import Verification, require_sound, verify

__all__ = ["Installed", "Manifest", "Store", "Verification", "require_sound", "verify"]
