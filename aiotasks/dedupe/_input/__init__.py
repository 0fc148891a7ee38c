"""Inputs: files of pairs, of clusters, of ids and of task URLs.

A pure pipeline: bytes become text (``text``), a table with places (``tables``, ``json_lines``,
``workbook``), columns with roles (``columns``), ids (``ids``), and rows (``pairs``, ``clusters``).
"""
