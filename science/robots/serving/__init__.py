"""A policy server that answers many rollouts in batches, over openpi's websocket protocol, and its client."""
