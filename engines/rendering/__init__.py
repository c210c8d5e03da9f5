"""Chat templates, which come with base models, rendered where they can do nothing else: see `program.py`."""

from engines.rendering.process import Bounds, Question, Renderer, RendererError, TemplateRefused

__all__ = ["Bounds", "Question", "Renderer", "RendererError", "TemplateRefused"]
