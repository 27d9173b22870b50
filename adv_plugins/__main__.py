"""``python -m adv_plugins``: the same as the command ``adv-plugins``."""

import sys

from .commands import main

sys.exit(main())
