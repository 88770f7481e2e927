"""From command-line flags to settings."""
