"""Formats of raw files: text, tables and point clouds, read with bounds on what a file may ask for."""
