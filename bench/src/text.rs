//! Full-text search in process, on one thread: the index of this project with statistics over all rows,
//! beside tantivy, whose postings it reads, on the same texts and queries.

use std::time::Instant;

use plexus_index::TopK;
use plexus_index::text::{
    Analyzer, GlobalStatistics, QueryField, Syntax, TextHit, TextIndex, TextSearch, build_text_index,
    parse_query,
};
use plexus_model::{Error, Result, RowSelection, RowSet};
use tantivy::collector::TopDocs;
use tantivy::query::QueryParser;
use tantivy::schema::{Schema, TEXT};
use tantivy::{Index, Searcher, TantivyDocument};

use crate::Figure;
use crate::corpus::{query_kinds, texts};

const K: usize = 10;
/// Rounds over all queries, of which the fastest counts.
const ROUNDS: usize = 5;
/// Memory of tantivy's writer: enough for one segment.
const WRITER_BYTES: usize = 500_000_000;

fn tantivy_error(e: tantivy::TantivyError) -> Error {
    Error::internal(format!("tantivy: {e}")).with_source(e)
}

/// Measures both indexes over `rows` texts.
pub(crate) fn measure(rows: usize) -> Result<Vec<Figure>> {
    let texts = texts(rows);
    let mut figures = Vec::new();
    let analyzer = Analyzer::named("standard")?;
    let started = Instant::now();
    let columns = texts.iter().map(|text| vec![Some(text.as_str())]);
    let archive = build_text_index(1, &analyzer, columns, usize::MAX)?;
    let seconds = started.elapsed().as_secs_f64();
    let bytes = archive.len();
    let index = TextIndex::open(archive.into())?;
    let title = format!("full text, {rows} texts");
    figures.push(Figure::new(format!("{title}: build"), format!("{seconds:.1} s, {bytes} bytes"), ""));

    let (searcher, parser) = build_tantivy(&texts)?;
    for (kind, queries) in query_kinds() {
        let ours = fastest(&queries, |query| search(&index, &analyzer, query))?;
        let tantivy = fastest(&queries, |query| {
            let query = parser.parse_query(query).map_err(|e| Error::internal(e.to_string()))?;
            let top = TopDocs::with_limit(K).order_by_score();
            searcher.search(&query, &top).map(|found| found.len()).map_err(tantivy_error)
        })?;
        let ratio = ours / tantivy;
        let value = format!("{ours:.0} queries/s, {ratio:.2} x tantivy ({tantivy:.0}/s)");
        figures.push(Figure::new(format!("{title}: {kind}"), value, ">= 1 x"));
    }
    Ok(figures)
}

/// An index of tantivy in memory, with one segment.
fn build_tantivy(texts: &[String]) -> Result<(Searcher, QueryParser)> {
    let mut schema = Schema::builder();
    let body = schema.add_text_field("body", TEXT);
    let index = Index::create_in_ram(schema.build());
    let mut writer =
        index.writer_with_num_threads::<TantivyDocument>(1, WRITER_BYTES).map_err(tantivy_error)?;
    for text in texts {
        let mut document = TantivyDocument::new();
        document.add_text(body, text);
        writer.add_document(document).map_err(tantivy_error)?;
    }
    writer.commit().map_err(tantivy_error)?;
    let searcher = index.reader().map_err(tantivy_error)?.searcher();
    Ok((searcher, QueryParser::for_index(&index, vec![body])))
}

/// Queries per second in the fastest of several rounds.
fn fastest(queries: &[String], search: impl Fn(&str) -> Result<usize>) -> Result<f64> {
    let mut fastest = 0.0f64;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for query in queries {
            search(query)?;
        }
        fastest = fastest.max(queries.len() as f64 / started.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

/// From the text of a query to the number of top rows, with all the work that a search of one segment does.
fn search(index: &TextIndex, analyzer: &Analyzer, query: &str) -> Result<usize> {
    let fields = [QueryField { name: "body".to_owned(), analyzer: analyzer.clone(), boost: Some(1.0) }];
    let query = parse_query(query, Syntax::Strict, &fields)?;
    let no_rows = RowSet::new();
    let local = index.statistics(&no_rows);
    let document_frequencies = query.scored_terms().into_iter().map(|term| {
        let rows = index.document_frequency(term.field, &term.term, &no_rows)?;
        Ok((term, rows))
    });
    let document_frequencies = document_frequencies.collect::<Result<_>>()?;
    let statistics = GlobalStatistics { rows: local.rows, tokens: local.tokens, document_frequencies };
    let search = TextSearch::new(&query, 1, &statistics);
    let mut top = TopK::new(K);
    let on_hit = &mut |hit: TextHit| top.push(hit.score, hit.row);
    search.run(index, &RowSelection::all(), K, f32::NEG_INFINITY, on_hit)?;
    Ok(top.into_sorted().len())
}
