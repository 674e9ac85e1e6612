"""Engines that are servers of their own: each call of a worker's engine becomes an HTTP request (ADR 13)."""
