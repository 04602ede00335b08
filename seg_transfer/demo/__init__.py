"""``segtl demo``: the whole pipeline on synthetic data, compared with thresholds on intensity."""

from seg_transfer.demo.run import DemoResult, demo, run_demo

__all__ = ["DemoResult", "demo", "run_demo"]
