"""What this project measures: not in the wheel, run from a checkout as ``python -m lab``."""
