"""The command line, `desam-lite`."""
