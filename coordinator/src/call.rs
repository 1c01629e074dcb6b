//! `CALL`: procedures that tend the cluster.

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Value};
use plexus_model::{Error, NodeId, Result};

/// What can be called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Procedure {
    /// `CALL plexus.remove_node(id)`: takes a node out of the cluster for good, once others have
    /// what it keeps.
    RemoveNode(NodeId),
}

/// The procedure that a statement calls, if it is a call.
pub fn procedure(statement: &Statement) -> Result<Option<Procedure>> {
    let Statement::Statement(statement) = statement else {
        return Ok(None);
    };
    let ast::Statement::Call(function) = statement.as_ref() else {
        return Ok(None);
    };
    match function.name.to_string().to_ascii_lowercase().as_str() {
        "plexus.remove_node" => node_argument(function).map(|node| Some(Procedure::RemoveNode(node))),
        _ => Err(Error::not_found(format!(
            "procedure {} does not exist; there is plexus.remove_node(node)",
            function.name
        ))),
    }
}

fn node_argument(function: &ast::Function) -> Result<NodeId> {
    let number = match &function.args {
        FunctionArguments::List(list) => match list.args.as_slice() {
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] => match &value.value {
                Value::Number(digits, _) => digits.parse().ok(),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    number
        .map(NodeId)
        .ok_or_else(|| Error::invalid(format!("{function}: {} takes the id of a node", function.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn calls_are_read_and_wrong_ones_say_what_is_wrong() {
        let called = |sql: &str| procedure(&parse::statement(sql).unwrap());
        assert_eq!(called("CALL plexus.remove_node(7)").unwrap(), Some(Procedure::RemoveNode(NodeId(7))));
        assert_eq!(called("SELECT 1").unwrap(), None);
        for sql in
            ["CALL plexus.remove_node()", "CALL plexus.remove_node('a')", "CALL plexus.remove_node(-1)"]
        {
            assert!(called(sql).unwrap_err().message().contains("takes the id of a node"), "{sql}");
        }
        assert!(called("CALL vacuum()").unwrap_err().message().contains("procedure vacuum does not exist"));
    }
}
