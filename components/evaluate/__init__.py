"""Depth net → report and a new version in the model registry."""
