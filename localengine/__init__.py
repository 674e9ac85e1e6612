"""vLLM on this machine's processor: its environment, a tiny model for it, and its servers' command lines."""
