"""Wiring: how streams are connected, submitted and upgraded."""
