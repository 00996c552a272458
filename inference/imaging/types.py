"""Types of pictures that need no library."""

# Red, green and blue, 0…255 each.
Colour = tuple[int, int, int]
