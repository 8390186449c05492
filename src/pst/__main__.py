"""``python -m pst``: the same as the command ``pst``."""

import sys

from pst.cli import main

sys.exit(main())
