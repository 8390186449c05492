"""Files: written atomically, checkpoints, the Hub; nothing that a file holds is executed."""
