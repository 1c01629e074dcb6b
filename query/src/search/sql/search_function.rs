//! The search functions, and the names of their arguments.

/// A search function of SQL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SearchFunction {
    /// `vector_search`: the rows whose vectors are nearest to a query vector.
    Vector,
    /// `text_search`: the rows that match a full-text query, ranked by BM25.
    Text,
    /// `hybrid_search`: full text and vectors, fused into one ranking.
    Hybrid,
    /// `text_suggest`: terms of a column.
    Suggest,
}

impl SearchFunction {
    /// All search functions.
    pub const ALL: [Self; 4] = [Self::Vector, Self::Text, Self::Hybrid, Self::Suggest];

    /// The name of the function in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vector => "vector_search",
            Self::Text => "text_search",
            Self::Hybrid => "hybrid_search",
            Self::Suggest => "text_suggest",
        }
    }

    /// Names of the positional arguments, in order.
    pub fn positional(self) -> &'static [&'static str] {
        match self {
            Self::Vector => &["table", "column", "vector", "k"],
            Self::Text => &["table", "query", "k"],
            Self::Hybrid => &["table", "query", "vector", "k"],
            Self::Suggest => &["table", "column", "text", "k"],
        }
    }

    /// Names of the arguments that must be given by name.
    pub fn named(self) -> &'static [&'static str] {
        match self {
            Self::Suggest => &["distance", "index", "tokenizer"],
            Self::Vector => &[
                "filter",
                "offset",
                "group_by",
                "group_size",
                "max_distance",
                "metric",
                "ef",
                "search_after",
                "queries",
                "positive",
                "negative",
                "diversity",
                "num_candidates",
            ],
            Self::Text => &[
                "filter",
                "offset",
                "group_by",
                "group_size",
                "min_score",
                "minimum_should_match",
                "columns",
                "index",
                "tokenizer",
                "strict",
                "highlight",
                "highlight_length",
                "search_after",
            ],
            Self::Hybrid => &[
                "filter",
                "offset",
                "group_by",
                "group_size",
                "min_score",
                "minimum_should_match",
                "columns",
                "index",
                "tokenizer",
                "strict",
                "highlight",
                "highlight_length",
                "search_after",
                "column",
                "metric",
                "ef",
                "fusion",
                "rrf_k",
                "normalization",
                "weights",
                "num_candidates",
            ],
        }
    }
}
