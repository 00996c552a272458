"""The HTTP APIs of remove.bg, Photoroom and rembg, so that an integration changes its URL and nothing else."""
