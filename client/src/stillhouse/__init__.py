"""Stillhouse client."""
