"""What aiotasks costs, measured beside what people would use instead.

``python -m benchmarks`` measures and writes JSON, ``python -m benchmarks.plots`` draws it.
"""
