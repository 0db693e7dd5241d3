"""Data: from files to aligned bases, and queries in any state."""
