"""Guides: answers that must have a form. docs/guides.md tells how they work."""
