"""Foreign layouts and formats brought to NIfTI and a manifest's folders."""
