"""``segtl demo``: data made here, the whole way through on them, and what intensity alone would have given."""

from seg_transfer.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
