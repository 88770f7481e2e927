"""Programs with absl flags, run from a checkout: `python -m launch.local --help`."""
