"""Discrete events under a virtual clock, decided by the very functions that run live."""
