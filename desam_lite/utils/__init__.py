"""Errors, files, progress, provenance."""
