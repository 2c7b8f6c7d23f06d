"""Figures, tables and sentences that several pages use."""
