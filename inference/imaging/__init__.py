"""Image processing: decoding, colour profiles, resizing, compositing, encoding."""
