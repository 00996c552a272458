"""Types of pictures that need no library."""

# Red, green and blue, and opacity where it is not 255; 0…255 each.
Colour = tuple[int, int, int] | tuple[int, int, int, int]
