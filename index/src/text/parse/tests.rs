//! Queries and the trees that they become.

use proptest::prelude::*;

use super::*;

fn field(name: &str, analyzer: &str, boost: f32) -> QueryField {
    QueryField { name: name.to_owned(), analyzer: Analyzer::named(analyzer).unwrap(), boost: Some(boost) }
}

fn parse_as(text: &str, syntax: Syntax) -> Result<TextQuery> {
    parse_query(text, syntax, &[field("title", "en_stem", 2.0), field("body", "en_stem", 1.0)])
}

fn parse(text: &str) -> Result<TextQuery> {
    parse_as(text, Syntax::Strict)
}

fn body(text: &str, analyzer: &str, syntax: Syntax) -> Result<TextQuery> {
    parse_query(text, syntax, &[field("body", analyzer, 1.0)])
}

#[test]
fn each_form_of_query_is_parsed() {
    let both = |word: &str| disjunction(vec![term_query(0, word, 2.0), term_query(1, word, 1.0)]).unwrap();
    assert_eq!(parse("Wings").unwrap(), both("wing"));
    assert_eq!(parse("body:wings").unwrap(), term_query(1, "wing", 1.0));
    assert_eq!(parse("body:wings^3").unwrap(), term_query(1, "wing", 3.0));
    let clauses = |must, should, must_not| TextQuery::Bool { must, should, must_not };
    assert_eq!(
        parse("+body:wing body:high -body:low").unwrap(),
        clauses(
            vec![term_query(1, "wing", 1.0)],
            vec![term_query(1, "high", 1.0)],
            vec![term_query(1, "low", 1.0)]
        )
    );
    let phrase = |slop| TextQuery::Phrase {
        field: 1,
        terms: vec![(0, "wing".to_owned()), (1, "flutter".to_owned())],
        slop,
        boost: 1.0,
    };
    assert_eq!(parse("body:\"wing flutter\"").unwrap(), phrase(0));
    assert_eq!(parse("body:\"wing flutter\"~2").unwrap(), phrase(2));
    let prefix = TextQuery::Prefix { field: 1, prefix: "flut".to_owned(), boost: 1.0 };
    assert_eq!(parse("body:Flut*").unwrap(), prefix);
    let pattern = |prefix: &str, expression: &str| TextQuery::Pattern {
        field: 1,
        prefix: prefix.to_owned(),
        expression: expression.to_owned(),
        boost: 1.0,
    };
    assert_eq!(parse("body:Fl*er").unwrap(), pattern("fl", "fl.*er"));
    assert_eq!(parse("body:*ut?er").unwrap(), pattern("", ".*ut.er"));
    assert_eq!(parse("body:*ut*").unwrap(), pattern("", ".*ut.*"));
    assert_eq!(parse("body:/fl(a|u)tter/").unwrap(), pattern("", "fl(a|u)tter"));
    let fuzzy = TextQuery::Fuzzy { field: 1, term: "wing".to_owned(), distance: 2, boost: 1.0 };
    assert_eq!(parse("body:wing~2").unwrap(), fuzzy);
    assert_eq!(parse("").unwrap(), TextQuery::match_none());
}

#[test]
fn errors_name_the_problem_and_its_position() {
    for (text, expected) in [
        ("wing AND (flutter", "at character"),
        ("nocolumn:wing", "column \"nocolumn\" is not searched; title, body are"),
        ("wing-flut*", "single word"),
        ("wi*n-g", "single word"),
        ("body:/(/", "no regular expression"),
        ("wing~9", "from 1 to 2"),
        ("year:[1 TO 2]", "SQL filter"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.message().contains(expected), "{text}: {error}");
    }
    assert!(parse(&"(".repeat(10_000)).unwrap_err().message().contains("nested"));
    assert!(parse(&"a ".repeat(10_000)).unwrap_err().message().contains("bytes"));
}

#[test]
fn exclusions_work_beside_any_operator() {
    let alpha = || term_query(0, "alpha", 1.0);
    let beta = || term_query(0, "beta", 1.0);
    let both = TextQuery::Bool { must: vec![alpha()], should: vec![], must_not: vec![beta()] };
    assert_eq!(body("alpha AND NOT beta", "standard", Syntax::Strict).unwrap(), both);
    assert_eq!(body("+alpha -beta", "standard", Syntax::Strict).unwrap(), both);
    let others = TextQuery::Bool {
        must: vec![TextQuery::All { fields: vec![0], boost: 0.0 }],
        should: vec![],
        must_not: vec![beta()],
    };
    assert_eq!(body("-beta", "standard", Syntax::Strict).unwrap(), others);
}

