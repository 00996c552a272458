"""Pictures as bytes and as arrays: decoding, colour, resizing, compositing, encoding."""
