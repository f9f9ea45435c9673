"""Decoding: times in seconds in, RGB uint8 frames with their true times out.

Times are counted from the first frame of the video stream. Frames are display-rotated.

Array suffixes: T frames, H and W pixels.
"""
