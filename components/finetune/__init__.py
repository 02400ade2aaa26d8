"""Depth frames and, unless it is the control, an image encoder → depth net."""
