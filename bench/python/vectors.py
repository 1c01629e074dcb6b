"""Nearest-neighbor search in Python libraries.

Arguments: files of base vectors, query vectors and the true nearest rows of each query, dimensions, k, the
recall to reach. Prints lines of a name, a measurement and, where the recall is reached, the queries per second
of one thread, separated by tabs.
"""

import sys
import time

import numpy

from common import report, run_each, vectors_of

dimensions, k, recall_target = int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
vectors = vectors_of(sys.argv[1], dimensions)
queries = vectors_of(sys.argv[2], dimensions)
truth = [set(row) for row in numpy.fromfile(sys.argv[3], dtype="<u4").reshape(-1, k).tolist()]


def measure(name, build, size, beams, search):
    """Searches with wider and wider beams until the recall is reached."""
    bytes_per_vector = size // len(vectors)
    report(f"{name}: build", f"{build:.1f} s, {bytes_per_vector} bytes per vector, the vector included")
    for beam in beams:
        started = time.perf_counter()
        found = search(beam)
        rate = len(queries) / (time.perf_counter() - started)
        hits = sum(len(set(row) & nearest) for row, nearest in zip(found.tolist(), truth))
        recall = hits / (len(queries) * k)
        reached = [rate] if recall >= recall_target else []
        report(f"{name}: ef {beam}", f"recall {recall:.4f}, {rate:.0f} queries/s per thread", *reached)
        if reached:
            return


def with_hnswlib():
    import hnswlib

    index = hnswlib.Index(space="l2", dim=dimensions)
    index.init_index(max_elements=len(vectors), M=16, ef_construction=200, random_seed=1)
    started = time.perf_counter()
    index.add_items(vectors)
    build = time.perf_counter() - started
    index.set_num_threads(1)

    def search(ef):
        index.set_ef(ef)
        return index.knn_query(queries, k=k)[0]

    measure("hnswlib, M 16", build, index.index_file_size(), [16, 32, 48, 60, 80, 100, 140, 200, 300, 500], search)


def with_usearch():
    from usearch.index import Index

    started = time.perf_counter()
    index = Index(ndim=dimensions, metric="l2sq", dtype="f32", connectivity=16, expansion_add=200)
    index.add(numpy.arange(len(vectors)), vectors)
    build = time.perf_counter() - started

    def search(ef):
        index.expansion_search = ef
        return index.search(queries, k, threads=1).keys

    measure("usearch, connectivity 16", build, index.serialized_length, [16, 32, 64, 100, 140, 200, 300, 500], search)


run_each([with_hnswlib, with_usearch])
