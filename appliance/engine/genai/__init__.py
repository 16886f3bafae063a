"""The only importer of openvino_genai: two pipelines, and what importing a model needs. Import what you need of it."""

from appliance.engine.telemetry import silence_telemetry

silence_telemetry()
