"""Reports → one table."""
