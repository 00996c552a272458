"""One side each of a comparison between processes; run as scripts, so that each has an interpreter of its own."""
