"""Checks and closed-form cases for authors of plug-ins."""
