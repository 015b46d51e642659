"""Whole pieces of work under the legacy names."""
