"""Engines that speak a real engine's wire format and compute nothing: load tests without accelerators."""
