"""One module a command: compose the parts, run, return a result."""
