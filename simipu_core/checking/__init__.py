"""The dataset doctor: what can be told about raw frames before they are trained on.

`survey` opens every frame once and measures it; the other modules draw findings from the measurements of all frames.
"""
