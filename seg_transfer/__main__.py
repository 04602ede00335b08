"""``python -m seg_transfer`` is ``segtl``."""

import sys

from seg_transfer.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
