"""Importing this takes hypothesis' deadline away: machines are shared, and a slow moment is no defect."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
