"""Files of a model hub: a process of its own fetches them with huggingface_hub, and nothing else here imports it."""
