"""Checkpoints: directories of safetensors, as transformers writes them and hubs keep them. Made into IR elsewhere."""
