"""Matting: from a photo to its alpha matte and foreground colours."""
