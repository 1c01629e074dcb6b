//! Full-text search against an oracle that shares no code with it, and the same search over different
//! distributions of the rows over segments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plexus_index::TopK;
use plexus_index::text::{
    Analyzer, GlobalStatistics, MinimumShouldMatch, QueryField, QueryOptions, Syntax, TextHit, TextIndex,
    TextQuery, TextSearch, build_text_index, parse_query,
};
use plexus_model::{RowSelection, RowSet};
use proptest::prelude::*;
use tantivy::collector::TopDocs;
use tantivy::query::QueryParser;
use tantivy::schema::{Schema, TEXT};
use tantivy::{Index, TantivyDocument};

const WORDS: [&str; 8] = ["wing", "flow", "heat", "lift", "drag", "shock", "mach", "plate"];

/// The texts of a row in the fields `title` and `body`.
type Row = [Option<String>; 2];

fn text() -> impl Strategy<Value = Option<String>> {
    let words = proptest::collection::vec(0usize..WORDS.len(), 0..60);
    proptest::option::weighted(
        0.9,
        words.prop_map(|words| words.iter().map(|w| WORDS[*w]).collect::<Vec<_>>().join(" ")),
    )
}

/// Rows, each with whether it is deleted.
fn rows() -> impl Strategy<Value = Vec<(Row, bool)>> {
    proptest::collection::vec(
        ((text(), text()).prop_map(|(a, b)| [a, b]), proptest::bool::weighted(0.2)),
        1..60,
    )
}

fn query() -> impl Strategy<Value = String> {
    let word = (0usize..WORDS.len()).prop_map(|w| WORDS[w].to_owned());
    let part = prop_oneof![
        5 => word.clone(),
        1 => word.clone().prop_map(|w| format!("+{w}")),
        1 => word.clone().prop_map(|w| format!("body:{w}^2")),
        1 => (word.clone(), word.clone()).prop_map(|(a, b)| format!("\"{a} {b}\"")),
        1 => (word.clone(), word.clone()).prop_map(|(a, b)| format!("\"{a} {b}\"~3")),
        1 => word.clone().prop_map(|w| format!("{}*", &w[..2])),
        1 => word.clone().prop_map(|w| format!("{}*{}", &w[..1], &w[w.len() - 1..])),
        1 => word.clone().prop_map(|w| format!("body:{w}~2")),
        1 => word.clone().prop_map(|w| format!("-{w}")),
    ];
    (word, proptest::collection::vec(part, 0..4)).prop_map(|(first, rest)| {
        let mut parts = vec![first];
        parts.extend(rest);
        parts.join(" ")
    })
}

/// A distribution of rows over segments.
struct Layout {
    /// The index of each segment with its deleted rows.
    segments: Vec<(TextIndex, RowSet)>,
    /// For each row of each segment its number in the table.
    table_rows: Vec<Vec<usize>>,
}

fn analyzer() -> Analyzer {
    Analyzer::named("standard").unwrap()
}

fn layout(rows: &[(Row, bool)], table_rows: Vec<Vec<usize>>) -> Layout {
    let segment = |table_rows: &Vec<usize>| {
        let texts = table_rows.iter().map(|row| rows[*row].0.iter().map(Option::as_deref).collect());
        let bytes = build_text_index(2, &analyzer(), texts, usize::MAX).unwrap();
        let deleted = (0..).zip(table_rows).filter(|(_, row)| rows[**row].1).map(|(at, _)| at).collect();
        (TextIndex::open(bytes.into()).unwrap(), deleted)
    };
    Layout { segments: table_rows.iter().map(segment).collect(), table_rows }
}

fn statistics(layout: &Layout, query: &TextQuery) -> GlobalStatistics {
    let mut all = GlobalStatistics { tokens: vec![0; 2], ..Default::default() };
    for term in query.scored_terms() {
        let of = |(index, deleted): &(TextIndex, RowSet)| {
            index.document_frequency(term.field, &term.term, deleted).unwrap()
        };
        let frequency = layout.segments.iter().map(of).sum();
        all.document_frequencies.insert(term, frequency);
    }
    for (index, deleted) in &layout.segments {
        let part = index.statistics(deleted);
        all.rows += part.rows;
        all.tokens.iter_mut().zip(part.tokens).for_each(|(sum, n)| *sum += n);
    }
    all
}

