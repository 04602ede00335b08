"""``segtl demo``: the whole pipeline on synthetic data, compared with thresholds on intensity."""

from seg_transfer.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
