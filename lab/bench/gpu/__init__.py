"""Correctness and speed on one CUDA GPU."""
