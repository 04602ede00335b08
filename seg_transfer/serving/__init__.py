"""Trained models as a service: HTTP (`segtl serve`), and a DICOM node (`segtl dicom-node`)."""
