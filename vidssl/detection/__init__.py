"""Action detection: who does what, box by box, with or without a long memory of the video.

``detector`` holds the trainable whole, ``roi_head`` the feature of a box, ``operators`` one file
for each way to consult a feature bank.
"""
