"""Full-text, vector and hybrid search in Python libraries, in process.

Arguments: files of vectors, query vectors, texts and text queries, a folder for data, dimensions, k, the number
of distinct values of the filter column. Prints lines of a name and a measurement, separated by a tab.
"""

import os
import sys
import time

import numpy

from common import lines_of, report, run_each, vectors_of

folder = sys.argv[5]
dimensions, k, kinds = int(sys.argv[6]), int(sys.argv[7]), int(sys.argv[8])
vectors = vectors_of(sys.argv[1], dimensions)
query_vectors = vectors_of(sys.argv[2], dimensions)
texts = lines_of(sys.argv[3])
query_texts = lines_of(sys.argv[4])


def measure(name, search):
    """The latencies of one search at a time. `search` takes the number of the query."""
    times = []
    for query in range(len(query_texts)):
        started = time.perf_counter()
        search(query)
        times.append(time.perf_counter() - started)
    p50, p99 = numpy.percentile(times, [50, 99]) * 1000
    report(name, f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, {1 / numpy.mean(times):.0f} queries/s")


def with_tantivy():
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field("body", stored=False)
    builder.add_integer_field("id", stored=True, indexed=False, fast=True)
    index = tantivy.Index(builder.build())
    writer = index.writer(heap_size=500_000_000, num_threads=1)
    started = time.perf_counter()
    for i, text in enumerate(texts):
        writer.add_document(tantivy.Document(body=text, id=i))
    writer.commit()
    writer.wait_merging_threads()
    report("tantivy: index", f"{time.perf_counter() - started:.1f} s")
    index.reload()
    searcher = index.searcher()

    def search(query):
        return searcher.search(index.parse_query(query_texts[query], ["body"]), k).hits

    measure("tantivy: full text", search)


def with_lancedb():
    os.environ.setdefault("LANCE_LOG", "error")
    import lancedb
    import pyarrow

    rows = numpy.arange(len(texts))
    table = pyarrow.table(
        {
            "id": rows,
            "body": texts,
            "kind": (rows * 7919 % kinds).astype("int32"),
            "weight": rows / 2,
            "name": [f"row {i}" for i in rows],
            "vector": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), dimensions),
        }
    )
    started = time.perf_counter()
    table = lancedb.connect(folder).create_table("t", table, mode="overwrite")
    table.create_index(metric="l2", vector_column_name="vector", index_type="IVF_HNSW_SQ")
    table.create_fts_index("body", use_tantivy=False)
    report("lancedb: load and index", f"{time.perf_counter() - started:.1f} s")
    columns = ["id", "body", "kind", "weight", "name"]

    def hybrid(query):
        search = table.search(query_type="hybrid").vector(query_vectors[query]).text(query_texts[query])
        return search.where("kind < 500", prefilter=True).select(columns).limit(k).to_arrow()

    def nearest(query):
        return table.search(query_vectors[query]).select(["id"]).limit(k).to_arrow()

    measure("lancedb: nearest vectors", nearest)
    measure("lancedb: hybrid, filtered", hybrid)


run_each([with_tantivy, with_lancedb])
