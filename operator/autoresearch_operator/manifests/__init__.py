"""Kubernetes objects of a run: pure builders, and pure readers of what the API server says about them.

Objects are plain dicts, never a client's models: those drop fields that they do not know.
"""
