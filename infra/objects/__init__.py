"""Kubernetes objects as plain dicts, built by pure functions."""
