"""Adapters, one for each host library; each is imported on its own and needs its own extra."""
