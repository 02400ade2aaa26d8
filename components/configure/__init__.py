"""Settings, checked before any work and cut into a section for each step."""
