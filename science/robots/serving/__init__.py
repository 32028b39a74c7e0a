"""A policy server that answers many rollouts in batches, over openpi's websocket protocol, and its client.

This module and `process.py` import nothing of the protocol: they are imported where policies are not served, too.
"""

KEY_VARIABLE = "TRACEBED_SERVER_KEY"
"""Environment variable that holds the API key."""
