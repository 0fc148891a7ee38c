"""The ``aiotasks`` command: results go to standard output, everything else to standard error."""
