"""A model behind HTTP: a page to try it on, and an API for programs."""

from fullyconv.serving.command import serve

__all__ = ["serve"]
