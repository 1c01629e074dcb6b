"""What the scripts of this folder share: reading arguments and printing results.

The benchmark writes a script and this file into one folder and runs the script there.
"""

import sys

import numpy


def vectors_of(path, dimensions):
    """The vectors of a file of little-endian 32-bit floats, one row each."""
    return numpy.fromfile(path, dtype="<f4").reshape(-1, dimensions)


def lines_of(path):
    """The lines of a text file."""
    with open(path) as file:
        return file.read().splitlines()


def report(name, *values):
    """Prints one line of the result. It is flushed, so that it survives a later failure."""
    print(name, *values, sep="\t", flush=True)


def run_each(libraries):
    """Measures one library after the other. One that is missing or fails does not stop the others."""
    for library in libraries:
        try:
            library()
        except Exception as error:
            print(f"{library.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
