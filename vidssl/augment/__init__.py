"""Augmentation: one draw of parameters a clip, shared by all its frames; boxes follow.

Parameters come from the sample's own seed, so a clip looks the same on any worker, rank and device.
Everything runs on the device that the pixels are on.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, N boxes.
"""
