"""Nearest vectors in other libraries. Arguments: files of vectors, queries and the nearest of each, length, k, recall.

Prints lines of a name, what was measured, and queries a second of one thread at the recall, separated by tabs.
"""

import sys
import time

import numpy

vectors, queries, truth = sys.argv[1:4]
length, k, wanted = int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
vectors = numpy.fromfile(vectors, dtype=numpy.float32).reshape(-1, length)
queries = numpy.fromfile(queries, dtype=numpy.float32).reshape(-1, length)
truth = [set(row) for row in numpy.fromfile(truth, dtype=numpy.uint32).reshape(-1, k).tolist()]


def measure(name, build, size, widths, search):
    each = size // len(vectors)
    print(f"{name}: build\t{build:.1f} s, {each} bytes a vector with the vector", flush=True)
    for width in widths:
        started = time.perf_counter()
        found = search(width)
        rate = len(queries) / (time.perf_counter() - started)
        hits = sum(len(set(row) & t) for row, t in zip(found.tolist(), truth))
        recall = hits / (len(queries) * k)
        reached = recall >= wanted
        last = f"\t{rate}" if reached else ""
        print(f"{name}: ef {width}\trecall {recall:.4f}, {rate:.0f} queries/s a thread{last}", flush=True)
        if reached:
            return


def with_hnswlib():
    import hnswlib

    index = hnswlib.Index(space="l2", dim=length)
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
    index = Index(ndim=length, metric="l2sq", dtype="f32", connectivity=16, expansion_add=200)
    index.add(numpy.arange(len(vectors)), vectors)
    build = time.perf_counter() - started

    def search(ef):
        index.expansion_search = ef
        return index.search(queries, k, threads=1).keys

    measure("usearch, connectivity 16", build, index.serialized_length, [16, 32, 64, 100, 140, 200, 300, 500], search)


for library in [with_hnswlib, with_usearch]:
    try:
        library()
    except ImportError as error:
        print(f"{library.__name__}: {error}", file=sys.stderr)
