"""What a model costs: operations, memory, time; and the hardware and versions that a figure belongs to."""
