//! Words in process, on one thread: our scores over all rows' statistics, and the library whose postings they are read
//! from, by itself, on the same texts and questions.

use std::time::Instant;

use plexus_index::TopK;
use plexus_index::text::{
    Analyzer, GlobalStatistics, TextHit, TextIndex, TextSearch, build_text, parse_query,
};
use plexus_model::{Error, Result, RowSelection, RowSet};
use tantivy::collector::TopDocs;
use tantivy::query::QueryParser;
use tantivy::schema::{Schema, TEXT};
use tantivy::{Index, TantivyDocument};

use crate::Figure;
use crate::search::{questions, texts};

const K: usize = 10;
/// Times that all questions are asked; the best counts.
const ROUNDS: usize = 5;

fn failed(e: tantivy::TantivyError) -> Error {
    Error::internal(format!("the library alone: {e}")).with_source(e)
}

pub fn measure(rows: usize) -> Result<Vec<Figure>> {
    let texts = texts(rows);
    let mut figures = Vec::new();
    let analyzer = Analyzer::named("standard")?;
    let started = Instant::now();
    let packed = build_text(1, &analyzer, texts.iter().map(|text| vec![Some(text.as_str())]))?;
    let built = started.elapsed().as_secs_f64();
    let bytes = packed.len();
    let index = TextIndex::open(packed.into(), &analyzer)?;
    let title = format!("words of {rows} texts");
    figures.push(Figure::new(format!("{title}: build"), format!("{built:.1} s, {bytes} bytes"), ""));

    let mut schema = Schema::builder();
    let body = schema.add_text_field("body", TEXT);
    let library = Index::create_in_ram(schema.build());
    let mut writer = library.writer_with_num_threads::<TantivyDocument>(1, 500_000_000).map_err(failed)?;
    for text in &texts {
        let mut document = TantivyDocument::new();
        document.add_text(body, text);
        writer.add_document(document).map_err(failed)?;
    }
    writer.commit().map_err(failed)?;
    let searcher = library.reader().map_err(failed)?.searcher();
    let parser = QueryParser::for_index(&library, vec![body]);

    for (kind, questions) in questions() {
        let ours = fastest(&questions, |question| search(&index, &analyzer, question))?;
        let alone = fastest(&questions, |question| {
            let query = parser.parse_query(question).map_err(|e| Error::internal(e.to_string()))?;
            let top = TopDocs::with_limit(K).order_by_score();
            searcher.search(&query, &top).map(|found| found.len()).map_err(failed)
        })?;
        let ratio = ours / alone;
        let value = format!("{ours:.0}/s, {ratio:.2} x the library alone ({alone:.0}/s)");
        figures.push(Figure::new(format!("{title}: {kind}"), value, ">= 1 x"));
    }
    Ok(figures)
}

/// Questions a second, in the fastest of some rounds.
fn fastest(questions: &[String], ask: impl Fn(&str) -> Result<usize>) -> Result<f64> {
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for question in questions {
            ask(question)?;
        }
        best = best.max(questions.len() as f64 / started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// From the text of a question to the best rows, with everything that a search does for it in a segment.
fn search(index: &TextIndex, analyzer: &Analyzer, question: &str) -> Result<usize> {
    let query = parse_query(question, analyzer, &["body".to_owned()], &[(0, 1.0)])?;
    let none = RowSet::new();
    let known = index.statistics(&none);
    let frequencies = query.scored_terms().into_iter().map(|term| {
        let rows = index.frequency(term.field, &term.term, &none)?;
        Ok((term, rows))
    });
    let frequencies = frequencies.collect::<Result<_>>()?;
    let statistics = GlobalStatistics { rows: known.rows, tokens: known.tokens, frequencies };
    let search = TextSearch::new(&query, 1, &statistics);
    let mut top = TopK::new(K);
    let found = &mut |hit: TextHit| top.push(hit.score, hit.row);
    search.run(index, &RowSelection::all(), K, f32::NEG_INFINITY, found)?;
    Ok(top.into_sorted().len())
}
