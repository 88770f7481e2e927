"""Conversion of command-line flags to settings."""
