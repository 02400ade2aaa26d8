"""The pipeline and its ways to run."""