#[test]
fn whatever_people_type_is_a_query() {
    let words = |words: &[&str]| disjunction(words.iter().map(|w| term_query(0, w, 1.0)).collect()).unwrap();
    for (text, expected) in [
        ("10:30", words(&["10", "30"])),
        ("http://a.org/b", words(&["http", "a", "org", "b"])),
        ("\"open quote", words(&["open", "quote"])),
        ("(alpha", words(&["alpha"])),
        ("alpha AND", words(&["alpha"])),
        ("wing?", words(&["wing"])),
        ("/usr/", words(&["usr"])),
        ("year:[1 TO 2]", disjunction(vec![words(&["year", "1"]), words(&["to"]), words(&["2"])]).unwrap()),
    ] {
        assert_eq!(body(text, "standard", Syntax::Lenient).unwrap(), expected, "{text}");
    }
    let asked = body("what of w?ng?", "standard", Syntax::Lenient).unwrap();
    assert!(matches!(asked, TextQuery::Bool { should, .. }
            if matches!(&should[2], TextQuery::Pattern { expression, .. } if expression == "w.ng")));
    let mixed = body("+alpha foo:bar \"wing flutter\"", "standard", Syntax::Lenient).unwrap();
    let TextQuery::Bool { must, should, .. } = mixed else { panic!("{mixed:?}") };
    assert_eq!((must, should.len()), (vec![term_query(0, "alpha", 1.0)], 2));
}

#[test]
fn each_field_has_its_own_analyzer() {
    let parse = |text: &str, syntax| {
        let fields = [
            field("code", "whitespace", 1.0),
            field("body", "en_stem", 1.0),
            field("grams", "ngram(2,2)", 1.0),
        ];
        parse_query(text, syntax, &fields[..if text.contains("g:") { 3 } else { 2 }])
    };
    let phrase = |terms: [&str; 2]| {
        let terms = (0..).zip(terms).map(|(at, term)| (at, term.to_owned())).collect();
        TextQuery::Phrase { field: 1, terms, slop: 0, boost: 1.0 }
    };
    let both = |first, second| disjunction(vec![first, second]).unwrap();
    assert_eq!(
        parse("AB-12", Syntax::Strict).unwrap(),
        both(term_query(0, "AB-12", 1.0), phrase(["ab", "12"]))
    );
    // A word of one field may be several of another, and is then no form there.
    let fuzzy = TextQuery::Fuzzy { field: 0, term: "AB-12".to_owned(), distance: 1, boost: 1.0 };
    assert_eq!(parse("AB-12~1", Syntax::Lenient).unwrap(), both(fuzzy, phrase(["ab", "12"])));
    assert!(parse("AB-12~1", Syntax::Strict).is_err());
    let prefix = TextQuery::Prefix { field: 0, prefix: "AB-1".to_owned(), boost: 1.0 };
    assert_eq!(parse("AB-1*", Syntax::Lenient).unwrap(), both(prefix, phrase(["ab", "1"])));
    assert!(parse("AB-1*", Syntax::Strict).is_err());
}

#[test]
fn words_keep_their_field_and_boost() {
    let words = |field, words: &[&str], boost| {
        disjunction(words.iter().map(|word| term_query(field, word, boost)).collect()).unwrap()
    };
    assert_eq!(parse_as("body:don't", Syntax::Lenient).unwrap(), words(1, &["don", "t"], 1.0));
    assert_eq!(parse_as("body:don't^3", Syntax::Lenient).unwrap(), words(1, &["don", "t"], 3.0));
    assert_eq!(body("don't^3", "standard", Syntax::Lenient).unwrap(), words(0, &["don", "t"], 3.0));
    assert_eq!(body("10:30", "standard", Syntax::Lenient).unwrap(), words(0, &["10", "30"], 1.0));
}

#[test]
fn a_minimum_is_one_of_words_and_not_of_fields() {
    let fields = [field("title", "standard", 1.0), field("body", "standard", 1.0)];
    let parse = |text: &str| {
        let options = QueryOptions { syntax: Syntax::Lenient, minimum: Some(MinimumShouldMatch::Count(2)) };
        parse_query(text, options, &fields).unwrap()
    };
    let word = |word: &str| disjunction(vec![term_query(0, word, 1.0), term_query(1, word, 1.0)]).unwrap();
    assert_eq!(parse("wing"), word("wing"));
    let two = |words: &[&str]| TextQuery::AtLeast {
        count: 2,
        queries: words.iter().map(|text| word(text)).collect(),
    };
    for text in ["wing gust flutter", "wing gust flutter AND"] {
        let expected = TextQuery::Bool {
            must: vec![two(&["wing", "gust", "flutter"])],
            should: vec![],
            must_not: vec![],
        };
        assert_eq!(parse(text), expected, "{text}");
    }
    let TextQuery::Bool { must, must_not, .. } = parse("+high wing gust -low") else { panic!() };
    assert_eq!((must, must_not), (vec![word("high"), two(&["wing", "gust"])], vec![word("low")]));
}

#[test]
fn prefixes_are_folded_as_words_are() {
    let prefix = |text: &str, analyzer| match body(text, analyzer, Syntax::Strict).unwrap() {
        TextQuery::Prefix { prefix, .. } => prefix,
        other => panic!("{other:?}"),
    };
    assert_eq!(prefix("Caf\u{e9}*", "ascii_folding"), "cafe");
    assert_eq!(prefix("Caf\u{e9}*", "standard"), "caf\u{e9}");
    assert_eq!(prefix("Ab*", "whitespace"), "Ab");
}

proptest! {
    #[test]
    fn every_text_is_a_lenient_query(text in "[a-c \"'~*?^:()+\\-\\[\\]{}/0-9ANDORT]{0,60}") {
        let _ = parse(&text);
        prop_assert!(parse_as(&text, Syntax::Lenient).is_ok());
    }
}
