"""From a photo to its alpha matte and its foreground colours."""
