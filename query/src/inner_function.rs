//! What functions have in common that take the place of one of the engine, their `inner` one.

/// The methods that such a function has from its inner one, but for what it takes and computes.
macro_rules! inner_function {
    () => {
        fn name(&self) -> &str {
            self.inner.name()
        }

        fn aliases(&self) -> &[String] {
            self.inner.aliases()
        }

        fn return_type(&self, types: &[DataType]) -> Result<DataType> {
            self.inner.return_type(types)
        }

        fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
            let field = self.inner.return_field_from_args(args)?;
            $crate::type_limits::check_type(field.data_type())?;
            Ok(field)
        }

        fn short_circuits(&self) -> bool {
            self.inner.short_circuits()
        }

        fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
            self.inner.conditional_arguments(args)
        }

        fn documentation(&self) -> Option<&Documentation> {
            self.inner.documentation()
        }
    };
}
pub(crate) use inner_function;

/// The methods of a function that takes what its inner one takes.
macro_rules! inner_arguments {
    () => {
        fn signature(&self) -> &Signature {
            self.inner.signature()
        }

        fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
            self.inner.coerce_types(types)
        }

        fn is_strict(&self) -> bool {
            self.inner.inner().is_strict()
        }

        fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
            self.inner.simplify(args, info)
        }
    };
}
pub(crate) use inner_arguments;
