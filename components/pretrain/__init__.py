"""Pairs → image encoder."""
