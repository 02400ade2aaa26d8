"""Depth of one's own pictures: what is predicted on, what is written, and the way between."""
