"""Policies that openpi serves, asked over its websocket protocol."""
