"""A trained model on new scans: files in, files out."""
