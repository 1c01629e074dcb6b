//! Snippets: the part of a text that shows best why a query matches it.

use std::collections::BTreeSet;
use std::ops::Range;

use super::analyzer::Token;
use super::query::Highlights;
use super::{Analyzer, TextQuery};

/// Matching tokens of a text that are considered. The time is quadratic in their number.
const MATCHES_MAX: usize = 1_000;

/// A part of a text with the matches in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// The range in the text, in bytes.
    pub range: Range<usize>,
    /// The ranges of the matches in the text, in bytes. Ascending and without overlaps.
    pub highlights: Vec<Range<usize>>,
}

impl Snippet {
    /// The snippet as HTML, with the matches in `<b>`. `text` is the text that the snippet is from.
    pub fn to_html(&self, text: &str) -> String {
        let mut html = String::new();
        let mut at = self.range.start;
        for highlight in &self.highlights {
            escape(&text[at..highlight.start], &mut html);
            html.push_str("<b>");
            escape(&text[highlight.clone()], &mut html);
            html.push_str("</b>");
            at = highlight.end;
        }
        escape(&text[at..self.range.end], &mut html);
        html
    }
}

/// Appends a text with the special characters of HTML escaped.
fn escape(text: &str, html: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            letter => html.push(letter),
        }
    }
}

/// The best snippet of a text for a query in one field; `None` when nothing of the text matches.
///
/// It has at most `bytes_max` bytes, unless a single match is longer, and starts and ends with a token. The
/// best snippet has the most different terms, then the most matches, then the earliest position.
pub fn snippet(
    query: &TextQuery,
    field: usize,
    analyzer: &Analyzer,
    text: &str,
    bytes_max: usize,
) -> Option<Snippet> {
    let mut highlights = Highlights::default();
    query.collect_highlights(field, &mut highlights);
    let tokens = analyzer.tokens(text);
    let marks = highlights.marks(&tokens);
    let marked = tokens.iter().zip(marks).filter_map(|(token, is_marked)| is_marked.then_some(token));
    let matches: Vec<&Token> = marked.take(MATCHES_MAX).collect();
    let fits = |from: &Token, to: &Token| to.range.end - from.range.start <= bytes_max;
    let mut best: Option<((usize, usize), usize)> = None;
    for first in 0..matches.len() {
        let inside = matches[first..].iter().take_while(|token| fits(matches[first], token));
        let (mut terms, mut count) = (BTreeSet::new(), 0);
        for token in inside {
            terms.insert(&token.term);
            count += 1;
        }
        let rank = (terms.len(), count);
        if best.is_none_or(|(best_rank, _)| rank > best_rank) {
            best = Some((rank, first));
        }
    }
    let (_, first) = best?;
    let last = matches[first..].iter().take_while(|token| fits(matches[first], token)).last()?;
    // The remaining space is filled with whole tokens, half of it before the matches and the rest behind
    // them.
    let space = bytes_max.saturating_sub(last.range.end - matches[first].range.start);
    let start = tokens
        .iter()
        .map(|token| token.range.start)
        .find(|start| matches[first].range.start.saturating_sub(*start) <= space / 2)
        .unwrap_or(matches[first].range.start);
    let end = tokens
        .iter()
        .map(|token| token.range.end)
        .take_while(|end| end.saturating_sub(start) <= bytes_max || *end <= last.range.end)
        .last()
        .unwrap_or(last.range.end);
    let mut highlights: Vec<Range<usize>> = Vec::new();
    for token in matches.iter().filter(|t| t.range.start >= start && t.range.end <= end) {
        match highlights.last_mut() {
            // Tokens may overlap, as n-grams do.
            Some(last) if token.range.start < last.end => last.end = last.end.max(token.range.end),
            _ => highlights.push(token.range.clone()),
        }
    }
    Some(Snippet { range: start..end, highlights })
}

#[cfg(test)]
mod tests {
    use super::super::{QueryField, Syntax, parse_query};
    use super::*;

    #[test]
    fn the_snippet_has_the_most_different_terms() {
        let analyzer = Analyzer::named("en_stem").unwrap();
        let fields = [QueryField { name: "body".to_owned(), analyzer: analyzer.clone(), boost: Some(1.0) }];
        let query = parse_query("wing flutter", Syntax::Strict, &fields).unwrap();
        let text = "The wing is long. Nothing here of it & more, but wings that flutter <often> are there.";
        let found = snippet(&query, 0, &analyzer, text, 40).unwrap();
        assert_eq!(found.to_html(text), "more, but <b>wings</b> that <b>flutter</b> &lt;often&gt; are");
        assert!(snippet(&query, 0, &analyzer, "nothing", 40).is_none());
        for (text, expected) in [
            ("fluter~1", "swept <b>flutter</b> of wings"),
            ("f*ter", "swept <b>flutter</b> of wings"),
            ("\"of wings\"", "swept flutter <b>of</b> <b>wings</b>"),
            ("\"swept wings\"~2 flutter", "<b>swept</b> <b>flutter</b> of <b>wings</b>"),
            ("\"swept wings\" flutter", "swept <b>flutter</b> of wings"),
            ("body:/.*er|swe.*/", "<b>swept</b> <b>flutter</b> of wings"),
        ] {
            let query = parse_query(text, Syntax::Strict, &fields).unwrap();
            let text = "swept flutter of wings";
            assert_eq!(snippet(&query, 0, &analyzer, text, 40).unwrap().to_html(text), expected);
        }
        let whole = snippet(&query, 0, &analyzer, "ünd wing", 400).unwrap();
        assert_eq!(whole.to_html("ünd wing"), "ünd <b>wing</b>");
    }
}
