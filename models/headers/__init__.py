"""What is known of an image file before any pixel is decoded: one module a format, and `reader` for all."""
