"""From a manifest to batches: cases, slices, embeddings of the frozen encoder."""
