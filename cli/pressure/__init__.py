"""Pressure tests of a running service, and the profile that explains them."""
