"""Settings, checked before any work."""
