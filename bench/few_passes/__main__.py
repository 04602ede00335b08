"""Runs segtl's or nnU-Net's command for prediction with a network that computes its first passes only.

Every later pass of the same shape returns a copy of the first one's result, so that all but the network can be measured
in minutes. Runs in the environment of either tool and imports nothing else of this folder.

    python bench/few_passes FIGURES.json segtl predict -w WORK -i IMAGES -o OUT
    python bench/few_passes FIGURES.json nnunet -i IMAGES -o OUT -d 1 -c 3d_fullres

``FIGURES.json`` gets the number of passes, how many of them were computed, and their CPU seconds.
"""

import json
import sys
import time
from pathlib import Path

COMPUTED = 3


class FewPasses:
    """Computes ``network`` a few times for each shape of its input."""

    def __init__(self, network):
        self.network, self.known = network, {}
        self.passes = self.computed = 0
        self.seconds = 0.0

    def __call__(self, windows):
        self.passes += 1
        seen, result = self.known.get(windows.shape, (0, None))
        if seen < COMPUTED:
            started = time.process_time()
            result = self.network(windows)
            self.seconds += time.process_time() - started
            self.computed += 1
            self.known[windows.shape] = seen + 1, result.clone()
            return result
        return result.clone()


def segtl(few, arguments):
    """Run ``segtl ARGUMENTS``; ``few`` gets the network's stand-in."""
    from seg_transfer.cli.app import main
    from seg_transfer.inference import predictor

    ready = predictor.ready_network

    def limited(*given, **named):
        few.append(FewPasses(ready(*given, **named)))
        return few[-1]

    predictor.ready_network = limited
    return main(arguments)


def nnunet(few, arguments):
    """Run ``nnUNetv2_predict ARGUMENTS``."""
    from nnunetv2.inference import predict_from_raw_data as predict

    initialize = predict.nnUNetPredictor.initialize_from_trained_model_folder

    def limited(self, *given, **named):
        initialize(self, *given, **named)
        few.append(FewPasses(self.network.forward))
        self.network.forward = few[-1]

    predict.nnUNetPredictor.initialize_from_trained_model_folder = limited
    sys.argv[1:] = arguments
    return predict.predict_entry_point()


def main():
    figures, tool, *arguments = sys.argv[1:]
    few = []
    code = {"segtl": segtl, "nnunet": nnunet}[tool](few, arguments)
    (one,) = few
    content = {"passes": one.passes, "computed": one.computed, "seconds": round(one.seconds, 2)}
    Path(figures).write_text(json.dumps(content))
    sys.exit(code)


if __name__ == "__main__":
    main()
