//! The part of a text that shows best why it was found.

use std::collections::BTreeSet;
use std::ops::Range;

use super::analyzer::Token;
use super::{Analyzer, TextQuery};

/// Words of a text that are looked at: each is compared with those after it.
const MARKS_MAX: usize = 1_000;

/// A part of a text, and what in it was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// Where it is in the text, in bytes.
    pub range: Range<usize>,
    /// Marked words, in bytes of the text.
    pub marks: Vec<Range<usize>>,
}

impl Snippet {
    /// As HTML, with the words that were looked for in `<b>`.
    pub fn to_html(&self, text: &str) -> String {
        let mut html = String::new();
        let mut at = self.range.start;
        for mark in &self.marks {
            escape(&text[at..mark.start], &mut html);
            html.push_str("<b>");
            escape(&text[mark.clone()], &mut html);
            html.push_str("</b>");
            at = mark.end;
        }
        escape(&text[at..self.range.end], &mut html);
        html
    }
}

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

/// The part of a text of at most `length` bytes, from a word on, with the most different words that a query looks for
/// in a field, and of those the most of them, and of those the first. `None` when it has none.
pub fn snippet(
    query: &TextQuery,
    field: usize,
    analyzer: &Analyzer,
    text: &str,
    length: usize,
) -> Option<Snippet> {
    let (mut exact, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
    query.marked(field, &mut exact, &mut prefixes);
    let tokens = analyzer.tokens(text);
    let wanted = |token: &&Token| {
        exact.contains(&token.term) || prefixes.iter().any(|p| token.term.starts_with(p.as_str()))
    };
    let marked: Vec<&Token> = tokens.iter().filter(wanted).take(MARKS_MAX).collect();
    let fits = |from: &Token, to: &Token| to.range.end - from.range.start <= length;
    let mut best: Option<((usize, usize), usize)> = None;
    for first in 0..marked.len() {
        let inside = marked[first..].iter().take_while(|token| fits(marked[first], token));
        let (mut terms, mut count) = (BTreeSet::new(), 0);
        for token in inside {
            terms.insert(&token.term);
            count += 1;
        }
        let worth = (terms.len(), count);
        if best.is_none_or(|(most, _)| worth > most) {
            best = Some((worth, first));
        }
    }
    let (_, first) = best?;
    let last = marked[first..].iter().take_while(|token| fits(marked[first], token)).last()?;
    // What room is left goes before and after it, in whole words.
    let room = length.saturating_sub(last.range.end - marked[first].range.start);
    let start = tokens
        .iter()
        .map(|token| token.range.start)
        .find(|start| marked[first].range.start.saturating_sub(*start) <= room / 2)
        .unwrap_or(marked[first].range.start);
    let end = tokens
        .iter()
        .map(|token| token.range.end)
        .take_while(|end| end.saturating_sub(start) <= length || *end <= last.range.end)
        .last()
        .unwrap_or(last.range.end);
    let mut marks: Vec<Range<usize>> = Vec::new();
    for token in marked.iter().filter(|t| t.range.start >= start && t.range.end <= end) {
        match marks.last_mut() {
            // Tokens may lie over each other, as n-grams do.
            Some(last) if token.range.start < last.end => last.end = last.end.max(token.range.end),
            _ => marks.push(token.range.clone()),
        }
    }
    Some(Snippet { range: start..end, marks })
}

#[cfg(test)]
mod tests {
    use super::super::parse_query;
    use super::*;

    #[test]
    fn the_part_with_the_most_words_is_shown() {
        let analyzer = Analyzer::named("en_stem").unwrap();
        let query = parse_query("wing flutter", &analyzer, &["body".to_owned()], &[(0, 1.0)]).unwrap();
        let text = "The wing is long. Nothing here of it & more, but wings that flutter <often> are there.";
        let found = snippet(&query, 0, &analyzer, text, 40).unwrap();
        assert_eq!(found.to_html(text), "more, but <b>wings</b> that <b>flutter</b> &lt;often&gt; are");
        assert!(snippet(&query, 0, &analyzer, "nothing", 40).is_none());
        let whole = snippet(&query, 0, &analyzer, "ünd wing", 400).unwrap();
        assert_eq!(whole.to_html("ünd wing"), "ünd <b>wing</b>");
    }
}
