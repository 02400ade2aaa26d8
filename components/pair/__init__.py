"""Catalogue → self-contained shards."""
