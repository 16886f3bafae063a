"""GGUF files: what their headers say, and the same model in types that GenAI reads. Knows no store and no engine."""
