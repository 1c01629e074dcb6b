//! TODO module docs.

/// The functions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Function {
    Vector,
    Text,
    Hybrid,
}

impl Function {
    pub const ALL: [Self; 3] = [Self::Vector, Self::Text, Self::Hybrid];

    pub fn name(self) -> &'static str {
        match self {
            Self::Vector => "vector_search",
            Self::Text => "text_search",
            Self::Hybrid => "hybrid_search",
        }
    }

    /// Arguments that are given by their place, in their order.
    pub fn positional(self) -> &'static [&'static str] {
        match self {
            Self::Vector => &["table", "column", "vector", "k"],
            Self::Text => &["table", "query", "k"],
            Self::Hybrid => &["table", "query", "vector", "k"],
        }
    }

    /// Arguments that are given by their name.
    pub fn named(self) -> &'static [&'static str] {
        match self {
            Self::Vector => &["filter", "offset", "group_by", "metric", "ef", "search_after", "queries"],
            Self::Text => &[
                "filter",
                "offset",
                "group_by",
                "columns",
                "index",
                "tokenizer",
                "highlight",
                "highlight_length",
                "search_after",
            ],
            Self::Hybrid => &[
                "filter",
                "offset",
                "group_by",
                "columns",
                "index",
                "tokenizer",
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
