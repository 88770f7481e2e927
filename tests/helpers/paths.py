"""Where the checkout is, and what may stand beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

SHARED = ROOT.parent / "shared"
"""Facts and photographs beside the checkout; without it, tests that need them are skipped."""
