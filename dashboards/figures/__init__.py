"""Frames as figures: what a page draws, in the light and in the dark; one module for each page."""
