"""nnU-Net's trainer with the number of epochs and iterations given from outside; runs in nnU-Net's own environment.

nnU-Net finds it through ``nnUNet_extTrainer``. Nothing else of nnU-Net's training is changed. Its final validation is
left out: of fold ``all`` it would only predict the training cases.
"""

import json
import os
import time
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

# nnU-Net takes a thread for every core of the machine, also where the process may use fewer of them.
torch.set_num_threads(int(os.environ["CURVE_THREADS"]))


class CountedTrainer(nnUNetTrainer):
    """Writes the seconds of each epoch's training steps; validation, saving and drawing are not timed."""

    def initialize(self):
        self.num_epochs = int(os.environ["CURVE_EPOCHS"])
        self.num_iterations_per_epoch = int(os.environ["CURVE_ITERATIONS"])
        self.num_val_iterations_per_epoch = 1
        self.seconds = []
        super().initialize()

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.started = time.perf_counter()

    def on_train_epoch_end(self, train_outputs):
        self.seconds.append(time.perf_counter() - self.started)
        super().on_train_epoch_end(train_outputs)

    def on_train_end(self):
        super().on_train_end()
        Path(os.environ["CURVE_SECONDS"]).write_text(json.dumps(self.seconds))

    def perform_actual_validation(self, save_probabilities=False):
        pass
