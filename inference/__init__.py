"""From photo bytes to cut-out bytes: decode, network, edges, encode."""
