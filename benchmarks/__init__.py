"""What aiotasks costs, compared with the alternatives.

``python -m benchmarks`` measures and writes JSON, ``python -m benchmarks.plots`` draws it.
"""
