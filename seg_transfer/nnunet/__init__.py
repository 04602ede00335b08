"""Prediction with trained models of nnU-Net v2: its preprocessing, sliding window and networks, without nnU-Net."""
