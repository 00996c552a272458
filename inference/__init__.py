"""The inference pipeline, from photo bytes to cut-out bytes: decode, network, edge refinement, encode."""
