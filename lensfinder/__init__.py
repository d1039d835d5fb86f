"""Find strong gravitational lenses in survey images, from tiles to an operating threshold."""

__version__ = "0.1.0"