fn except(rows: &RowSet) -> RowSelection {
    RowSelection::AllExcept(Arc::new(rows.clone()))
}

fn only(rows: &RowSet) -> RowSelection {
    RowSelection::Only(Arc::new(rows.clone()))
}

/// The bits of the scores by row. With `k`, those of the `k` best rows and their ties.
fn scores(layout: &Layout, query: &TextQuery, k: Option<usize>) -> BTreeMap<usize, u32> {
    let search = TextSearch::new(query, 2, &statistics(layout, query));
    let mut top = TopK::new(k.unwrap_or(usize::MAX / 4));
    for ((index, deleted), table_rows) in layout.segments.iter().zip(&layout.table_rows) {
        let threshold = top.threshold();
        search
            .run(index, &except(deleted), k.unwrap_or(usize::MAX), threshold, &mut |hit| {
                top.push(hit.score, table_rows[hit.row as usize])
            })
            .unwrap();
    }
    top.into_sorted().into_iter().map(|(score, row)| (row, score.to_bits())).collect()
}

/// All rows in one segment, in order.
fn single_segment(rows: &[(Row, bool)]) -> Layout {
    layout(rows, vec![(0..rows.len()).collect()])
}

fn parse(query: &str) -> TextQuery {
    parse_query(query, Syntax::Strict, &[field("title", Some(1.0)), field("body", Some(1.0))]).unwrap()
}

fn field(name: &str, boost: Option<f32>) -> QueryField {
    QueryField { name: name.to_owned(), analyzer: analyzer(), boost }
}

/// BM25 scores of a disjunction of words over both fields, in double precision.
fn oracle(rows: &[(Row, bool)], words: &BTreeSet<&str>) -> BTreeMap<usize, f64> {
    let live: Vec<(usize, &Row)> =
        rows.iter().enumerate().filter(|(_, r)| !r.1).map(|(i, r)| (i, &r.0)).collect();
    let terms = |row: &Row, field: usize| -> Vec<String> {
        row[field].as_deref().unwrap_or("").split_whitespace().map(str::to_owned).collect()
    };
    // The index rounds lengths, but not their mean: they are exact up to 40 tokens, then the largest of these
    // values that is not larger.
    let round = |length: usize| {
        [40, 42, 44, 46, 48, 50, 52, 54, 56, 60].into_iter().rfind(|l| *l <= length).unwrap_or(length)
    };
    let mut scores = BTreeMap::new();
    for field in 0..2 {
        let lengths: Vec<usize> = live.iter().map(|(_, row)| round(terms(row, field).len())).collect();
        let exact: usize = live.iter().map(|(_, row)| terms(row, field).len()).sum();
        let average = exact as f64 / live.len() as f64;
        for word in words {
            let frequency = |row: &Row| terms(row, field).iter().filter(|t| t == word).count() as f64;
            let df = live.iter().filter(|(_, row)| frequency(row) > 0.0).count() as f64;
            let idf = (1.0 + (live.len() as f64 - df + 0.5) / (df + 0.5)).ln();
            for ((i, row), length) in live.iter().zip(&lengths) {
                let tf = frequency(row);
                if tf > 0.0 {
                    let norm = 1.2 * (0.25 + 0.75 * *length as f64 / average);
                    *scores.entry(*i).or_insert(0.0) += idf * 2.2 * tf / (tf + norm);
                }
            }
        }
    }
    scores
}

