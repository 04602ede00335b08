"""Name and version of the distribution. ``pyproject.toml`` reads the version from here, so that a clone has it too."""

DISTRIBUTION = "segtl"
VERSION = "0.2.0"
