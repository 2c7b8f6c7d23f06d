"""DeSAM on SAM: sizes, prompts, encoder, PRIM and PDMM, grid prediction, checkpoints. Knows torch and segment-anything only."""
