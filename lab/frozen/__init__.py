"""Which neck for which job, on a frozen network that was trained on ImageNet."""
