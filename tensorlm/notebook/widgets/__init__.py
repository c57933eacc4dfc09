"""Widgets of a page that need no kernel, and live ones beside them."""
