"""Metrics of masks, statistics of scores."""
