"""What assets are given: compute, and the public sources of sections."""