/// Scores of a disjunction of words over both fields by tantivy, over an index of its own with one segment.
fn scores_of_tantivy(rows: &[(Row, bool)], words: &[&str]) -> BTreeMap<usize, f32> {
    let mut schema = Schema::builder();
    let fields = ["title", "body"].map(|name| schema.add_text_field(name, TEXT));
    let index = Index::create_in_ram(schema.build());
    let mut writer = index.writer_with_num_threads::<TantivyDocument>(1, 20_000_000).unwrap();
    for (texts, _) in rows {
        let mut document = TantivyDocument::new();
        for (field, text) in fields.iter().zip(texts) {
            text.iter().for_each(|text| document.add_text(*field, text));
        }
        writer.add_document(document).unwrap();
    }
    writer.commit().unwrap();
    let searcher = index.reader().unwrap().searcher();
    assert_eq!(searcher.segment_readers().len(), 1);
    let query = QueryParser::for_index(&index, fields.to_vec()).parse_query(&words.join(" ")).unwrap();
    let found = searcher.search(&query, &TopDocs::with_limit(rows.len()).order_by_score()).unwrap();
    found.into_iter().map(|(score, address)| (address.doc_id as usize, score)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn scores_are_the_same_bits_in_every_layout(
        rows in rows(),
        query in query(),
        choices in proptest::collection::vec(any::<u8>(), 60),
    ) {
        let query = parse(&query);
        let one = scores(&single_segment(&rows), &query, None);
        // Each row goes to one of four segments, at any position.
        let mut table_rows = vec![vec![]; 4];
        for (row, choice) in (0..rows.len()).zip(&choices) {
            let segment = &mut table_rows[usize::from(choice % 4)];
            segment.insert(usize::from(choice / 4) % (segment.len() + 1), row);
        }
        table_rows.retain(|rows| !rows.is_empty());
        let many = scores(&layout(&rows, table_rows), &query, None);
        prop_assert_eq!(&one, &many);
        // Without the deleted rows, as after a compaction.
        let kept: Vec<usize> = (0..rows.len()).filter(|row| !rows[*row].1).collect();
        if !kept.is_empty() {
            prop_assert_eq!(&one, &scores(&layout(&rows, vec![kept]), &query, None));
        }
    }

    #[test]
    fn top_k_equals_the_best_of_all_matches(rows in rows(), query in query(), k in 1usize..10) {
        let query = parse(&query);
        let layout = single_segment(&rows);
        let all = scores(&layout, &query, None);
        let mut best: Vec<(f32, usize)> =
            all.iter().map(|(row, bits)| (f32::from_bits(*bits), *row)).collect();
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        let lowest = best.get(k - 1).map(|(score, _)| *score);
        let expected: BTreeMap<usize, u32> = best
            .into_iter()
            .filter(|(score, _)| lowest.is_none_or(|lowest| *score >= lowest))
            .map(|(score, row)| (row, score.to_bits()))
            .collect();
        prop_assert_eq!(&scores(&layout, &query, Some(k)), &expected);
        // The threshold carries over from segment to segment.
        let spread = (0..4).map(|segment| (0..rows.len()).filter(|row| row * 7 % 4 == segment).collect());
        prop_assert_eq!(scores(&self::layout(&rows, spread.collect()), &query, Some(k)), expected);
    }

    #[test]
    fn scores_are_near_those_of_the_oracle(
        rows in rows(),
        words in proptest::collection::btree_set(0usize..WORDS.len(), 1..4),
    ) {
        let words: BTreeSet<&str> = words.into_iter().map(|w| WORDS[w]).collect();
        let query = parse(&words.iter().copied().collect::<Vec<_>>().join(" "));
        let found = scores(&single_segment(&rows), &query, None);
        let expected = oracle(&rows, &words);
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (row, bits) in &found {
            let (score, exact) = (f64::from(f32::from_bits(*bits)), expected[row]);
            let tolerance = 1e-4 * exact.max(1.0);
            prop_assert!((score - exact).abs() <= tolerance, "row {row}: {score}, expected {exact}");
        }
    }

    #[test]
    fn scores_are_those_of_tantivy(
        rows in rows(),
        words in proptest::collection::btree_set(0usize..WORDS.len(), 1..4),
    ) {
        let live: Vec<(Row, bool)> = rows.into_iter().filter(|(_, deleted)| !deleted).collect();
        prop_assume!(!live.is_empty());
        let words: Vec<&str> = words.into_iter().map(|w| WORDS[w]).collect();
        let found = scores(&single_segment(&live), &parse(&words.join(" ")), None);
        let expected = scores_of_tantivy(&live, &words);
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (row, bits) in &found {
            let (score, exact) = (f32::from_bits(*bits), expected[row]);
            prop_assert!((score - exact).abs() <= 1e-5 * exact.max(1.0), "row {row}: {score}, {exact}");
        }
    }

    #[test]
    fn rows_have_as_many_words_as_are_wanted(
        rows in rows(),
        words in proptest::collection::btree_set(0usize..WORDS.len(), 2..5),
        count in 1usize..5,
    ) {
        let words: BTreeSet<&str> = words.into_iter().map(|w| WORDS[w]).collect();
        let text = words.iter().copied().collect::<Vec<_>>().join(" ");
        let minimum = MinimumShouldMatch::parse(&count.to_string());
        let options = QueryOptions { syntax: Syntax::Strict, minimum };
        let fields = [field("title", None), field("body", Some(1.0))];
        let query = parse_query(&text, options, &fields).unwrap();
        let found = scores(&single_segment(&rows), &query, None);
        let has = |row: &Row| {
            let body: BTreeSet<&str> = row[1].iter().flat_map(|text| text.split(' ')).collect();
            words.intersection(&body).count() >= count.min(words.len())
        };
        let live = rows.iter().enumerate().filter(|(_, (row, deleted))| !deleted && has(row));
        prop_assert_eq!(found.into_keys().collect::<Vec<_>>(), live.map(|(at, _)| at).collect::<Vec<_>>());
    }

    #[test]
    fn matching_rows_equal_the_rows_with_a_score(rows in rows(), query in query()) {
        let query = parse(&query);
        let layout = layout(&rows, vec![(0..rows.len()).collect()]);
        let search = TextSearch::new(&query, 2, &statistics(&layout, &query));
        let (index, deleted) = &layout.segments[0];
        let matching: BTreeSet<usize> =
            (search.matching_rows(index).unwrap() - deleted).iter().map(|row| row as usize).collect();
        prop_assert_eq!(matching, scores(&layout, &query, None).into_keys().collect::<BTreeSet<_>>());
    }
}

/// Terms with about as many rows as one, two or three blocks of postings, and a frequency that exceeds a
/// byte.
#[test]
fn terms_at_block_boundaries_are_found_in_all_their_rows() {
    const COUNTS: [usize; 8] = [1, 127, 128, 129, 255, 256, 257, 384];
    // Coprime to the number of rows.
    const STEPS: [usize; 8] = [3, 7, 9, 11, 13, 17, 19, 21];
    let text = |row: usize| {
        let mut words = String::from("other ");
        for (count, step) in COUNTS.iter().zip(STEPS) {
            // The first `count` of the 1,000 rows, in a different order for each term.
            if row * step % 1_000 < *count {
                words += &format!("n{count} ").repeat([1, 2, 3, 4][row % 4]);
            }
        }
        if row == 500 { words + &"n384 ".repeat(300) } else { words }
    };
    let rows: Vec<(Row, bool)> = (0..1_000).map(|row| ([None, Some(text(row))], row % 9 == 8)).collect();
    let layout = single_segment(&rows);
    let (index, deleted) = &layout.segments[0];
    for query in COUNTS.map(|count| format!("n{count}")) {
        let has: BTreeSet<u32> = (0..1_000)
            .filter(|row| text(*row).split(' ').any(|word| word == query))
            .map(|row| row as u32)
            .collect();
        let query = parse(&query);
        let search = TextSearch::new(&query, 2, &statistics(&layout, &query));
        assert_eq!(search.matching_rows(index).unwrap().iter().collect::<BTreeSet<_>>(), has);
        let rows_found = |selection: &RowSelection| {
            let mut found = BTreeSet::new();
            let mut take = |hit: TextHit| {
                found.insert(hit.row);
                f32::NEG_INFINITY
            };
            search.run(index, selection, usize::MAX, f32::NEG_INFINITY, &mut take).unwrap();
            found
        };
        let of_deleted = has.iter().copied().filter(|row| deleted.contains(*row)).collect::<BTreeSet<_>>();
        assert_eq!(rows_found(&except(deleted)), &has - &of_deleted);
        assert_eq!(rows_found(&only(deleted)), of_deleted);
    }
    let words: BTreeSet<&str> = BTreeSet::from(["n128", "n384"]);
    let scores = scores(&layout, &parse("n128 n384"), None);
    let expected = oracle(&rows, &words);
    assert_eq!(scores.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
}

#[test]
fn equal_rows_give_equal_bytes() {
    let rows =
        (0..500).map(|row| vec![Some(WORDS[row * row % 8]), (row % 3 > 0).then_some("wing flow heat")]);
    let build = || build_text_index(2, &analyzer(), rows.clone(), usize::MAX).unwrap();
    assert_eq!(build(), build());
}

#[test]
fn truncated_bytes_are_rejected() {
    let rows = [vec![Some("wing"), None]];
    let bytes = build_text_index(2, &analyzer(), rows.into_iter(), usize::MAX).unwrap();
    for cut in [0, 7, 15, 40, bytes.len() / 2] {
        let bytes = bytes::Bytes::copy_from_slice(&bytes[..cut]);
        assert!(TextIndex::open(bytes).is_err(), "{cut}");
    }
}

#[test]
fn a_filter_selects_exactly_its_rows() {
    let rows: Vec<String> = (0..500).map(|i| format!("wing {}", ["flow", "heat"][i % 2])).collect();
    let texts = rows.iter().map(|row| vec![Some(row.as_str()), None]);
    let index = TextIndex::open(build_text_index(2, &analyzer(), texts, usize::MAX).unwrap().into()).unwrap();
    let only: RowSet = [3, 4, 77, 499].into_iter().collect();
    for text in ["wing heat", "+wing heat"] {
        let query = parse(text);
        let statistics = GlobalStatistics { rows: 500, tokens: vec![1000, 0], ..Default::default() };
        let search = TextSearch::new(&query, 2, &statistics);
        let mut rows = vec![];
        search
            .run(
                &index,
                &RowSelection::Only(Arc::new(only.clone())),
                usize::MAX,
                f32::NEG_INFINITY,
                &mut |hit| {
                    rows.push(hit.row);
                    f32::NEG_INFINITY
                },
            )
            .unwrap();
        assert_eq!(rows, [3, 4, 77, 499], "{text}");
    }
}

/// The text of a row with words of very different document frequencies, so that their postings have many
/// blocks with different bounds.
fn skewed_text(row: u64) -> String {
    let mut state = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let length = 1 + (next() * next() * 80.0) as usize;
    // Later rows have more frequent words.
    let skew = 1.0 + row as f64 / 6_000.0;
    (0..length).map(|_| format!("w{}", 400f64.powf(next().powf(skew)) as u64)).collect::<Vec<_>>().join(" ")
}

#[test]
fn skipping_blocks_does_not_change_the_top_k() {
    const ROWS: u64 = 6_000;
    let texts: Vec<String> = (0..ROWS).map(skewed_text).collect();
    let bytes =
        build_text_index(1, &analyzer(), texts.iter().map(|text| vec![Some(text.as_str())]), usize::MAX)
            .unwrap();
    let index = TextIndex::open(bytes.into()).unwrap();
    let parse = |query: &str| parse_query(query, Syntax::Strict, &[field("body", Some(1.0))]).unwrap();
    let sets: Vec<RowSet> = [1u32, 2, 7, 90, 1_500]
        .into_iter()
        .map(|share| (0..ROWS as u32).filter(|row| row.wrapping_mul(2_654_435_761) % share == 0).collect())
        .collect();
    for query in [
        "w1",
        "w2 w3",
        "w1 w30 w200",
        "w5^3 w7 w90 w1 w2",
        "w399 w1",
        "w1 absent w11",
        "w2 w2 w2",
        "w40 w50",
        "+w1 +w2",
        "+w40 +w3 +w1",
        "+w399 +w1",
        "\"w1 w2\"",
        "\"w3 w1 w1\"~2",
    ] {
        // The excluded word has no rows. It only makes the second query use cursors instead of block-max
        // bounds.
        let (block_max, plain) = (parse(query), parse(&format!("{query} -nowhere")));
        let counts = index.statistics(&RowSet::new());
        let frequencies = block_max.scored_terms().into_iter().map(|term| {
            let rows = index.document_frequency(term.field, &term.term, &RowSet::new()).unwrap();
            (term, rows)
        });
        let statistics = GlobalStatistics {
            rows: counts.rows,
            tokens: counts.tokens,
            document_frequencies: frequencies.collect(),
        };
        let best = |query: &TextQuery, selection: &RowSelection, k: usize| {
            let mut top = TopK::new(k);
            TextSearch::new(query, 1, &statistics)
                .run(&index, selection, k, f32::NEG_INFINITY, &mut |hit| top.push(hit.score, hit.row))
                .unwrap();
            let found = top.into_sorted().into_iter().map(|(score, row)| (score.to_bits(), row));
            found.collect::<BTreeSet<_>>()
        };
        for set in &sets {
            for selection in [only(set), except(set)] {
                for k in [1, 10, 300] {
                    assert_eq!(
                        best(&block_max, &selection, k),
                        best(&plain, &selection, k),
                        "{query}, {k} of {}",
                        set.len()
                    );
                }
            }
        }
    }
}
