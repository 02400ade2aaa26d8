"""Raw frames → catalogue."""
