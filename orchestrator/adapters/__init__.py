"""Implementations of the ports, nothing more."""
