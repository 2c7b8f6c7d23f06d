"""The study as jobs: on this machine in one pool, on a cluster with Snakemake."""
