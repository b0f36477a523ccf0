"""ROOM conversations that act: sessions with tools, tasks, Model Context Protocol servers, the code interpreter.

Joins `chat` and `engine`; knows neither weights nor files of models.
"""
